"""The three programs of SOFIE's own talk, as they stand there but for the include, `Session s;` and the columns."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import sofie
from tests.emit.programs import STRICT
from tests.root.network import COLUMNS, against_root, network, python

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("needs_compiler")]

EVENTS = 1000
EVENT = "static_cast<float>((entry * (7 + k) + k) % 101) / 25.f - 2.f"
"""Column k of an entry."""


def columns() -> np.ndarray:
    """All events."""
    entry, k = np.arange(EVENTS)[:, None], np.arange(len(COLUMNS))[None, :]
    return (((entry * (7 + k) + k) % 101).astype(np.float32) / np.float32(25) - np.float32(2)).astype(np.float32)


def expected() -> np.ndarray:
    """The scores by ONNX Runtime."""
    model = network(batch="batch").SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"features": columns()})[0][:, 0]


def test_the_event_loop_of_plain_cpp(tmp_path: Path) -> None:
    """A session that the first program of the talk cannot make or call."""
    sofie.generate(network(), tmp_path, name="Model")
    (tmp_path / "main.cpp").write_text(f"""#include "Model.hxx"
#include <cstdio>

int main()
{{
   TMVA_SOFIE_Model::Session s;
   for (int entry = 0; entry < {EVENTS}; ++entry) {{
      std::vector<float> input(7);
      for (int k = 0; k < 7; ++k)
         input[static_cast<std::size_t>(k)] = {EVENT};
      std::vector<float> result = s.infer(input);
      if (result != s.infer(input.data()))
         return 1;
      std::printf("%.9g\\n", static_cast<double>(result[0]));
   }}
}}
""")
    subprocess.run(["g++", *STRICT, "-O2", "main.cpp", "-o", "main"], cwd=tmp_path, check=True)
    printed = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose(np.array(printed.split(), float), expected(), rtol=1e-5)


def test_the_interpreter_from_python(tmp_path: Path) -> None:
    """A header that Cling does not compile, or a numpy array that it does not take."""
    sofie.generate(network(), tmp_path, name="Model")
    np.save(tmp_path / "events.npy", columns())
    python(
        tmp_path,
        """import numpy as np
import ROOT

ROOT.gInterpreter.Declare('#include "Model.hxx"')
s = ROOT.TMVA_SOFIE_Model.Session()
scores = []
for input in np.load("events.npy"):
    result = s.infer(input)
    scores.append(result[0])
np.save("scores.npy", scores)

for wrong in (np.ones(7), np.ones(7, np.int32), np.ones(14, np.float32)[::2], [1.0] * 7):
    try:
        s.infer(wrong)
    except TypeError:
        continue
    raise SystemExit(f"{wrong!r} was taken")
vector = ROOT.std.vector["float"](3)
try:
    s.infer(vector)
except Exception as error:
    assert "has 3 elements, not 7" in str(error), error
else:
    raise SystemExit("a vector of 3 was taken")
""",
    )
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected(), rtol=1e-5)


DATA_FRAME = f"""
   ROOT::RDF::RNode df = ROOT::RDataFrame({EVENTS});
   const std::vector<std::string> columns = {{{", ".join(f'"{name}"' for name in COLUMNS)}}};
   for (unsigned k = 0; k < 7; ++k)
      df = df.Define(columns[k], [k](ULong64_t entry) {{ return {EVENT}; }}, {{"rdfentry_"}});
   const unsigned nslots = df.GetNSlots();
   auto scored = df.DefineSlot("DNN_Value", SofieFunctor<7, TMVA_SOFIE_higgs_model_dense::Session>(nslots), columns);
   auto h = scored.Histo1D("DNN_Value");
   auto mean = scored.Mean("DNN_Value");
   std::printf("%.17g %g\\n", *mean, h->GetEntries());
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_rdataframe_compiled(tmp_path: Path, threads: int) -> None:
    """A functor that RDataFrame does not take, or sessions that threads share."""
    sofie.generate(network(), tmp_path, name="higgs_model_dense")
    many = f"ROOT::EnableImplicitMT({threads});" if threads > 1 else ""
    (tmp_path / "main.cpp").write_text(f"""#include "higgs_model_dense.hxx"
#include <ROOT/RDataFrame.hxx>
#include <TH1D.h>
#include <cstdio>

int main()
{{
   {many}{DATA_FRAME}}}
""")
    subprocess.run(against_root("main.cpp", "main"), cwd=tmp_path, check=True)
    printed = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    mean, entries = map(float, printed.split())
    assert entries == EVENTS
    np.testing.assert_allclose(mean, expected().astype(float).mean(), rtol=1e-6)


def test_rdataframe_in_a_macro(tmp_path: Path) -> None:
    """What only a compiler takes, as objects with constructors at namespace scope."""
    sofie.generate(network(), tmp_path, name="higgs_model_dense")
    (tmp_path / "macro.hxx").write_text(f"""#include "higgs_model_dense.hxx"
#include <ROOT/RDataFrame.hxx>
#include <TH1D.h>
#include <cstdio>

void macro()
{{{DATA_FRAME}   std::fflush(stdout);
}}
""")
    printed = python(tmp_path, "import ROOT\nROOT.gInterpreter.Declare('#include \"macro.hxx\"')\nROOT.macro()\n")
    mean, entries = map(float, printed.split())
    assert entries == EVENTS
    np.testing.assert_allclose(mean, expected().astype(float).mean(), rtol=1e-6)

"""Models under the sanitizers of the emulation: no race, no missing barrier, no index beyond an array."""

from __future__ import annotations

from pathlib import Path

import pytest

import sofie
from sofie import pipeline
from tests import models
from tests.cuda_host.emulation import ADDRESS, HOST, THREAD, Build, compiled, run
from tests.emit.programs import FILES, assert_outputs, session_code

pytestmark = pytest.mark.usefixtures("needs_compiler")


@pytest.mark.parametrize("passes", [pipeline.GPU, f"{pipeline.GPU}{{least=1 cycles=0}}"], ids=["default", "apart"])
@pytest.mark.parametrize("build", [ADDRESS, THREAD], ids=["address", "thread"])
def test_no_sanitizer_reports(tmp_path: Path, build: Build, passes: str) -> None:
    """A barrier too few, an index past the end of a buffer, in merged kernels or in tiles and rows of their own."""
    made, feeds = {}, {}
    for name, make in models.ALL.items():
        made[name] = sofie.generate(make(), tmp_path, name=name, target="cuda", passes=passes)
        feeds[name] = models.feeds(make())
    body = "\n".join(f"   {{\n{session_code(made[name], feeds[name], name)}\n   }}" for name in made)
    includes = "".join(f'#include "{name}.cuh"\n' for name in made)
    program = compiled(tmp_path, f'#include "{HOST}"\n{includes}{FILES}\nint main()\n{{\n{body}\n}}\n', build)
    for seed in (0, 1):
        done = run(program, seed=seed)
        assert done.returncode == 0 and not done.stderr, done.stderr[:3000]
    for name in made:
        assert_outputs(made[name], models.ALL[name](), feeds[name], name)

"""Projects of others, built outside of the repository: find_package(sofie), packages, pkg-config."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import sofie
from sofie.compiler import Options, lower
from sofie.root import Functions
from tests import models

pytestmark = pytest.mark.usefixtures("needs_compiler")
needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")

MAIN = """#include "net.hxx"
#include <cstdio>

int main()
{
   SOFIE_net::Session session;
   const std::vector<float> x(7, 0.5f);
   for (const float y : session.infer(x))
      std::printf("%.9g\\n", static_cast<double>(y));
}
"""


def sofie_command(*arguments: object) -> str:
    """What the command line prints."""
    command = [sys.executable, "-c", "from sofie.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run(folder: Path, *command: object, **variables: str) -> str:
    """What a command prints, in a folder; the command `sofie` is that of this Python."""
    environment = os.environ | variables
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture
def executable(tmp_path: Path) -> Path:
    """A command `sofie`."""
    script = tmp_path / "bin" / "sofie"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom sofie.cli import main\nmain()\n")
    script.chmod(0o755)
    return script


def project(tmp_path: Path, call: str, seed: int = 0) -> Path:
    """A project of one program and one model."""
    folder = tmp_path / "project"
    folder.mkdir()
    onnx.save(models.mlp("batch", seed), folder / "mlp.onnx")
    (folder / "main.cpp").write_text(MAIN)
    (folder / "CMakeLists.txt").write_text(f"""cmake_minimum_required(VERSION 3.18)
project(analysis CXX)
find_package(sofie 0.1 REQUIRED)
{call}
add_executable(app main.cpp)
target_link_libraries(app PRIVATE net)
""")
    return folder


def expected(seed: int = 0) -> np.ndarray:
    """What ONNX Runtime says of the only event."""
    session = onnxruntime.InferenceSession(models.mlp(1, seed).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.full((1, 7), 0.5, np.float32)})[0].reshape(-1)


def configure(folder: Path, executable: Path) -> None:
    where = sofie_command("--cmakedir")
    run(folder, "cmake", "-B", "build", f"-Dsofie_DIR={where}", f"-DSOFIE_EXECUTABLE={executable}",
        "-DCMAKE_BUILD_TYPE=Release")  # fmt: skip


@needs_cmake
@pytest.mark.parametrize("weights", ["embed", "file"])
def test_a_fresh_project_builds_its_model_and_again_when_it_changes(
    tmp_path: Path, executable: Path, weights: str
) -> None:
    """A target that does not build, is not built again for a new model, or is built again for the same one."""
    folder = project(tmp_path, f"sofie_add_model(net mlp.onnx DIMS batch=1 WEIGHTS {weights} OPTIONS --cpu portable)")
    configure(folder, executable)
    run(folder, "cmake", "--build", "build")
    np.testing.assert_allclose(np.array(run(tmp_path, folder / "build" / "app").split(), float), expected(), rtol=1e-5)

    assert "Compiling the model" not in run(folder, "cmake", "--build", "build")
    onnx.save(models.mlp("batch", 5), folder / "mlp.onnx")
    assert "Compiling the model" in run(folder, "cmake", "--build", "build")
    np.testing.assert_allclose(np.array(run(tmp_path, folder / "build" / "app").split(), float), expected(5), rtol=1e-5)


@needs_cmake
@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("sofie_add_model(net no.onnx)", "there is no model"),
        ("sofie_add_model(net mlp.onnx NAME 3d-net)", "3d-net is no name for C++"),
        ("sofie_add_model(net mlp.onnx WEIGHTS inside)", "WEIGHTS is embed or file, not inside"),
        ("sofie_add_model(net mlp.onnx DIM batch=1)", "unknown arguments"),
    ],
)
def test_wrong_calls_stop_the_configuration(tmp_path: Path, executable: Path, call: str, sentence: str) -> None:
    """A mistake that shows only when the project is built, or never."""
    folder = project(tmp_path, call)
    where = sofie_command("--cmakedir")
    command = ["cmake", "-B", "build", f"-Dsofie_DIR={where}", f"-DSOFIE_EXECUTABLE={executable}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert sentence in " ".join(done.stderr.split())


def test_the_version_for_cmake_is_the_package_s() -> None:
    """find_package(sofie 0.2) that is answered by another version."""
    text = (Path(sofie_command("--cmakedir")) / "sofieConfigVersion.cmake").read_text()
    found = re.search(r'PACKAGE_VERSION "(.*)"', text)
    assert found is not None and found[1] == sofie.__version__


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package, moved away from where it was written."""
    folder = tmp_path_factory.mktemp("package")
    onnx.save(models.mlp("batch"), folder / "mlp.onnx")
    sofie_command("package", folder / "mlp.onnx", "-o", folder / "made", "--name", "net", "--dim", "batch=1..8",
                  "--version", "2.1")  # fmt: skip
    return (folder / "made").rename(folder / "moved")


C_MAIN = """#include "net.h"
#include <stdio.h>

int main(void)
{
   float x[7], y[5];
   int k;
   SOFIE_net_session *session = SOFIE_net_new(NULL), *other = SOFIE_net_copy(session);
   for (k = 0; k < 7; ++k)
      x[k] = 0.5f;
   if (SOFIE_net_infer(other, 1, x, y) != 0)
      return 1;
   for (k = 0; k < 5; ++k)
      printf("%.9g\\n", (double)y[k]);
   SOFIE_net_delete(other);
   if (SOFIE_net_infer(session, 9, x, y) != -1 || SOFIE_net_new("/none.dat") != NULL)
      return 2;
   fprintf(stderr, "%s", SOFIE_net_error());
   SOFIE_net_delete(session);
   return 0;
}
"""


@pytest.mark.skipif(shutil.which("pkg-config") is None or shutil.which("gcc") is None, reason="needs gcc, pkg-config")
def test_c_by_pkg_config(tmp_path: Path, prefix: Path) -> None:
    """A header that C does not take, flags that do not find the library, or a failure that is not told."""
    (tmp_path / "main.c").write_text(C_MAIN)
    flags = run(tmp_path, "pkg-config", "--cflags", "--libs", "net", PKG_CONFIG_PATH=str(prefix / "lib/pkgconfig"))
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    run(tmp_path, "gcc", *strict, "main.c", "-o", "main", *flags.split())
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.array(done.stdout.split(), float), expected(), rtol=1e-5)
    assert "weights file '/none.dat' does not exist" in done.stderr


@needs_cmake
@pytest.mark.parametrize("target", ["net", "header"])
def test_find_package_of_a_package_needs_no_sofie(tmp_path: Path, prefix: Path, target: str) -> None:
    """A package that is found only where SOFIE is, or whose targets do not build."""
    if target == "net":
        (tmp_path / "main.cpp").write_text(C_MAIN)
    else:
        (tmp_path / "main.cpp").write_text(MAIN.replace("infer(x)", "infer(1, x)"))
    (tmp_path / "CMakeLists.txt").write_text(f"""cmake_minimum_required(VERSION 3.16)
project(analysis CXX)
find_package(net 2 REQUIRED)
add_executable(app main.cpp)
target_link_libraries(app PRIVATE net::{target})
""")
    run(tmp_path, "cmake", "-B", "build", f"-DCMAKE_PREFIX_PATH={prefix}", PATH="/usr/bin:/bin")
    run(tmp_path, "cmake", "--build", "build", PATH="/usr/bin:/bin")
    printed = run(tmp_path, tmp_path / "build" / "app").split()
    np.testing.assert_allclose(np.array(printed, float), expected(), rtol=1e-5)


def test_the_wheel_is_a_module_of_numpy(tmp_path: Path, prefix: Path) -> None:
    """A wheel that pip refuses, that needs SOFIE, or a call that passes wrong shapes, sizes or types on."""
    (wheel,) = prefix.glob("net-2.1-*.whl")
    run(tmp_path, sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", "site", wheel)
    (tmp_path / "script.py").write_text("""import sys
import numpy as np
import net

session = net.Session()
assert not any(name.startswith(("sofie", "onnx", "xdsl")) for name in sys.modules)
x = np.full((3, 7), 0.5)
y = session(x)
assert y.shape == (3, 5) and y.dtype == np.float32, y
assert (session(x=x) == y).all() and (y[0] == y[2]).all()
print(*y[0])
for wrong, sentence in (
    ((np.ones((9, 7)),), "must be from 1 to 8, not 9"),
    ((np.ones((2, 6)),), "has shape (2, 6), not (2, 7)"),
    ((np.ones(7),), "has 1 dimensions, not 2"),
    ((np.ones((2, 7), complex),), "is complex128, not float32"),
    ((), "the model takes x"),
):
    try:
        session(*wrong)
    except ValueError as error:
        assert sentence in str(error), error
    else:
        raise SystemExit(sentence)
try:
    net.Session("none.dat")
except RuntimeError as error:
    assert "does not exist" in str(error)
""")
    command = [sys.executable, "-I", "-c", "import sys; sys.path.insert(0, 'site'); exec(open('script.py').read())"]
    printed = run(tmp_path, *command)
    np.testing.assert_allclose(np.array(printed.split(), float), expected(), rtol=1e-5)


def test_only_the_functions_of_the_interface_are_visible(prefix: Path) -> None:
    """Two packages in one process that see each other's symbols."""
    printed = run(prefix, "nm", "-D", "--defined-only", "lib/libnet.so")
    assert {line.split()[-1].split("_")[0] for line in printed.splitlines()} == {"SOFIE"}


def test_retrained_weights_need_no_new_code(tmp_path: Path) -> None:
    """Weights of another structure that are written all the same, or ones that the header refuses."""
    onnx.save(models.mlp("batch"), tmp_path / "old.onnx")
    onnx.save(models.mlp("batch", 5), tmp_path / "new.onnx")
    other = models.mlp("batch")
    next(node for node in other.graph.node if node.op_type == "Relu").op_type = "Tanh"
    onnx.save(other, tmp_path / "other.onnx")
    sofie_command("compile", tmp_path / "old.onnx", "-o", tmp_path, "--name", "net", "--dim", "batch=1", "--without",
                  "fuse-elementwise")  # fmt: skip
    (tmp_path / "main.cpp").write_text(MAIN)
    run(tmp_path, "g++", "-std=c++17", "main.cpp", "-o", "main")
    said = sofie_command("weights", tmp_path / "new.onnx", "--for", tmp_path / "net.hxx")
    assert "weights for net.hxx" in said
    np.testing.assert_allclose(np.array(run(tmp_path, "./main").split(), float), expected(5), rtol=1e-5)

    before = (tmp_path / "net.dat").read_bytes()
    for model, sentence in (("other.onnx", "does not have the structure"), ("main.cpp", "cannot be read as an ONNX")):
        with pytest.raises(subprocess.CalledProcessError) as raised:
            sofie_command("weights", tmp_path / model, "--for", tmp_path / "net.hxx", "--debug")
        assert sentence in raised.value.stderr
    assert (tmp_path / "net.dat").read_bytes() == before


def chain(order: str) -> onnx.ModelProto:
    """x times matrices A and B, in an order."""
    nodes = [helper.make_node("MatMul", [f"x{k}", name], [f"x{k + 1}"]) for k, name in enumerate(order)]
    matrices = {name: models.normal(4, 4, seed=k) for k, name in enumerate("AB")}
    return models.build(nodes, {"x0": [1, 4]}, [f"x{len(order)}"], matrices)


def test_the_same_kernels_and_weights_in_another_order_are_another_model(tmp_path: Path) -> None:
    """Weights for a header that gives them to other kernels, or one namespace in ROOT's interpreter for two models."""
    onnx.save(chain("ABA"), tmp_path / "one.onnx")
    onnx.save(chain("ABB"), tmp_path / "other.onnx")
    sofie_command("compile", tmp_path / "one.onnx", "-o", tmp_path, "--name", "net")
    with pytest.raises(subprocess.CalledProcessError) as raised:
        sofie_command("weights", tmp_path / "other.onnx", "--for", tmp_path / "net.hxx", "--debug")
    assert "does not have the structure" in raised.value.stderr
    spaces = {Functions(lower(chain(word), "net", Options())).namespace for word in ("ABA", "ABA", "ABB")}
    assert len(spaces) == 2

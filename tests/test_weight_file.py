"""The weight file, from Python's writer to the two readers that did not write it: safetensors' and the C++ loader's."""

import json
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from sofie.weight_file import Tensors, WeightFile, WeightFileError, encode, plan, read, write

LOADER = Path(__file__).resolve().parents[1] / "sofie" / "emit" / "weights.hxx"
COMPILERS = [name for name in ("g++", "clang++", "clang++-14") if shutil.which(name)][:2]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="no C++ compiler on this machine")

LAYOUT = "0123456789abcdef" * 4
OTHER_LAYOUT = "f" + LAYOUT[1:]

HOSTILE_NAMES = [
    "",
    "__metadata__",
    "___metadata__",
    "__pad_0__",
    "___pad_0__",
    "__pad_1__",
    '"},"x":{',
    "back\\slash",
    "new\nline and \x00 and \x7f",
    "Gewicht \N{GREEK SMALL LETTER OMEGA} \N{GRINNING FACE}",
    "../../etc/passwd",
    "*/ } #include",
    "a" * 3000,
]

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()


def some_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    tensors = {
        f"tensor of {dtype}": random.integers(0, 2, (3, index + 1)).astype(dtype) for index, dtype in enumerate(DTYPES)
    }
    tensors["scalar"] = np.array(2.5, np.float32)
    tensors["empty"] = np.empty((0, 7), np.float32)
    tensors["another empty"] = np.empty((2, 0), np.int64)
    tensors["transposed"] = np.arange(6, dtype=np.float32).reshape(2, 3).T
    tensors["big-endian"] = np.array([1, 2, 3], ">i4")
    return tensors


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("<")
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)


# The format


def test_every_dtype_shape_and_byte_order_survives(tmp_path: Path) -> None:
    """A weight changes value, shape or type on its way through the file."""
    write(tmp_path / "m.dat", some_tensors(), LAYOUT)
    assert_same(read(tmp_path / "m.dat"), some_tensors())


def test_bfloat16_survives(tmp_path: Path) -> None:
    """bfloat16 weights are refused, or come back as something else."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    weights = {"w": np.array([1, -2.5, 3e38], ml_dtypes.bfloat16), "w as integers": np.array([1, 2], np.uint16)}
    write(tmp_path / "m.dat", weights, LAYOUT)
    assert_same(read(tmp_path / "m.dat"), weights)


@pytest.mark.parametrize("count", range(len(HOSTILE_NAMES) + 1))
def test_hostile_names_survive(tmp_path: Path, count: int) -> None:
    """A tensor's name breaks the JSON, or takes the place of the metadata or of padding."""
    weights = {name: np.full(index + 1, index, np.int8) for index, name in enumerate(HOSTILE_NAMES[:count])}
    file = write(tmp_path / "m.dat", weights, LAYOUT)
    assert file.header[8:].isascii()
    assert_same(read(tmp_path / "m.dat"), weights)


def test_safetensors_reads_the_file(tmp_path: Path) -> None:
    """Tools of the safetensors family cannot open a model's weights."""
    reader = pytest.importorskip("safetensors.numpy")
    weights = some_tensors() | {name: np.full(3, 7, np.float32) for name in HOSTILE_NAMES}
    write(tmp_path / "m.dat", weights, LAYOUT)
    found = reader.load_file(tmp_path / "m.dat")
    for name, array in weights.items():
        stored = "_" + name if "__metadata__" in name or "__pad_" in name else name
        assert np.array_equal(found.pop(stored), array)
    assert all(name.startswith("__pad_") and not array.any() for name, array in found.items())


def test_every_tensor_is_aligned_where_the_plan_says(tmp_path: Path) -> None:
    """Aligned loads fault, or a kernel reads another tensor than its own."""
    file = write(tmp_path / "m.dat", some_tensors(), LAYOUT)
    content = (tmp_path / "m.dat").read_bytes()
    assert len(content) == file.size
    assert len(file.header) % 64 == 0
    assert content.startswith(file.header)
    for name, array in some_tensors().items():
        assert file.offsets[name] % 64 == 0
        little = array.astype(array.dtype.newbyteorder("<")).tobytes()
        assert content[file.offsets[name] :][: len(little)] == little


def test_plan_encode_and_write_agree_and_are_deterministic(tmp_path: Path) -> None:
    """An embedded model differs from its file, or two builds of one model differ."""
    file = write(tmp_path / "m.dat", some_tensors(), LAYOUT)
    assert plan(some_tensors(), LAYOUT) == plan(list(some_tensors().items()), LAYOUT) == file
    assert encode(some_tensors(), LAYOUT) == (tmp_path / "m.dat").read_bytes()


def test_the_metadata_comes_first_in_its_fixed_form() -> None:
    """The C++ loader, which compares text, refuses an intact file."""
    header = plan({"w": np.zeros(2, np.float32)}, LAYOUT).header
    assert int.from_bytes(header[:8], "little") == len(header) - 8
    checksum = json.loads(header[8:])["__metadata__"]["checksum"]
    assert header[8:].startswith(
        f'{{"__metadata__":{{"checksum":"{checksum}","layout":"{LAYOUT}"}},'
        '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.encode()
    )


def test_a_model_without_weights_has_a_file_that_is_all_header(tmp_path: Path) -> None:
    """A model without initialisers cannot be built."""
    file = write(tmp_path / "m.dat", {}, LAYOUT)
    assert file == WeightFile((tmp_path / "m.dat").read_bytes(), {}, len(file.header))
    assert read(tmp_path / "m.dat") == {}


@pytest.mark.parametrize(
    ("tensors", "layout", "message"),
    [
        ([("w", np.zeros(1)), ("w", np.zeros(1))], LAYOUT, "'w' is given twice"),
        ({"w": np.zeros(1, np.complex64)}, LAYOUT, "'w' has dtype complex64"),
        ({"w": np.array(["text"])}, LAYOUT, "'w' has dtype"),
        ({"\ud800": np.zeros(1)}, LAYOUT, "not valid Unicode"),
        ({}, "f" * 63, "64 lower-case hex digits"),
        ({}, "F" * 64, "64 lower-case hex digits"),
        ({}, "f" * 64 + "\n", "64 lower-case hex digits"),
    ],
)
def test_what_cannot_be_stored_is_refused(tensors: Tensors, layout: str, message: str) -> None:
    """A file is written that nothing can read back."""
    with pytest.raises(WeightFileError, match=message):
        encode(tensors, layout)


# Python's reader and writer


def test_python_refuses_every_truncation_and_every_damaged_byte(tmp_path: Path) -> None:
    """Damaged weights are used without a word."""
    path = tmp_path / "m.dat"
    content = encode({"w": np.arange(5, dtype=np.float32), "b": np.ones(2, np.int8)}, LAYOUT)
    layout_at = content.index(LAYOUT.encode())
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(WeightFileError):
            read(path)
    for position in set(range(len(content))) - set(range(layout_at, layout_at + len(LAYOUT))):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x20]) + content[position + 1 :])
        with pytest.raises(WeightFileError):
            read(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(WeightFileError, match=f"m.dat' is too long: {len(content) + 1:,} of {len(content):,} bytes"):
        read(path)


def test_python_names_a_missing_file(tmp_path: Path) -> None:
    """The user is not told which file to look for."""
    with pytest.raises(WeightFileError, match=r"^weights file '.*absent\.dat' cannot be read: No such file"):
        read(tmp_path / "absent.dat")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or an interrupt destroys the weights that were there."""
    write(tmp_path / "m.dat", {"w": np.zeros(3)}, LAYOUT)
    before = (tmp_path / "m.dat").read_bytes()

    def full_disk(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "m.dat", {"w": np.ones(3)}, LAYOUT)
    assert (tmp_path / "m.dat").read_bytes() == before
    assert os.listdir(tmp_path) == ["m.dat"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """Weights written by one user cannot be read by the next, as temporary files cannot."""
    (tmp_path / "plain").touch()
    write(tmp_path / "m.dat", {}, LAYOUT)
    assert stat.S_IMODE((tmp_path / "m.dat").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


# The C++ loader

PROGRAM = r"""
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif
#include <chrono>
#include <fstream>
#include <iostream>
#include <type_traits>

// How the file is reached: mapped, or read where it cannot be mapped, or by <cstdio> where there is no POSIX.
#if defined(FAILING_MMAP)
static void *failing_mmap(void *, std::size_t, int, int, int, long) { return MAP_FAILED; }
#define mmap failing_mmap
#elif defined(STDIO)
#undef __unix__
#undef __APPLE__
#endif

namespace model {
namespace detail {
@CONSTANTS@
}
#include LOADER
}
using model::Weights;
static_assert(!std::is_convertible<std::string, Weights>::value, "");
static_assert(std::is_nothrow_move_constructible<Weights>::value, "");
static_assert(noexcept(std::declval<const Weights &>().data()), "");

static std::string sentence(const std::string &file)
{
   try {
      const Weights weights(file);
   } catch (const std::runtime_error &error) {
      return error.what();
   }
   return "";
}

static void store(const std::string &file, const std::string &content)
{
   std::ofstream(file, std::ios::binary | std::ios::trunc) << content;
}

int main(int, char **arguments)
{
   const std::string action = arguments[1], file = arguments[2];
   if (action == "load") { // the sentence, or the data
      const std::string problem = sentence(file);
      if (!problem.empty()) {
         std::cout << problem;
         return 1;
      }
      auto original = std::make_unique<Weights>(file);
      const Weights copy = *original;
      original.reset();
      if (reinterpret_cast<std::uintptr_t>(copy.data()) % 64 != 0)
         return 2;
      std::cout.write(reinterpret_cast<const char *>(copy.data()), model::detail::weight_file_bytes);
   } else if (action == "damage") { // prints what was let through
      std::ifstream stream(file, std::ios::binary);
      const std::string intact((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
      const std::string damaged = file + ".damaged";
      for (std::size_t length = 0; length < intact.size(); ++length) {
         store(damaged, intact.substr(0, length));
         if (sentence(damaged).empty())
            std::cout << "truncated to " << length << "\n";
      }
      for (std::size_t at = 0; at < intact.size(); ++at)
         for (const char flip : {'\x01', '\x20', '\x7f'}) {
            std::string content = intact;
            content[at] = static_cast<char>(content[at] ^ flip);
            store(damaged, content);
            if (sentence(damaged).empty())
               std::cout << "byte " << at << " flipped\n";
         }
      store(damaged, intact + '\0');
      if (sentence(damaged).empty())
         std::cout << "one byte longer\n";
   } else if (action == "embedded") {
#if defined(SOFIE_EMBEDDED_WEIGHTS)
      const Weights weights;
      std::cout.write(reinterpret_cast<const char *>(weights.data()), model::detail::weight_file_bytes);
#endif
   } else { // bytes per nanosecond of the checksum
      const std::string content(1 << 24, 'x');
      const auto start = std::chrono::steady_clock::now();
      const auto crc = model::detail::crc32(reinterpret_cast<const unsigned char *>(content.data()), content.size());
      const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
      std::cout << static_cast<double>(content.size()) / time.count() << " " << crc;
   }
}
"""

ABSENT = (
    "does not exist, nor is it in a folder of SOFIE_WEIGHTS_PATH or beside its header; "
    "put the one SOFIE wrote for small there, or pass its path"
)
BACKENDS = {"mapped": [], "read": ["-DFAILING_MMAP"], "stdio": ["-DSTDIO"]}
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wpedantic", "-Wconversion", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def weights_of_a_small_model() -> dict[str, np.ndarray]:
    return {"w": np.arange(10, dtype=np.float32), "b": np.ones(3, np.float32)}


def build(
    folder: Path, content: bytes, *flags: str, compiler: str = "", embedded: bool = False, layout: str = LAYOUT
) -> Path:
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    constants = [
        'inline constexpr char model_name[] = "small";',
        'inline constexpr char weight_file[] = "small.dat";',
        f"constexpr std::size_t weight_file_bytes = {len(content)};",
        f"constexpr std::size_t weight_header_bytes = {header_bytes};",
        f'constexpr char weight_layout[] = "{layout}";',
    ]
    if embedded:
        flags = (*flags, "-DSOFIE_EMBEDDED_WEIGHTS")
        array = ",".join(map(str, content))
        constants.append(f"alignas(64) inline const unsigned char embedded_weights[{len(content)}] = {{{array}}};")
    (folder / "program.cpp").write_text(PROGRAM.replace("@CONSTANTS@", "\n".join(constants)))
    command = [compiler or COMPILERS[0], "-std=c++17", *flags, *WARNINGS, f'-DLOADER="{LOADER}"']
    command += ["program.cpp", "-o", "program"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "program"


def run(program: Path, action: str, file: object = "") -> tuple[int, bytes]:
    done = subprocess.run([str(program), action, str(file)], cwd=program.parent, capture_output=True)
    assert not done.stderr, done.stderr.decode()[-4000:]
    return done.returncode, done.stdout


def weights_of_a_larger_model() -> dict[str, np.ndarray]:
    return weights_of_a_small_model() | {"long": np.zeros(300)}


@pytest.fixture(scope="module")
def larger_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("larger"), encode(weights_of_a_larger_model(), LAYOUT), "-O2")


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS or ["g++"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loader_refuses_every_truncation_and_every_flipped_byte(
    tmp_path: Path, backend: str, compiler: str
) -> None:
    """A model computes with damaged weights, or reads outside of its file while checking it."""
    write(tmp_path / "small.dat", weights_of_a_small_model(), LAYOUT)
    content = (tmp_path / "small.dat").read_bytes()
    program = build(tmp_path, content, "-O1", *SANITIZERS, *BACKENDS[backend], compiler=compiler)
    assert run(program, "load", tmp_path / "small.dat") == (0, content)
    assert run(program, "damage", tmp_path / "small.dat") == (0, b"")


@needs_compiler
def test_retrained_weights_load_and_another_models_do_not(tmp_path: Path, larger_model: Path) -> None:
    """Retraining needs a rebuild, or a model runs on weights that mean something else."""
    retrained = {name: array + 1 for name, array in weights_of_a_larger_model().items()}
    write(tmp_path / "new.dat", retrained, LAYOUT)
    assert run(larger_model, "load", tmp_path / "new.dat") == (0, (tmp_path / "new.dat").read_bytes())
    write(tmp_path / "other.dat", retrained, OTHER_LAYOUT)
    assert run(larger_model, "load", tmp_path / "other.dat")[0] == 1


@needs_compiler
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent.dat", ABSENT),
        ("folder", "is not a regular file"),
        ("text.dat", "is not a SOFIE weights file; pass the one SOFIE wrote for small"),
        ("other.dat", "belongs to another model or another version of this one; pass the one SOFIE wrote for small"),
        ("short.dat", "is truncated: 100 of @SIZE@ bytes; copy it again from where SOFIE wrote it"),
        ("one short.dat", "is truncated: @ONE SHORT@ of @SIZE@ bytes; copy it again from where SOFIE wrote it"),
        ("empty.dat", "is truncated: 0 of @SIZE@ bytes; copy it again from where SOFIE wrote it"),
        ("long.dat", "is longer than its @SIZE@ bytes; copy it again from where SOFIE wrote it"),
        ("flipped.dat", "is corrupt: its bytes do not match its checksum; copy it again from where SOFIE wrote it"),
        ("length.dat", "is corrupt: its header has the wrong length; copy it again from where SOFIE wrote it"),
    ],
)
def test_the_sentence_names_the_file_the_fault_and_the_remedy(
    tmp_path: Path, larger_model: Path, name: str, sentence: str
) -> None:
    """The user learns that loading failed, but not what to do."""
    content = encode(weights_of_a_larger_model(), LAYOUT)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.dat").write_text("weights " * 100)
    write(tmp_path / "other.dat", {"w": np.zeros(1)}, OTHER_LAYOUT)
    (tmp_path / "short.dat").write_bytes(content[:100])
    (tmp_path / "one short.dat").write_bytes(content[:-1])
    (tmp_path / "empty.dat").touch()
    (tmp_path / "long.dat").write_bytes(content + b"x")
    (tmp_path / "flipped.dat").write_bytes(content[:-1] + b"x")
    (tmp_path / "length.dat").write_bytes(b"\0" * 8 + content[8:])
    code, said = run(larger_model, "load", tmp_path / name)
    sentence = sentence.replace("@SIZE@", f"{len(content):,}").replace("@ONE SHORT@", f"{len(content) - 1:,}")
    assert (code, said.decode()) == (1, f"weights file '{tmp_path / name}' {sentence}")


@needs_compiler
def test_a_model_without_weights_loads(tmp_path: Path) -> None:
    """A model without initialisers compiles, and then fails to start."""
    content = encode({}, LAYOUT)
    (tmp_path / "none.dat").write_bytes(content)
    program = build(tmp_path, content, "-O1", *SANITIZERS)
    assert run(program, "load", "none.dat") == (0, content)
    assert run(program, "damage", "none.dat") == (0, b"")


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS or ["g++"])
def test_embedded_weights_need_no_file_and_accept_one(tmp_path: Path, compiler: str) -> None:
    """An embedded model asks for a file, or cannot be given retrained weights."""
    write(tmp_path / "small.dat", weights_of_a_small_model(), LAYOUT)
    content = (tmp_path / "small.dat").read_bytes()
    program = build(tmp_path, content, "-O1", *SANITIZERS, compiler=compiler, embedded=True)
    assert run(program, "embedded") == (0, content)
    write(tmp_path / "new.dat", {name: array * 2 for name, array in weights_of_a_small_model().items()}, LAYOUT)
    assert run(program, "load", "new.dat") == (0, (tmp_path / "new.dat").read_bytes())
    assert run(program, "damage", "small.dat") == (0, b"")


@needs_compiler
def test_the_checksum_is_no_slower_than_a_disk(larger_model: Path) -> None:
    """Starting a large model takes seconds more than reading its file."""
    fastest = 0.0
    deadline = time.monotonic() + 2
    while fastest < 1.0 and time.monotonic() < deadline:
        fastest = max(fastest, float(run(larger_model, "speed")[1].split()[0]))
    assert fastest >= 0.5, f"{fastest} GB/s"  # 1.5 GB/s and more on an idle machine

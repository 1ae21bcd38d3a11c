"""A model as a package for others: a shared library with a C interface, and a wheel that needs numpy alone.

    DIR/include/model.h             the C interface
    DIR/include/model.hxx           the C++ header, weights inside
    DIR/lib/libmodel.so             needs nothing but the C library
    DIR/lib/pkgconfig/model.pc      cc `pkg-config --cflags --libs model`
    DIR/lib/cmake/model/modelConfig.cmake    find_package(model): targets model::model and, header only, model::header
    DIR/model-1.0-py3-none-linux_x86_64.whl  import model; model.Session()(x)

The folder may be moved as a whole. Nothing of it needs Python or SOFIE when a project is built with it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sofie import __version__, jit
from sofie.compiler import Options, Progress, Source, default_name, lower
from sofie.emit.c_interface import c_header, c_source
from sofie.emit.cpp import Program
from sofie.emit.sources import source as text_of
from sofie.errors import SofieError, printable
from sofie.files import write

_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?")


@dataclass(frozen=True)
class Package:
    """The files of a package."""

    program: Program
    library: Path
    wheel: Path
    files: list[Path]


def package(
    source: Source,
    folder: str | Path,
    options: Options,
    name: str | None = None,
    version: str = "1.0",
    progress: Progress | None = None,
) -> Package:
    """Writes a model as a package into `folder`. Raises SofieError on what cannot be built or written."""
    if options.target != "cpu" or options.blas != "none":
        raise SofieError("a package is of code for CPUs that needs no library: leave out --target and --blas")
    if not _VERSION.fullmatch(version):
        raise SofieError(f"--version {printable(version)}: write it as in 1.0 or 2.1.post3")
    program = lower(source, name or default_name(source), options, progress)
    if progress is not None:
        progress("compile the library")
    ending = ".dylib" if sys.platform == "darwin" else ".so"
    header, declarations = program.header(embed=True), c_header(program)
    target = Path(folder)
    library = f"lib{program.name}{ending}"
    built = _build(program, library, header, declarations)
    contents = {
        f"include/{program.name}.h": declarations.encode(),
        f"include/{program.name}.hxx": header.encode(),
        f"lib/{library}": built,
        f"lib/pkgconfig/{program.name}.pc": _PKG_CONFIG.format(name=program.name, version=version).encode(),
        f"lib/cmake/{program.name}/{program.name}Config.cmake": _cmake(program, library).encode(),
        f"lib/cmake/{program.name}/{program.name}ConfigVersion.cmake": _cmake_version(version).encode(),
    }
    wheel_name, wheel = _wheel(program, version, library, built)
    contents[wheel_name] = wheel
    files = []
    for path, content in contents.items():
        place = target / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SofieError(f"the folder {printable(str(place.parent))!r} cannot be made: {error.strerror}") from error
        write(place, content)
        files.append(place)
    return Package(program, target / "lib" / library, target / wheel_name, files)


def _build(program: Program, library: str, header: str, declarations: str) -> bytes:
    """The shared library. Raises SofieError on what the compiler says."""
    flags = ["-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-w", f"-D{_EXPORT}"]
    flags += ["-pthread"] * (program.threads > 1)
    if sys.platform.startswith("linux"):
        # those of the C++ library would stay visible otherwise
        exports = jit.cache_folder() / "exports.map"
        exports.parent.mkdir(parents=True, exist_ok=True)
        write(exports, b"{ global: SOFIE_*; local: *; };\n")
        flags += ["-static-libstdc++", "-static-libgcc", "-Wl,-s", f"-Wl,--version-script={exports}"]
        flags += [f"-Wl,-soname,{library}"]
    elif sys.platform == "darwin":
        flags += ["-Wl,-x", f"-Wl,-install_name,@rpath/{library}"]
    return jit.build(header + declarations + c_source(program), flags).read_bytes()


_EXPORT = 'SOFIE_EXPORT=__attribute__((visibility("default")))'

_PKG_CONFIG = """prefix=${{pcfiledir}}/../..

Name: {name}
Description: A model compiled by SOFIE
Version: {version}
Cflags: -I${{prefix}}/include
Libs: -L${{prefix}}/lib -Wl,-rpath,${{prefix}}/lib -l{name}
"""

_CMAKE = """# Written by SOFIE. In a CMakeLists.txt, with this package in CMAKE_PREFIX_PATH:
#    find_package({name})
#    target_link_libraries(app PRIVATE {name}::{name})   # {name}.h and the library
#    target_link_libraries(app PRIVATE {name}::header)   # {name}.hxx alone
get_filename_component(_{name}_prefix "${{CMAKE_CURRENT_LIST_DIR}}/../../.." ABSOLUTE)
if(NOT TARGET {name}::{name})
   add_library({name}::{name} SHARED IMPORTED)
   set_target_properties({name}::{name} PROPERTIES
      IMPORTED_LOCATION "${{_{name}_prefix}}/lib/{library}"
      INTERFACE_INCLUDE_DIRECTORIES "${{_{name}_prefix}}/include")
   add_library({name}::header INTERFACE IMPORTED)
   set_target_properties({name}::header PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${{_{name}_prefix}}/include"
      INTERFACE_COMPILE_FEATURES cxx_std_17)
{threads}endif()
"""

_CMAKE_THREADS = """   find_package(Threads REQUIRED)
   target_link_libraries({name}::header INTERFACE Threads::Threads)
"""


def _cmake_version(version: str) -> str:
    """The file that tells find_package the version: SOFIE's own, with another number."""
    text = resources.files("sofie").joinpath("share/cmake/sofie/sofieConfigVersion.cmake").read_text()
    return text.replace(f'"{__version__}"', f'"{version}"')


def _cmake(program: Program, library: str) -> str:
    threads = _CMAKE_THREADS.format(name=program.name) if program.threads > 1 else ""
    return _CMAKE.format(name=program.name, library=library, threads=threads)


def _wheel(program: Program, version: str, library: str, built: bytes) -> tuple[str, bytes]:
    """Name and contents of the wheel (PEP 427): a module of the model's name around the library."""
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
    distribution, tag = program.name.lower(), f"py3-none-{platform}"
    info = f"{distribution}-{version}.dist-info"
    summary = "A model compiled by SOFIE"
    files = {
        f"{program.name}/__init__.py": text_of("standalone.py").encode() + b"\n",
        f"{program.name}/{library}": built,
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nSummary: {summary}\n"
            "Requires-Python: >=3.10\nRequires-Dist: numpy\n"
        ).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: sofie\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
    }
    record = f"{info}/RECORD"
    rows = [f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items()]
    files[record] = "".join([*rows, f"{record},,\n"]).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path), content, zipfile.ZIP_DEFLATED)  # the same bytes at any time
    return f"{distribution}-{version}-{tag}.whl", stream.getvalue()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

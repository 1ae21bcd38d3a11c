"""Writes the CMake target of generated models: include the file, link the target."""

from __future__ import annotations

from collections.abc import Sequence

from sofie.emit.cpp import Program

_TARGET = """# Written by SOFIE. In a CMakeLists.txt:
#    include(path/to/{name}.cmake)
#    target_link_libraries(app PRIVATE sofie::{name})
if(NOT TARGET sofie::{name})
   add_library(sofie_{name} INTERFACE)
   add_library(sofie::{name} ALIAS sofie_{name})
   target_include_directories(sofie_{name} INTERFACE "${{CMAKE_CURRENT_LIST_DIR}}")
   target_compile_features(sofie_{name} INTERFACE cxx_std_17)
{blas}{threads}endif()
{weights}"""

_BLAS = """   find_package(BLAS REQUIRED)  # one that has the C interface: set BLA_VENDOR to choose
   target_link_libraries(sofie_{name} INTERFACE ${{BLAS_LIBRARIES}})
"""

_THREADS = """   find_package(Threads REQUIRED)
   target_link_libraries(sofie_{name} INTERFACE Threads::Threads)
"""

_WEIGHTS = """
# Where the weights lie, for the constructor of a Session.
set(SOFIE_{name}_WEIGHTS "${{CMAKE_CURRENT_LIST_DIR}}/{name}.dat")
"""


def cmake_target(name: str, programs: Sequence[Program], embed: bool) -> str:
    """An interface library `sofie::<name>` for the header `<name>.hxx` of these programs.

    Names are identifiers, so nothing needs quoting. Where the weights are files, a variable says where each lies.
    """
    blas = _BLAS.format(name=name) if any(program.uses_blas for program in programs) else ""
    threads = _THREADS.format(name=name) if any(program.threads > 1 for program in programs) else ""
    weights = "" if embed else "".join(_WEIGHTS.format(name=program.name) for program in programs)
    return _TARGET.format(name=name, blas=blas, threads=threads, weights=weights)

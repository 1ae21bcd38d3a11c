"""The folder is the registry: every file of `sofie/passes` holds the pass of its name, and nothing is listed twice."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache, partial

from xdsl.dialects import get_all_dialects
from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import Universe

import sofie.passes


def _load_pass(module: str, name: str) -> type[ModulePass]:
    for value in vars(importlib.import_module(f"sofie.passes.{module}")).values():
        if isinstance(value, type) and issubclass(value, ModulePass) and getattr(value, "name", None) == name:
            return value
    raise ImportError(f"sofie/passes/{module}.py holds no pass named {name!r}")


def own_passes() -> dict[str, Callable[[], type[ModulePass]]]:
    """Factories of SOFIE's own passes by name; importing a pass waits until it is used."""
    names = [m.name for m in pkgutil.iter_modules(sofie.passes.__path__)]
    return {n.replace("_", "-"): partial(_load_pass, n, n.replace("_", "-")) for n in names}


def _onnx() -> Dialect:
    from sofie.dialects.onnx import onnx_dialect

    return onnx_dialect()


def _sofie() -> Dialect:
    from sofie.dialects.sofie import Sofie

    return Sofie


def _blas() -> Dialect:
    from sofie.dialects.blas import Blas

    return Blas


def _linalg() -> Dialect:
    from sofie.dialects.upstream import linalg_dialect

    return linalg_dialect()


def _memref() -> Dialect:
    from sofie.dialects.upstream import memref_dialect

    return memref_dialect()


def _gpu() -> Dialect:
    from sofie.dialects.upstream import gpu_dialect

    return gpu_dialect()


OWN_DIALECTS: dict[str, Callable[[], Dialect]] = {"onnx": _onnx, "sofie": _sofie, "blas": _blas}


@cache
def all_passes() -> dict[str, Callable[[], type[ModulePass]]]:
    """Every pass there is: SOFIE's, xDSL's, and those of installed plugins (entry point `xdsl.universe`)."""
    return {**Universe.get_multiverse().all_passes, **own_passes()}


@cache
def all_dialects() -> dict[str, Callable[[], Dialect]]:
    """Every dialect there is, by name."""
    return {
        **get_all_dialects(),
        **Universe.get_multiverse().all_dialects,
        **OWN_DIALECTS,
        "linalg": _linalg,
        "memref": _memref,
        "gpu": _gpu,
    }

"""Errors of the Keras front end: what is wrong with a layer, and what no layer's translation covers."""

from __future__ import annotations

from typing import NoReturn

from sofie.errors import SofieError, UnsupportedError, printable


class Untranslatable(UnsupportedError):
    """A class of layer, or an option, that Keras may run and this front end has no translation for."""


def wrong(file: str, layer: str, text: str) -> SofieError:
    """The error of a damaged file: `layer` is empty where the fault is that of the whole file."""
    where = f"{printable(file)!r}: " + (f"{layer}: " if layer else "")
    return SofieError(f"{where}{text}")


def refuse(file: str, layer: str, text: str) -> NoReturn:
    """Raises Untranslatable for a layer."""
    raise Untranslatable(f"{printable(file)!r}: {layer}: {text}")

"""Weight files for headers that are already there: a retrained model of the same structure, without recompiling.

The header says which options it was written with, what its model is called, and what layout its weights have. The new
model is lowered in the same way, and its weights are taken only if their layout is that one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sofie import weight_file
from sofie.compiler import Options, Progress, Source, lower
from sofie.errors import SofieError, printable

_MODEL = re.compile(
    r'#ifndef SOFIE_(?P<name>\w+)_(?:HXX|CUH)$.*?weight_layout\[\] = "(?P<layout>[0-9a-f]{64})"',
    re.DOTALL | re.MULTILINE,
)
_WORDS = re.compile(r"^// (--[^\n]*)$", re.MULTILINE)


@dataclass(frozen=True)
class Header:
    """What a header says of one of its models: its name, the words of its options, the layout of its weights."""

    name: str
    words: list[str]
    layout: str


def read_header(path: Path, name: str | None = None) -> Header:
    """The only model of a header, or that of this name. Raises SofieError."""
    try:
        text = path.read_text()
    except OSError as error:
        raise SofieError(f"{printable(str(path))!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SofieError(f"{printable(str(path))!r} is no header that SOFIE wrote") from error
    found: dict[str, Header] = {}
    end = 0
    for match in _MODEL.finditer(text):
        words = [word for line in _WORDS.findall(text[end : match.start()]) for word in shlex.split(line)]
        found[match["name"]] = Header(match["name"], words, match["layout"])
        end = match.end()
    if not found:
        raise SofieError(f"{printable(str(path))!r} is no header that SOFIE wrote")
    if name is None and len(found) > 1:
        raise SofieError(f"{printable(str(path))!r} has several models ({', '.join(found)}): choose one with --name")
    if name is not None and name not in found:
        raise SofieError(f"{printable(str(path))!r} has no model {printable(name)!r}: it has {', '.join(found)}")
    return found[name] if name is not None else next(iter(found.values()))


def write_weights(
    source: Source,
    header: Header,
    target: Path,
    options_of: Callable[[list[str]], Options],
    progress: Progress | None = None,
) -> int:
    """Writes the weights of a model for a header; returns their number. Raises SofieError where they do not fit it.

    options_of: reads the words of a command line.
    """
    program = lower(source, header.name, options_of(header.words), progress)
    if program.layout != header.layout:
        raise SofieError(
            f"the model does not have the structure that the header of {header.name} was written for (an operator, a "
            "shape, a weight of one element, or the version of SOFIE differs): compile it anew"
        )
    try:
        weight_file.write(target, program.weights, program.layout)
    except OSError as error:
        raise SofieError(f"{printable(str(target))!r} cannot be written: {error.strerror}") from error
    return sum(array.size for _, array in program.weights)

"""The one exception a user meets: a sentence that names the node, the operator and the remedy."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class SofieError(Exception):
    """Something about the model, the options or the machine that the user can act on; its text is one sentence."""


class UnsupportedError(SofieError):
    """A valid model asks for something this version cannot lower."""


def printable(text: str, limit: int = 120) -> str:
    """`text` from a model file made safe to print: control characters escaped, at most `limit` characters."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


def reason(error: BaseException, limit: int = 300) -> str:
    """What a library says of an exception, without its advice: the first line of the innermost cause, printable."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return printable(lines[0] if lines else type(error).__name__, limit)

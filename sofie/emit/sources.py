"""The C++ that is copied into headers: real source files beside this one."""

from __future__ import annotations

import re
from importlib import resources


def source(name: str, comments: bool = True) -> str:
    """The text of `emit/<name>`, without the line end behind it; without comments where it stands a second time."""
    text = resources.files("sofie.emit").joinpath(name).read_text().rstrip()
    return text if comments else _COMMENT.sub("", text)


_COMMENT = re.compile(r"^ *//[^\n]*\n| +//[^\n]*$", re.MULTILINE)

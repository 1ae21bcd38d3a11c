"""What a caller sees of a program's inputs and outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """An input or output as the caller sees it: ONNX name, C++ parameter, numpy dtype, shape."""

    name: str
    parameter: str
    dtype: str
    shape: tuple[int, ...]
    found: str = ""
    """The C++ parameter for the extents of an output, where the run finds them."""

    @property
    def elements(self) -> int:
        """The number of elements, a `Size` where only the run knows it."""
        return math.prod(self.shape)

    @property
    def cpp(self) -> str:
        """The C++ element type of the caller's pointer; bool is a byte."""
        return {"float32": "float", "float64": "double", "bool": "std::uint8_t"}.get(self.dtype, f"std::{self.dtype}_t")

    @property
    def inner(self) -> str:
        """The C++ element type inside the kernels, where integers are signless and spelled as signed."""
        return "std::int8_t" if self.dtype == "bool" else self.cpp.replace("std::u", "std::")

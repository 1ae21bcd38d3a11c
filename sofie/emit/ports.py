"""What a caller sees of a program's inputs and outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

BITS = {"float16": "std::uint16_t", "bfloat16": "std::uint16_t", "float4_e2m1fn": "std::uint8_t"} | {
    name: "std::uint8_t"
    for name in "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu int4 uint4 int2 uint2".split()
}
"""Types that C++ lacks, by numpy's name: an element is the lowest bits of one of these."""


@dataclass(frozen=True)
class Port:
    """An input or output as the caller sees it: ONNX name, C++ parameter, numpy dtype, shape."""

    name: str
    parameter: str
    dtype: str
    shape: tuple[int, ...]
    found: str = ""
    """The C++ parameter for the extents of an output, where the run finds them."""
    columns: tuple[str, ...] = ()
    """The names of the variables along the last axis, where they are known."""

    @property
    def elements(self) -> int:
        """The number of elements, a `Size` where only the run knows it."""
        return math.prod(self.shape)

    @property
    def is_bits(self) -> bool:
        """Whether C++ has no such type, and the caller's elements are its bits."""
        return self.dtype in BITS

    @property
    def cpp(self) -> str:
        """The C++ element type of the caller's pointer; bool is a byte, and narrow types are their bits."""
        own = {"float32": "float", "float64": "double", "bool": "std::uint8_t"} | BITS
        return own.get(self.dtype, f"std::{self.dtype}_t")

    @property
    def inner(self) -> str:
        """The C++ element type inside the kernels, where integers are signless and spelled as signed."""
        return "std::int8_t" if self.dtype == "bool" else self.cpp.replace("std::u", "std::")

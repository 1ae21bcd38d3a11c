"""The text of the vector types that kernels work on."""

from __future__ import annotations

import re

_VECTOR = """typedef {element} {name} __attribute__((vector_size({bytes})));

namespace detail {{
struct unaligned_{name} {{
   typedef {element} type __attribute__((vector_size({bytes}), aligned({align}), may_alias));
}};

SOFIE_INLINE {name} load_{name}(const {element} *from)
{{
   return *reinterpret_cast<const unaligned_{name}::type *>(from);
}}

SOFIE_INLINE void store({element} *to, {name} value) {{ *reinterpret_cast<unaligned_{name}::type *>(to) = value; }}
}} // namespace detail"""


_PAIR = """typedef detail::Pair<detail::f64x{half}> {name};

namespace detail {{
SOFIE_INLINE {name} load_{name}(const double *from) {{ return load_pair<f64x{half}>(from); }}
}} // namespace detail"""


_ELEMENTS = {
    "f32": ("float", 4),
    "f64": ("double", 8),
    "i32": ("std::int32_t", 4),
    "i64": ("std::int64_t", 8),
    "i16": ("std::int16_t", 2),
    "i8": ("std::int8_t", 1),
}
_NAME = re.compile(r"\b(?:load_)?v(\d+)([fi]\d+)\b")
_BYTES = re.compile(r"\bdetail::requantized_x(\d+)<")
_CALLS = re.compile(
    r"detail::(to_|nearest_|unsigned_|(narrow_)?dot(_pairs)?\(|join\(|load_word|(even|odd)_|(re)?quantized)"
)

_CODED = re.compile(r"detail::(en|de)code_b?f16\(")


def has_codes(kernels: str) -> bool:
    """Whether kernels need codes.hxx: they know floats of 16 bits."""
    return _CODED.search(kernels) is not None


def is_mixed(kernels: str) -> bool:
    """Whether kernels need integers.hxx: their vectors are of several types, or are rounded."""
    named = {kind for _, kind in _NAME.findall(kernels)}
    converts = bool(named) and ("detail::round_even(" in kernels or has_codes(kernels))
    return converts or _CALLS.search(kernels) is not None or any(kind[0] == "i" for kind in named)


def vector_types(kernels: str, lanes: int) -> str:
    """Loads and stores of the vector types of the kernels; float types themselves are those of math.hxx.

    In kernels of several types not every type has its name there. A vector of doubles with as many lanes as the CPU has
    for floats is a pair.
    """
    named = {(int(count), kind) for count, kind in _NAME.findall(kernels)}
    named |= {(int(count), "i8") for count in _BYTES.findall(kernels)}
    if is_mixed(kernels):
        counts = {count for count, _ in named if count <= lanes}  # bytes may be of two vectors
        named |= {(count, kind) for count in counts for kind in ("f32", "f64", "i32", "i16", "i8")}
    lines = []
    for kind, (element, size) in _ELEMENTS.items():
        for count in (2, 4, 8, 16, 32):
            name = f"v{count}{kind}"
            if (count, kind) not in named:
                continue
            if kind == "f64" and count == lanes > 2:
                lines.append(_PAIR.format(name=name, half=count // 2))
            else:
                lines.append(_VECTOR.format(name=name, element=element, bytes=count * size, align=size))
    return "\n\n".join(lines)

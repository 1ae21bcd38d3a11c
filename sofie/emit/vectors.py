"""The text of the vector types that kernels work on."""

from __future__ import annotations

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


def vector_types(kernels: str) -> str:
    """Loads and stores of the vector types that the kernels name; float types themselves are those of math.hxx."""
    lines = []
    for bits, element, letter in (
        (32, "float", "f"),
        (64, "double", "f"),
        (32, "std::int32_t", "i"),
        (64, "std::int64_t", "i"),
    ):
        for lanes in (2, 4, 8, 16):
            name = f"v{lanes}{letter}{bits}"
            if name not in kernels:
                continue
            lines.append(
                _VECTOR.format(name=name, element=element, bytes=lanes * bits // 8, lanes=lanes, align=bits // 8)
            )
    return "\n\n".join(lines)

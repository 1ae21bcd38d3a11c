"""Names from a model file are untrusted text; here they become identifiers that C++ and MLIR accept."""

from __future__ import annotations

import re

CPP_RESERVED = frozenset(
    """alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class
    compl concept const consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default
    delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline int long
    mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register
    reinterpret_cast requires return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor
    xor_eq linux unix i386 errno assert NULL EOF stdin stdout stderr major minor main std int8_t int16_t int32_t int64_t
    uint8_t uint16_t uint32_t uint64_t size_t""".split()
)

EMITTED = frozenset(
    """infer index detail kernels exp log sqrt tanh sigmoid erf at load store maximum minimum
    Session Weights Tensor""".split()
)
"""Names that the emitted code itself uses, which nothing from a model may take."""


def identifier(text: str, fallback: str = "v") -> str:
    """The nearest identifier to `text`: ASCII letters, digits, single underscores; no keyword; at most 60 characters.

    >>> identifier("a/b:0"), identifier("class"), identifier('x"); system("id'), identifier("")
    ('a_b_0', 'class_', 'x_system_id', 'v')
    """
    name = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")[:60].strip("_") or fallback
    if name[0].isdigit():
        name = f"{fallback}_{name}"
    return name + "_" if name in CPP_RESERVED else name


class Namer:
    """Hands out identifiers, each once: the second `conv` becomes `conv_1`."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        self._taken = set(taken)

    def __call__(self, text: str, fallback: str = "v") -> str:
        base = identifier(text, fallback)
        name, k = base, 0
        while name in self._taken:
            k += 1
            name = f"{base}_{k}"
        self._taken.add(name)
        return name

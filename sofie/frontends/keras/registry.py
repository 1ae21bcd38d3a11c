"""The table of layers: what translates a class of layer, which weights it has, and what becomes of a mask.

One file a family in `layers`, one function a layer, found through `@layer`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sofie.frontends.keras.builder import Tensor
from sofie.frontends.keras.config import Layer

if TYPE_CHECKING:
    from sofie.frontends.keras.translate import Translator

Rule = Callable[["Inputs", "Translator"], Any]


@dataclass(frozen=True)
class Weight:
    """A weight that a layer of this configuration has.

    name: what the rule calls it. within: the attribute of the layer whose weight it is, "" for the layer's own, and
    other names of it. trained: weights that are not come last in a .h5.
    """

    name: str
    within: tuple[str, ...] = ("",)
    trained: bool = True


Weights = Callable[[Layer], Sequence[Weight]]


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    masks: the result's mask is "kept" (the input's), "dropped" as Keras does, or "own" (the rule gives it). arguments:
    what a call may name beside `mask` and `training`. options: what it takes and declines.
    """

    rule: Rule
    weights: Weights
    masks: str
    options: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """What a layer is called on: the layer, and its arguments with tensors in the place of Refs."""

    layer: Layer
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def x(self) -> Tensor:
        """The only tensor. Raises SofieError where it is called on something else."""
        if not isinstance(self.args[0], Tensor):
            raise self.layer.wrong("it takes one tensor, and is called on a list")
        return self.args[0]


_LAYERS: dict[str, Entry] = {}
_OPERATIONS: dict[str, Entry] = {}


def named(*names: str) -> Weights:
    """Weights that are always there; `name?setting` is there where the setting is neither false nor none."""

    def of(layer: Layer) -> list[Weight]:
        parts = [name.partition("?") for name in names]
        return [Weight(name) for name, _, setting in parts if not setting or layer.config.get(setting, True)]

    return of


NOTHING = named()


def layer(
    *kinds: str,
    weights: Weights = NOTHING,
    masks: str = "dropped",
    options: str = "",
    arguments: tuple[str, ...] = (),
) -> Callable[[Rule], Rule]:
    """Registers the decorated function `(inputs, translator) -> result(s)` for these classes.

    `options` says in a few words what it takes and declines; docs/keras.md shows it.
    """

    def register(rule: Rule) -> Rule:
        for kind in kinds:
            _LAYERS[kind] = Entry(rule, weights, masks, options, arguments)
        return rule

    return register


def operation(*kinds: str, arguments: tuple[str, ...] = ()) -> Callable[[Rule], Rule]:
    """The same for functions of keras.ops that are called between layers."""

    def register(rule: Rule) -> Rule:
        for kind in kinds:
            _OPERATIONS[kind] = Entry(rule, NOTHING, "dropped", "", arguments)
        return rule

    return register


@cache
def _families() -> None:
    from sofie.frontends.keras import layers

    for family in pkgutil.iter_modules(layers.__path__):
        importlib.import_module(f"{layers.__name__}.{family.name}")


def layers() -> dict[str, Entry]:
    """All layers by class, with every family imported."""
    _families()
    return _LAYERS


def operations() -> dict[str, Entry]:
    """All functions of keras.ops by class."""
    _families()
    return _OPERATIONS

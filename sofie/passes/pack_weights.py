"""pack-weights: the constant of a contraction is laid out as its tile will walk through it (level 2).

    %w : tensor<50x100xf32>, read as (m, n, k) -> (n, k)
    ->
    %w' : tensor<4x100x16xf32>, read as (m, n, k) -> (n floordiv 16, k, n mod 16)

The loop on lanes is the one that the constant and the result have and the other operand has not: output features,
output channels. Its elements go innermost, the reductions before them in the order they run, so that a tile streams
through the weights: in panels of `panel` outputs, the last filled up with zeros that nobody reads, where a row of all
outputs would be longer than a tile is wide; a product with one row has the whole register file for its outputs, and
wider panels. There each load of a vector counts, and one across two lines of the cache counts twice: rows that are no
whole number of lines are filled up as well (ALICE's 16-100-50-1 network: 284 -> 253 ns, Zen 4). The panels are the same
for every CPU. The bytes of a word (`pack-words`) stay together behind the output. Declines where there are too few
outputs for a vector: then lanes run along something else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import AffineMapAttr, ArrayAttr, ModuleOp
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir.affine import AffineDimExpr, AffineExpr
from xdsl.passes import ModulePass

from sofie import structured
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import bytes_of, element_of
from sofie.passes.pack_words import sums_words
from sofie.rewrite import erase
from sofie.weights import Array

FEWEST_LANES = 4
WIDE_PANELS = 4
"""Panels side by side that a product with a single row walks at once."""

FIRST_CACHE = 32768
"""Bytes of all constants up to which rows may be filled up however short they are: else each costs its loading."""
SMALL = 16384
"""Bytes of a constant that the first-level cache holds in any order."""
MOST_FILLED = 1.15
"""How much longer zeros in the last panel may make a row."""


@dataclass(frozen=True)
class Layout:
    """The order of a constant's axes, `batches` first and the one on lanes last, and the width of a panel, 0: none.

    words: whether the bytes of a word stand behind the one on lanes, as the last axis.
    """

    order: tuple[int, ...]
    batches: int
    width: int
    words: bool = False

    def apply(self, array: Array) -> Array:
        """The array (.., N) so laid out; with panels (batches.., panels, reductions.., width), zeros behind N.

        One of words is (.., N, 4) instead.
        """
        if self.words:
            words = np.ascontiguousarray(array.transpose(self.order)).view(np.int32)[..., 0]
            plain = Layout(tuple(range(words.ndim)), self.batches, self.width).apply(words)
            return plain.reshape(*plain.shape, 1).view(array.dtype)
        moved = array.transpose(self.order)
        if self.width == 0:
            return np.ascontiguousarray(moved)
        outputs = moved.shape[-1]
        panels = -(-outputs // self.width)
        filled = np.zeros((*moved.shape[:-1], panels * self.width), array.dtype)
        filled[..., :outputs] = moved
        apart = filled.reshape(*moved.shape[:-1], panels, self.width)
        return np.ascontiguousarray(np.moveaxis(apart, -2, self.batches))

    def place(self, dims: Sequence[int]) -> list[int | AffineExpr | None]:
        """The index of each axis, where `dims` are the loops behind the axes before."""
        *outer, lanes = (dims[a] for a in (self.order[:-1] if self.words else self.order))
        word: list[int | AffineExpr | None] = [dims[self.order[-1]]] if self.words else []
        if self.width == 0:
            return [*outer, lanes, *word]
        loop = AffineExpr.dimension(lanes)
        return [*outer[: self.batches], loop // self.width, *outer[self.batches :], loop % self.width, *word]


@dataclass(frozen=True)
class PackWeights(ModulePass):
    """Re-lays the weights of every contraction; `panel` outputs go side by side (0: all of them)."""

    name: ClassVar[str] = "pack-weights"

    panel: int = 16

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        packed: dict[tuple[WeightOp, Layout], WeightOp] = {}
        few = sum(o.blob.value.nbytes for o in op.walk() if isinstance(o, WeightOp)) <= FIRST_CACHE
        for generic in [o for o in op.walk() if isinstance(o, GenericOp)]:
            for k in range(len(generic.inputs)):
                self._pack(generic, k, packed, few)
        for weight in [o for o in op.walk() if isinstance(o, WeightOp)]:
            if not weight.result.uses:
                erase(weight)

    def _pack(self, generic: GenericOp, k: int, packed: dict[tuple[WeightOp, Layout], WeightOp], few: bool) -> None:
        weight, maps = generic.inputs[k].owner, structured.maps_of(generic)
        found = structured.dims_of(maps[k])
        dims = [d for d in found or [] if d is not None]
        if not isinstance(weight, WeightOp) or found is None or None in found:
            return
        layout = self._layout(generic, k, dims, few)
        if layout is None or replace(layout, words=False) == Layout(tuple(range(len(dims))), layout.batches, 0):
            return
        if (weight, layout) not in packed:
            array = layout.apply(weight.blob.value)
            new = packed[weight, layout] = WeightOp.of(weight.weight_name.data, array, element_of(weight.result))
            new.result.name_hint = weight.result.name_hint
            block = weight.parent_block()
            assert block is not None
            block.insert_op_before(new, weight)
        generic.operands[k] = packed[weight, layout].result
        maps[k] = structured.dims_map(maps[k].num_dims, layout.place(dims))
        generic.properties["indexing_maps"] = ArrayAttr([AffineMapAttr(m) for m in maps])

    def _layout(self, generic: GenericOp, k: int, dims: list[int], few: bool) -> Layout | None:
        """How input `k`, a constant with these loops behind its axes, is laid out; None where it may stay.

        few: whether the first cache holds all constants.
        """
        reduce = structured.reductions(generic)
        lanes = _lanes_loop(generic, k, dims) if reduce else None
        if lanes is None:
            return None
        word = len(generic.iterator_types) - 1 if sums_words(generic) else None
        order = sorted(range(len(dims)), key=lambda a: (dims[a] == word, dims[a] == lanes, dims[a] in reduce, dims[a]))
        batches = sum(d != lanes and d not in reduce for d in dims)
        return Layout(tuple(order), batches, self._width(generic, lanes, dims, few), word is not None)

    def _width(self, generic: GenericOp, lanes: int, dims: Sequence[int], few: bool) -> int:
        """The width of a panel; 0 where one row of all outputs is as good."""
        if self.panel == 0:
            return 0
        extents = structured.extents(generic)
        parallel = [d for d in range(len(extents)) if d not in structured.reductions(generic) and d not in dims]
        rows = math.prod(extents[d] for d in parallel)
        width, outputs = self.panel * WIDE_PANELS if rows == 1 else self.panel, extents[lanes]
        filled = -(-outputs // width) * width
        size = math.prod(extents[d] for d in dims) * bytes_of(element_of(generic.outputs[0]))
        if outputs > 2 * width and size > SMALL and filled <= MOST_FILLED * outputs:
            return width
        aligned = -(-outputs // self.panel) * self.panel
        fits = few or aligned <= MOST_FILLED * outputs
        crosses = self.panel % outputs != 0 and aligned != outputs
        return aligned if rows == 1 and crosses and fits else 0


def _lanes_loop(generic: GenericOp, k: int, dims: list[int]) -> int | None:
    """The loop along the result's last axis, if the constant has it; else its longest that no other input has."""
    extents, reduce = structured.extents(generic), structured.reductions(generic)
    maps = structured.maps_of(generic)
    innermost = structured.output_maps(generic)[0].results[-1:]
    others = [m for j, m in enumerate(maps[: len(generic.inputs)]) if j != k]
    elsewhere = {d for m in others for e in m.results for d in e.used_dims()}
    for expr in innermost:
        if isinstance(expr, AffineDimExpr) and expr.position in dims and extents[expr.position] >= FEWEST_LANES:
            return expr.position
    free = [d for d in dims if d not in reduce and d not in elsewhere and extents[d] >= FEWEST_LANES]
    return max(free, key=lambda d: extents[d], default=None)

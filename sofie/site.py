"""Where a pass of level 2 writes new ops: one place, one location, and the few shapes that all is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects import tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, LocationAttr
from xdsl.dialects.utils import split_dynamic_index_list
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.ir.affine import AffineMap

from sofie import extents, structured
from sofie.dialects.types import element_of, shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.reshapes import reshape_op, reshape_steps

Offset = int | SSAValue


@dataclass(frozen=True)
class Site:
    """Before an op, or at the end of a block."""

    location: LocationAttr
    anchor: Operation
    """What new ops stand for: sizes of the run are those of its function."""
    end: Block | None = None
    """Where they go instead of before the anchor."""

    @property
    def home(self) -> Block | None:
        """The block that ops go into."""
        return self.anchor.parent_block() if self.end is None else self.end

    def inside(self, block: Block) -> Site:
        """The end of a block, for the same op."""
        return Site(self.location, self.anchor, block)

    def insert(self, op: Operation) -> SSAValue:
        """Puts an op here; returns its first result."""
        self.add(op)
        return op.results[0]

    def add(self, op: Operation) -> None:
        """Puts any op here."""
        op.location = self.location
        block = self.home
        assert block is not None
        if self.end is not None:
            block.add_op(op)
        else:
            block.insert_op_before(op, self.anchor)

    def empty(self, shape: Sequence[int], element: Attribute) -> SSAValue:
        """A destination."""
        return self.insert(tensor.EmptyOp(extents.values(shape, self.anchor), tensor_type(element, shape)))

    def generic(
        self,
        inputs: Sequence[SSAValue],
        outputs: Sequence[SSAValue],
        maps: Sequence[AffineMap],
        body: structured.Body,
        reduce: Sequence[int] = (),
    ) -> list[SSAValue]:
        """A `linalg.generic` on tensors."""
        op = structured.generic(inputs, outputs, maps, body, reduce)
        self.add(op)
        return list(op.results)

    def fill(self, value: Operation, shape: Sequence[int], element: Attribute) -> SSAValue:
        """A tensor with a constant everywhere; `value` is the op that makes it, in no block."""
        maps = [structured.identity(len(shape))]
        return self.generic([], [self.empty(shape, element)], maps, lambda b, _: [b.insert(value).results[0]])[0]

    def slice(self, x: SSAValue, offsets: Sequence[Offset], shape: Sequence[int]) -> SSAValue:
        """The part of `shape` that starts at `offsets`."""
        kind = tensor_type(element_of(x), shape)
        return self.insert(tensor.ExtractSliceOp(x, list(offsets), list(shape), [1] * len(shape), kind))

    def put(
        self, x: SSAValue, into: SSAValue, offsets: Sequence[Offset], strides: Sequence[int] | None = None
    ) -> SSAValue:
        """`into` with the part at `offsets`, every `strides`-th element of it, replaced by `x`."""
        numbers, values = split_dynamic_index_list(list(offsets), DYNAMIC_INDEX)
        steps = list(strides or [1] * len(offsets))
        return self.insert(tensor.InsertSliceOp.get(x, into, list(shape_of(x)), numbers, steps, values))

    def reshape(self, x: SSAValue, shape: Sequence[int]) -> SSAValue:
        """The same elements under another shape."""
        for step in reshape_steps(shape_of(x), shape):
            x = self.insert(reshape_op(x, step, self.anchor))
        return x

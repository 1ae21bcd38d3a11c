"""What a lowering is written with: tensors in, structured ops out.

A `Lowering` stands before one ONNX op and offers the few shapes that all operators are made of: elementwise,
contraction and reduction as `linalg.generic`; slices, padding and concatenation as views of `tensor.empty`; and
constants, which are re-laid here and now instead of at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import index

import numpy as np
from xdsl.builder import Builder
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, IndexType, i64
from xdsl.dialects.utils import split_dynamic_index_list
from xdsl.ir import Attribute, Block, BlockArgument, Operation, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from sofie import extents, sizes, structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import ExtentsOp, SizeOp, WeightOp, contents
from sofie.dialects.types import element_of, is_float, is_unsigned, shape_of, stored
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import SofieError, UnsupportedError
from sofie.passes.lower_onnx.scalars import Scalars, constant_op
from sofie.reshapes import listed, reshape_op, reshape_steps
from sofie.weights import Array

Fn = Callable[..., SSAValue]
Offset = int | SSAValue
"""Where a slice starts on an axis: a number, or a value of type `index`."""
Fns = Callable[[Scalars, tuple[BlockArgument, ...]], Sequence[SSAValue]]


class Lowering:
    """One ONNX op on its way down; every method inserts before it and returns tensors without signedness.

    `unsigned` tells how the op reads the integers of its first operand.
    """

    def __init__(
        self, op: OnnxOp, operand_types: Sequence[Attribute | None], result_types: Sequence[Attribute]
    ) -> None:
        self.op = op
        self.operand_elements = operand_types
        self.result_elements = result_types
        first = next((t for t in operand_types if t is not None), None)
        self.unsigned = first is not None and is_unsigned(first)
        block = op.parent_block()
        assert block is not None
        self._block = block
        self._at_end = False

    # -- operands ------------------------------------------------------------------------------------------------

    @property
    def operands(self) -> list[SSAValue | None]:
        """The operands by position, None where absent."""
        return self.op.inputs

    def operand(self, index: int) -> SSAValue:
        """An operand that must be there."""
        value = self.optional(index)
        if value is None:
            raise SofieError(f"operand {self.op.SCHEMA.inputs[index].name} is missing")
        return value

    def optional(self, index: int) -> SSAValue | None:
        """An operand, or None where it is absent."""
        operands = self.operands
        return operands[index] if index < len(operands) else None

    def known(self, value: SSAValue) -> Array | None:
        """The contents of a constant, or None for a value of the run."""
        return contents(value)

    def known_ints(self, index: int) -> list[int] | None:
        """A list of integers (shape, axes, pads, ...) that is known, run-time sizes included; None where it is absent.

        Raises UnsupportedError, with the remedy, where it is a run-time value.
        """
        value = self.optional(index)
        if value is None:
            return None
        if isinstance(value.owner, ExtentsOp):
            return list(value.owner.values)
        return [int(v) for v in self.constant(index).reshape(-1)]

    def known_reals(self, index: int) -> list[float] | None:
        """A list of numbers (scales, ...) that is known; None where it is absent. Raises as `known_ints` does."""
        return None if self.optional(index) is None else [float(v) for v in self.constant(index).reshape(-1)]

    def constant(self, index: int) -> Array:
        """The contents of an operand that must be a constant; raises UnsupportedError, with the remedy, otherwise."""
        array = self.known(self.operand(index))
        if array is None:
            name = self.op.SCHEMA.inputs[index].name
            raise UnsupportedError(
                f"its operand {name!r} is computed at run time; make it a constant, or bind the input with --set"
            )
        return np.asarray(array)

    def result_shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of a result."""
        return shape_of(self.op.results[index])

    def result_element(self, index: int = 0) -> Attribute:
        """The signless element type of a result."""
        return stored(self.result_elements[index])

    def axis(self, name: str, rank: int, default: int | None = None) -> int:
        """An axis attribute counted from the front."""
        axis = self.op.integer(name, default)
        if not -rank <= axis < max(rank, 1):
            raise SofieError(f"axis {axis} does not exist in a tensor of rank {rank}")
        return axis + rank if axis < 0 else axis

    # -- insertion -----------------------------------------------------------------------------------------------

    def insert(self, op: Operation) -> SSAValue:
        """Inserts an op of one result before the ONNX op."""
        self.add(op)
        return op.results[0]

    def add(self, op: Operation) -> None:
        """Inserts any op where `insert` does."""
        op.location = self.op.location
        self.place(op)

    def place(self, op: Operation) -> None:
        """Puts an op that has a location of its own where `insert` does."""
        if self._at_end:
            self._block.add_op(op)
        else:
            self._block.insert_op_before(op, self.op)

    @contextmanager
    def inside(self, block: Block) -> Iterator[None]:
        """While it lasts, ops go to the end of `block`: the body of a loop, the branch of a condition."""
        outer = self._block, self._at_end
        self._block, self._at_end = block, True
        try:
            yield
        finally:
            self._block, self._at_end = outer

    def weight(self, name: str, array: Array) -> SSAValue:
        """A constant tensor; arrays of unsigned integers are stored as they are and typed signless."""
        from sofie.dialects.types import element_from_numpy

        return self.insert(WeightOp.of(name, array, stored(element_from_numpy(array.dtype))))

    def empty(self, shape: Sequence[int], element: Attribute) -> SSAValue:
        """A tensor without contents: a destination."""
        return self.insert(tensor.EmptyOp(extents.values(shape, self.op), tensor_type(element, shape)))

    def number(self, extent: int, kind: Attribute) -> Callable[[Scalars], SSAValue]:
        """An extent as a scalar of type `kind` inside a body: a literal, or a value computed before the op."""
        if not isinstance(extent, sizes.Size):
            return lambda s: s.constant(extent, kind)
        value = extents.value(extent, self.op)
        if isinstance(kind, IndexType):
            return lambda s: value
        value = self.insert(arith.IndexCastOp(value, i64))
        if is_float(kind):
            value = self.insert(arith.SIToFPOp(value, kind))
        elif kind != i64:
            value = self.insert(arith.TruncIOp(value, kind))
        return lambda s: value

    def index(self, place: Offset) -> SSAValue:
        """A number, or a size of the run, as a value of type `index`."""
        if isinstance(place, SSAValue):
            return place
        return extents.value(place, self.op) if isinstance(place, sizes.Size) else self.insert(extents.constant(place))

    def element(self, x: SSAValue, place: int = 0) -> SSAValue:
        """One integer of a list of the run, as an index."""
        where = [self.index(place)] if shape_of(x) else []
        return self.insert(arith.IndexCastOp(self.insert(tensor.ExtractOp(x, where, element_of(x))), IndexType()))

    def found(self, extent: int, number: SSAValue) -> None:
        """Says what the run found a size to be: `number`, of type `index`; nothing where it is known anyway."""
        if isinstance(extent, sizes.Size):
            (symbol,) = extent.symbols
            size = self.insert(SizeOp(number, extents.size_attribute(symbol)))
            size.name_hint = symbol.name

    def fill(self, value: float | int, shape: Sequence[int], element: Attribute) -> SSAValue:
        """A tensor with `value` everywhere."""
        destination = self.empty(shape, element)
        op = structured.generic(
            [],
            [destination],
            [structured.identity(len(shape))],
            lambda b, _: [b.insert(constant_op(value, element)).result],
        )
        return self.insert(op)

    # -- structured ops ------------------------------------------------------------------------------------------

    def generic(
        self,
        inputs: Sequence[SSAValue],
        outputs: Sequence[SSAValue],
        maps: Sequence[AffineMap],
        fn: Fns,
        reduce: Sequence[int] = (),
        unsigned: bool | None = None,
    ) -> list[SSAValue]:
        """A `linalg.generic`; `fn(scalars, args)` returns one scalar an output."""
        reading = self.unsigned if unsigned is None else unsigned
        if not structured.extents_agree([*inputs, *outputs], maps):
            shapes = " and ".join(listed(shape_of(v)) for v in [*inputs, *outputs])
            raise SofieError(f"tensors of shapes {shapes} do not fit together")

        def body(builder: Builder, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
            return fn(Scalars(builder.insert, reading), args)

        op = structured.generic(inputs, outputs, maps, body, reduce)
        self.insert(op)
        return list(op.results)

    def elementwise(self, fn: Fn, *operands: SSAValue, element: Attribute | None = None) -> SSAValue:
        """`fn(scalars, *elements)` over operands broadcast as numpy does; one-element constants become literals.

        `element` is the result's element type, by default that of the first operand.
        """
        shape = sizes.broadcast(*[shape_of(v) for v in operands])
        rank = len(shape)
        literals: dict[int, float | int | bool] = {}
        tensors: list[SSAValue] = []
        for k, value in enumerate(operands):
            array = self.known(value) if math.prod(shape_of(value)) == 1 else None
            if array is not None:
                literals[k] = array.reshape(-1)[0].item()
            else:
                tensors.append(value)
        kinds = [element_of(v) for v in operands]

        def body(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
            scalars = iter(args)
            return [
                fn(
                    s,
                    *[
                        s.constant(literals[k], kinds[k]) if k in literals else next(scalars)
                        for k in range(len(operands))
                    ],
                )
            ]

        maps = [self.broadcast_map(shape_of(v), shape) for v in tensors]
        destination = self.empty(shape, element or kinds[0])
        return self.generic(tensors, [destination], [*maps, structured.identity(rank)], body)[0]

    def broadcast_map(self, shape: Sequence[int], target: Sequence[int]) -> AffineMap:
        """The map that reads a tensor of `shape` in the iteration space of `target`, by numpy's rule.

        Raises UnsupportedError where only the run knows whether an extent is 1.
        """
        lead = len(target) - len(shape)
        for extent, wanted in zip(shape, target[lead:], strict=True):
            if isinstance(extent, sizes.Size) and extent != wanted:
                only = f"the size {extent} is broadcast to {wanted} where it is 1, which only the run knows"
                raise UnsupportedError(f"{only}; {extent.remedy()}")
        return structured.dims_map(
            len(target),
            [lead + a if extent == target[lead + a] else None for a, extent in enumerate(shape)],
        )

    def reduce(
        self,
        fn: Fn,
        initial: float | int,
        x: SSAValue,
        axes: Sequence[int],
        keep: bool,
        element: Attribute | None = None,
    ) -> SSAValue:
        """Folds `axes` of `x` by `fn(scalars, element, accumulated)`, from `initial`; `keep` leaves extents of 1."""
        shape = shape_of(x)
        kept = [a for a in range(len(shape)) if a not in axes]
        kind = element or element_of(x)
        start = self.fill(initial, [shape[a] for a in kept], kind)
        maps = [structured.identity(len(shape)), structured.dims_map(len(shape), kept)]
        result = self.generic([x], [start], maps, lambda s, args: [fn(s, *args)], list(axes))[0]
        return self.reshape(result, [1 if a in axes else e for a, e in enumerate(shape)]) if keep else result

    def sum(self, fn: Fn, x: SSAValue, axes: Sequence[int], keep: bool) -> SSAValue:
        """`reduce` from 0 by a `fn` that adds, in partial sums of every k-th element of the last axis of `axes`.

        So the rounding of a long sum grows with a k-th of its length, and the partial sums are a vector.
        """
        shape, kind = shape_of(x), element_of(x)
        last = max(axes)
        parts = _partial_sums(shape, axes) if is_float(kind) else 1
        if parts == 1:
            return self.reduce(fn, 0, x, axes, keep)
        rank = len(shape)
        kept = [a for a in range(rank) if a not in axes]
        walk: list[AffineExpr | int | None] = list(range(rank))
        walk[last] = AffineExpr.dimension(last) * parts + AffineExpr.dimension(rank)
        loops = structured.dims_map(rank + 1, walk)
        partial = self.fill(0, [*(shape[a] for a in kept), parts], kind)
        ends = structured.dims_map(rank + 1, [*kept, rank])
        steps = self.empty([shape[last] // parts], kind)  # tells how many there are; nobody reads it
        maps = [loops, structured.dims_map(rank + 1, [last]), ends]
        partial = self.generic([x, steps], [partial], maps, lambda s, args: [fn(s, args[0], args[2])], list(axes))[0]
        total = self.reduce(lambda s, v, acc: s.add(acc, v), 0, partial, [len(kept)], keep=False)
        return self.reshape(total, [1 if a in axes else e for a, e in enumerate(shape)]) if keep else total

    def contract(
        self, a: SSAValue, b: SSAValue, start: SSAValue, maps: Sequence[AffineMap], reduce: Sequence[int]
    ) -> SSAValue:
        """start + sum of a * b over the loops `reduce`; the maps are those of a, b and the result.

        Bytes, a without and b with a sign, are summed as the type of `start` says.
        """

        def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
            left = s.cast(args[0], args[2].type, unsigned_source=True)
            return [s.add(args[2], s.mul(left, s.cast(args[1], args[2].type, unsigned_source=False)))]

        return self.generic([a, b], [start], maps, fn, reduce)[0]

    # -- movement ------------------------------------------------------------------------------------------------

    def reshape(self, x: SSAValue, shape: Sequence[int]) -> SSAValue:
        """The same elements in another shape; a constant is reshaped in place, anything else becomes a view."""
        old, new = shape_of(x), tuple(shape)
        if old == new:
            return x
        if (array := self.known(x)) is not None:
            return self.weight(self._weight_name(x), array.reshape(new))
        if math.prod(new) == 0:
            return self.empty(new, element_of(x))
        if math.prod(old) != math.prod(new):
            raise SofieError(
                f"a reshape of {listed(old)} to {listed(new)} does not keep the number of elements: "
                "the model was exported for one size; export it with a free dimension"
            )
        if not old or not new:  # a scalar: reassociations have no form for it
            maps = [structured.dims_map(len(new), [None] * len(old)), structured.identity(len(new))]
            return self.generic([x], [self.empty(new, element_of(x))], maps, lambda _, args: [args[0]])[0]
        for step in reshape_steps(old, new):
            x = self.insert(reshape_op(x, step, self.op))
        return x

    def transpose(self, x: SSAValue, permutation: Sequence[int]) -> SSAValue:
        """`numpy.transpose`; a constant is re-laid when compiling."""
        if list(permutation) == list(range(len(permutation))):
            return x
        if (array := self.known(x)) is not None:
            return self.weight(self._weight_name(x), np.ascontiguousarray(array.transpose(permutation)))
        shape = [shape_of(x)[p] for p in permutation]
        rank = len(shape)
        inverse = [list(permutation).index(a) for a in range(rank)]
        maps = [structured.dims_map(rank, inverse), structured.identity(rank)]
        return self.generic([x], [self.empty(shape, element_of(x))], maps, lambda _, args: [args[0]])[0]

    def broadcast(self, x: SSAValue, shape: Sequence[int]) -> SSAValue:
        """`numpy.broadcast_to`."""
        if shape_of(x) == tuple(shape):
            return x
        maps = [self.broadcast_map(shape_of(x), shape), structured.identity(len(shape))]
        return self.generic([x], [self.empty(shape, element_of(x))], maps, lambda _, args: [args[0]])[0]

    def copy(self, x: SSAValue) -> SSAValue:
        """The same elements in a tensor that may be accumulated into."""
        maps = [structured.identity(len(shape_of(x)))] * 2
        return self.generic([x], [self.empty(shape_of(x), element_of(x))], maps, lambda _, args: [args[0]])[0]

    def flip(self, x: SSAValue, axes: Sequence[int]) -> SSAValue:
        """`numpy.flip`; a constant is re-laid when compiling."""
        if (array := self.known(x)) is not None:
            return self.weight(self._weight_name(x), np.ascontiguousarray(np.flip(array, tuple(axes))))
        shape = shape_of(x)
        offsets = [e - 1 if a in axes else 0 for a, e in enumerate(shape)]
        return self.slice(x, offsets, shape, [-1 if a in axes else 1 for a in range(len(shape))])

    def slice(
        self, x: SSAValue, offsets: Sequence[Offset], shape: Sequence[int], strides: Sequence[int] | None = None
    ) -> SSAValue:
        """x[offset : offset + extent * stride : stride] per axis; negative strides walk backwards.

        Offsets may be values of type `index`, where all strides are positive.
        """
        steps = list(strides or [1] * len(shape))
        if list(shape) == list(shape_of(x)) and all(s == 1 for s in steps):
            return x
        if math.prod(shape) == 0:
            return self.empty(shape, element_of(x))
        if all(s > 0 for s in steps):
            kind = tensor_type(element_of(x), shape)
            at, size = extents.mixed(offsets, self.op), extents.mixed(shape, self.op)
            return self.insert(tensor.ExtractSliceOp(x, at, size, steps, kind))
        rank = len(steps)
        starts = [index(o) for o in offsets if not isinstance(o, SSAValue)]
        walk: list[AffineExpr | int | None] = [
            d if (s, o) == (1, 0) and shape[d] == shape_of(x)[d] else AffineExpr.dimension(d) * s + o
            for d, (s, o) in enumerate(zip(steps, starts, strict=True))
        ]
        maps = [structured.dims_map(rank, walk), structured.identity(rank)]
        return self.generic([x], [self.empty(shape, element_of(x))], maps, lambda _, args: [args[0]])[0]

    def insert_slice(
        self, x: SSAValue, into: SSAValue, offsets: Sequence[Offset], strides: Sequence[int] | None = None
    ) -> SSAValue:
        """`into` with the part at `offsets` (see `slice`), every `strides`-th element of it, replaced by `x`."""
        if math.prod(shape_of(x)) == 0:
            return into
        steps = list(strides or [1] * len(offsets))
        places = (extents.mixed(offsets, self.op), extents.mixed(shape_of(x), self.op))
        at, size = (split_dynamic_index_list(place, DYNAMIC_INDEX) for place in places)
        return self.insert(tensor.InsertSliceOp.get(x, into, size[0], at[0], steps, at[1], size[1]))

    def concat(self, parts: Sequence[SSAValue], axis: int) -> SSAValue:
        """`numpy.concatenate`."""
        shape = list(shape_of(parts[0]))
        shape[axis] = sum(shape_of(p)[axis] for p in parts)
        result, offset = self.empty(shape, element_of(parts[0])), 0
        for part in parts:
            result = self.insert_slice(part, result, [offset if a == axis else 0 for a in range(len(shape))])
            offset += shape_of(part)[axis]
        return result

    def pad(self, x: SSAValue, before: Sequence[int], after: Sequence[int], value: float | int) -> SSAValue:
        """`numpy.pad` with a constant; negative amounts cut away."""
        shape = shape_of(x)
        cut_front, cut_back = [max(-p, 0) for p in before], [max(-p, 0) for p in after]
        inner = self.slice(x, cut_front, [e - f - b for e, f, b in zip(shape, cut_front, cut_back, strict=True)])
        front, back = [max(p, 0) for p in before], [max(p, 0) for p in after]
        if not any(front) and not any(back):
            return inner
        target = [e + f + b for e, f, b in zip(shape_of(inner), front, back, strict=True)]
        return self.insert_slice(inner, self.fill(value, target, element_of(x)), front)

    def _weight_name(self, x: SSAValue) -> str:
        assert isinstance(x.owner, WeightOp)
        return x.owner.weight_name.data


SHORT_SUM = 32
"""Terms of a sum that are added one after the other."""

PARTS = (16, 8, 12, 14, 10, 15, 11, 13, 7, 9, 6, 5, 4, 3)
"""How many partial sums a longer sum may be made of, best first."""


def _partial_sums(shape: Sequence[int], axes: Sequence[int]) -> int:
    """How many partial sums a reduction over axes has: a divisor of its last axis, 1 where none fits."""
    extent = shape[max(axes)]
    if not sizes.is_static([extent]) or math.prod(sizes.most(shape[a]) for a in axes) <= SHORT_SUM:
        return 1
    return next((k for k in PARTS if extent % k == 0), 1)

"""fuse-layers: dense layers that follow one another become one kernel, a block a tile of events (level 4 -> level 4').

    func.call @gemm(%x, %w, %h)              gpu.func @gemm_to_gemm_2(%x, %w, %v, %u, %y) {
    func.call @gemm_1(%h, %v, %g)              %act = this block's 64 rows of x, in its own memory
    func.call @gemm_2(%g, %u, %y)      ->      sums = %act %w ; gpu.barrier ; %act = relu(sums + b) ; gpu.barrier
                                               sums = %act %v ; ..
                                               memref.store f(sums), %y[64 %block + ..] }

The rows of a batch know nothing of each other, so a block takes some of them through all layers: what lies between two
layers stays in its memory, and only weights come from outside, step by step, out of the second cache. Layers of at most
`width` neurons over at least `rows` rows; a buffer between two may have no other reader. A block has as many rows as
`memory` bytes allow; more than 48 KB a session asks of CUDA. The arena loses what nobody needs any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, gpu, memref
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, Float32Type, FloatAttr, MemRefType, ModuleOp, f32
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.block_tiles import Arithmetic, Reader, Scalar, TensorCores, Tile, check_precision
from sofie.body import Body, Numbers
from sofie.contraction import Factor, Product, Values, add_up, made_by
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import strides_of
from sofie.extents import ARGUMENTS
from sofie.launches import (
    BLOCK,
    arena_range,
    erase_uncalled,
    extents_of,
    holder_of,
    infer_of,
    is_pure,
    kernels_of,
    names_in,
    nest_of,
    put_launch,
    shrink_arena,
    slice_of,
)
from sofie.rewrite import erase, fused_location

ROWS = 1024
"""Fewer rows fill no card with blocks of 64."""
WIDTH = 256
MEMORY = 96 * 1024
"""What a block can have on every card from sm_80 on."""


@dataclass(frozen=True)
class FuseLayers(ModulePass):
    """Fuses chains of dense layers of at most `width` neurons, over at least `rows` rows."""

    name: ClassVar[str] = "fuse-layers"

    precision: str = "float32"
    rows: int = ROWS
    width: int = WIDTH
    memory: int = MEMORY

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        check_precision(self.name, self.precision)
        kernels = {k.sym_name.data: k for k in kernels_of(op)}
        infer = infer_of(op)
        fused = False
        for chain in self._chains(infer, kernels):
            plan = _plan(chain, self.precision, self.memory)
            if plan is not None:
                _Fusing(op, chain, plan).fuse()
                fused = True
        if fused:
            erase_uncalled(op)
            shrink_arena(infer)

    def _chains(self, infer: func.FuncOp, kernels: dict[str, func.FuncOp]) -> list[list[Layer]]:
        """Layers that follow one another, two at least."""
        chains: list[list[Layer]] = [[]]
        for op in infer.body.block.ops:
            if is_pure(op) or isinstance(op, WeightOp | memref.ViewOp):
                continue
            layer = None
            if isinstance(op, func.CallOp):
                layer = Layer.of(op, kernels[op.callee.string_value()], self.width, self.rows)
            if layer is None or not chains[-1] or not layer.follows(chains[-1]):
                chains.append([])
            if layer is not None:
                chains[-1].append(layer)
        return [chain for chain in chains if len(chain) > 1]


@dataclass(frozen=True)
class Layer:
    """A call of a kernel whose results are rows times weights. read, store: what reads the rows, and what writes the
    results.
    """

    call: func.CallOp
    kernel: func.FuncOp
    product: Product
    read: memref.LoadOp
    store: memref.StoreOp

    @staticmethod
    def of(call: func.CallOp, kernel: func.FuncOp, width: int, least: int) -> Layer | None:
        """The layer that a kernel is; None where it is anything else."""
        nest = nest_of(kernel)
        product = None if nest is None else Product.of(nest, by_vectors=True)
        if product is None or len(product.loops) != 1 or product.batch:
            return None
        if (list(product.rows), list(product.columns)) not in (([0], [1]), ([0], [])):
            return None
        stores = [op for op in product.rest if isinstance(op, memref.StoreOp)]
        loads = [op for op in made_by(product.left, product.nest) if isinstance(op, memref.LoadOp)]
        row = product.nest.body.block.args[0]
        reads = [op for op in loads if any(affine.coefficient(v, row) != 0 for v in op.indices)]
        if len(stores) != 1 or len(reads) != 1:
            return None
        layer = Layer(call, kernel, product, reads[0], stores[0])
        rows = extents_of(product.nest)[0]
        if not layer.width or not layer.terms or max(layer.width, layer.terms) > width or (rows or least) < least:
            return None
        ends = (reads[0].memref, stores[0].memref)
        alone = not any(load.memref in ends for load in layer.others)
        return layer if alone and layer.steps_read is not None and layer.steps_stored is not None else None

    @property
    def others(self) -> list[memref.LoadOp]:
        """What reads anything but rows and weights."""
        ops = [*self.product.rest, *made_by(self.product.left, self.product.nest)]
        return [op for op in ops if isinstance(op, memref.LoadOp) and op is not self.read]

    @property
    def before(self) -> list[Operation]:
        """What is made of an element of a row before it is multiplied."""
        return [op for op in made_by(self.product.left, self.product.nest) if op is not self.read]

    @property
    def width(self) -> int:
        """Neurons; 0 where only the run knows."""
        extents = extents_of(self.product.nest)
        return 1 if len(extents) == 1 else extents[1] or 0

    @property
    def terms(self) -> int:
        """Inputs of a neuron; 0 where only the run knows."""
        return affine.constant(self.product.sum.ub) or 0

    @property
    def steps_read(self) -> tuple[int, int] | None:
        """How far apart the rows and the terms lie; None where they do not begin at the first element."""
        return self._steps(self.read, self.product.sum.body.block.args[0])

    @property
    def steps_stored(self) -> tuple[int, int] | None:
        """The same of the results."""
        variables = self.product.nest.body.block.args
        return self._steps(self.store, variables[1] if len(variables) == 2 else None)

    def _steps(self, op: memref.LoadOp | memref.StoreOp, column: SSAValue | None) -> tuple[int, int] | None:
        row, kind = self.product.nest.body.block.args[0], op.memref.type
        assert isinstance(kind, MemRefType)
        if not isinstance(op.memref, BlockArgument) or not isinstance(kind.element_type, Float32Type):
            return None
        if not all(v in (row, column) or affine.constant(v) == 0 for v in op.indices):
            return None
        down, across = (
            0 if v is None else affine.step(op.memref, list(op.indices), strides_of(op.memref), v)
            for v in (row, column)
        )
        return None if down is None or across is None else (down, across)

    def operand(self, argument: SSAValue) -> SSAValue:
        """What @infer gives for an argument of the kernel."""
        assert isinstance(argument, BlockArgument)
        return self.call.operands[argument.index]

    @property
    def rows(self) -> object:
        """How many rows there are: a number, or what @infer gives for it."""
        bound = self.product.nest.upperBound[0]
        known = affine.constant(bound)
        return self.operand(bound) if known is None and isinstance(bound, BlockArgument) else known

    def follows(self, chain: Sequence[Layer]) -> bool:
        """Whether a layer reads just what the last of a chain has written, and nobody else does; and writes over
        nothing that another block may still read.
        """
        before, value = chain[-1], self.operand(self.read.memref)
        uses = [use.operation for use in value.uses]
        written = arena_range(self.operand(self.store.memref))
        reads = [chain[0].operand(chain[0].read.memref)]
        reads += [layer.operand(load.memref) for layer in (*chain, self) for load in layer.others if _is_given(load)]
        return (
            value is before.operand(before.store.memref)
            and arena_range(value) is not None
            and len(uses) == 2
            and set(uses) == {self.call, before.call}
            and self.steps_read == before.steps_stored
            and self.terms == before.width
            and self.rows is not None
            and self.rows == before.rows
            and not any(_overlap(written, arena_range(read)) for read in reads)
        )


def _is_given(load: memref.LoadOp) -> bool:
    return isinstance(load.memref, BlockArgument)


def _overlap(a: tuple[int, int] | None, b: tuple[int, int] | None) -> bool:
    return a is not None and b is not None and a[0] < b[1] and b[0] < a[1]


def _filled(number: int, by: int) -> int:
    return -(-number // by) * by


def _words(layer: Layer, how: Arithmetic) -> int:
    """The words that a row of a layer's terms takes, in whole steps."""
    return _filled(layer.terms, how.depth * how.terms) // how.terms


def _act_words(chain: Sequence[Layer], plan: Sequence[Arithmetic]) -> int:
    """The words of a row that a block keeps: of the terms of each layer, and of all columns of the one before."""
    read = [_words(layer, how) for layer, how in zip(chain, plan, strict=True)]
    return max(*read, *(how.tile.columns // how.terms for how in plan[:-1]))


def _plan(chain: Sequence[Layer], precision: str, memory: int) -> list[Arithmetic] | None:
    """How each layer is multiplied: all neurons of as many rows as a block has memory for."""
    for rows in (128, 64, 32):
        if precision == "float32":
            if rows > 64:
                continue  # a thread would have more sums than registers
            columns = [_filled(layer.width, 16) for layer in chain]
            found: list[Arithmetic] = [Scalar(Tile(rows, c, rows // 16, c // 16)) for c in columns]
        else:
            down = rows // 32
            across = 8 // down
            least = 32 if precision in ("bf16", "fp16") else max(16, 8 * across)
            columns = [_filled(layer.width, max(least, 8 * across)) for layer in chain]
            found = [TensorCores(Tile(rows, c, 0, 0), precision, down, across) for c in columns]
        act = _act_words(chain, found) * (rows + found[0].padding)
        if 4 * (act + _stage_words(found)) <= memory:
            return found
    return None


def _stage(plan: Sequence[Arithmetic]) -> list[int]:
    """The shape of the memory that weights pass through."""
    return [2, max(how.depth for how in plan), max(how.tile.columns for how in plan) + plan[0].padding]


def _stage_words(plan: Sequence[Arithmetic]) -> int:
    halves, depth, width = _stage(plan)
    return halves * depth * width


@dataclass
class _Fusing:
    """Layers on their way to one function."""

    module: ModuleOp
    layers: Sequence[Layer]
    plan: Sequence[Arithmetic]
    given: dict[SSAValue, SSAValue] = field(default_factory=dict)
    """By values of @infer, the function's arguments."""
    values: list[Values] = field(default_factory=list)
    """By values of each layer's kernel, the function's."""
    thread: SSAValue = field(init=False)
    first: SSAValue = field(init=False)
    act: SSAValue = field(init=False)
    stage: SSAValue = field(init=False)

    def fuse(self) -> None:
        """Puts one launch in the place of the calls."""
        between = {layer.operand(layer.store.memref) for layer in self.layers[:-1]}
        attributes: dict[SSAValue, DictionaryAttr] = {}
        for layer in self.layers:
            given = layer.kernel.arg_attrs
            for k, value in enumerate(layer.call.operands):
                if value not in between:
                    attributes.setdefault(value, given.data[k] if given is not None else DictionaryAttr({}))
        block = Block(arg_types=[v.type for v in attributes])
        for value, argument in zip(attributes, block.args, strict=True):
            argument.name_hint = value.name_hint
            self.given[value] = argument
        numbers = Numbers(block)
        body = Body(block, None, self.layers[0].call, numbers)
        rows, how = self.plan[0].tile.rows, self.plan[0]
        self.act = body.room([_act_words(self.layers, self.plan), rows + how.padding], how.word, "act", shared=True)
        self.stage = body.room(_stage(self.plan), how.word, "stage", shared=True)
        self.thread, self.first = body.thread(), body.times(body.block_id(), rows)
        self.first.name_hint = "first_row"
        self.values = [self._known(body, layer) for layer in self.layers]
        for place, layer in enumerate(self.layers):
            self._layer(Body(block, None, layer.call, numbers), place)
        block.add_op(gpu.ReturnOp([]))
        numbers.tidy()
        self._launch(block, attributes, rows)

    def _launch(self, block: Block, taken: dict[SSAValue, DictionaryAttr], rows: int) -> None:
        first, last = self.layers[0], self.layers[-1]
        name = names_in(self.module)(f"{first.kernel.sym_name.data}_to_{last.kernel.sym_name.data}", "kernel")
        function = gpu.FuncOp(name, ([v.type for v in taken], []), Region(block), True, known_block_size=[BLOCK, 1, 1])
        function.location = fused_location([layer.call.location for layer in self.layers])
        function.attributes[ARGUMENTS] = ArrayAttr(taken.values())
        holder_of(self.module).body.block.add_op(function)
        place = last.call.parent_block()
        assert place is not None
        here = Body(place, last.call, last.call, Numbers(place, last.call))
        bound = first.product.nest.upperBound[0]
        known: Values = dict(zip(first.kernel.body.block.args, first.call.operands, strict=True))
        here.clone(slice_of([bound]), known)
        put_launch(here, function, here.filled(known[bound], rows), list(taken))
        for layer in self.layers:
            erase(layer.call)

    def _known(self, body: Body, layer: Layer) -> Values:
        """What a layer's kernel is given, and computes once."""
        values: Values = {
            argument: self.given[operand]
            for argument, operand in zip(layer.kernel.body.block.args, layer.call.operands, strict=True)
            if operand in self.given
        }
        for op in layer.kernel.body.block.ops:
            if is_pure(op) and all(v in values for v in op.operands):
                body.clone([op], values)
        return values

    def _layer(self, body: Body, place: int) -> None:
        """One layer of this block's rows: from its memory there and back, or to the result."""
        layer, how, values = self.layers[place], self.plan[place], self.values[place]
        bounds = [values[bound] for bound in layer.product.nest.upperBound]
        if place == 0:
            self._enter(body, layer, how, values, bounds)
        sums = self._sum(body, layer, how, values, bounds)
        if place + 1 < len(self.layers):
            self._keep(body, place, bounds, sums)
            body.barrier()
        else:
            self._store(body, layer, how, values, bounds, sums)

    def _rows(self, layer: Layer, how: Arithmetic, values: Values, bounds: Sequence[SSAValue]) -> Factor:
        left, size = layer.product.left, how.tile.rows
        return Factor(layer.product, how, values, left, size, self.first, [0], bounds[:1], bounds[0], "x")

    def _enter(self, body: Body, layer: Layer, how: Arithmetic, values: Values, bounds: Sequence[SSAValue]) -> None:
        """Brings this block's rows, with zeros behind their terms and for rows beyond the last."""
        rows, words = self._rows(layer, how, values, bounds), _words(layer, how)

        def word(here: Body, number: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            place = here.plus(here.times(number, BLOCK), self.thread)
            down, across = here.over(place, words), here.modulo(place, words)
            row = here.plus(self.first, down, "row")
            found = []
            for k in range(how.terms):
                term = here.plus(here.times(across, how.terms), k)
                inside = here.both(rows.within(here, row), here.less(term, layer.terms))
                found.append(rows.guarded(here, inside, row, term, [here.number(layer.terms)]))
            here.store(how.pack(here, found), self.act, across, down)
            return []

        body.loop(0, words * how.tile.rows // BLOCK, 1, word, name="n")
        body.barrier()

    def _sum(self, body: Body, layer: Layer, how: Arithmetic, values: Values, bounds: Sequence[SSAValue]) -> SSAValue:
        """Multiplies this block's rows with the weights, which come step by step."""
        product = layer.product
        weights = Factor(
            product,
            how,
            values,
            product.right,
            how.tile.columns,
            body.number(0),
            product.columns,
            bounds[1:],
            body.number(layer.width),
            "w",
        )
        weights.prepare(body, self.stage)
        sums = how.start(body, "sums")

        def readers(here: Body, number: SSAValue, half: SSAValue) -> tuple[Reader, Reader]:
            behind = here.times(here.minus(number, 1), how.depth)
            return lambda there, k, row: there.load(self.act, there.plus(behind, k), row), weights.reader(half)

        add_up(body, self.thread, [weights], [body.number(layer.terms)], readers, sums)
        return sums

    def _finished(
        self,
        body: Body,
        layer: Layer,
        values: Values,
        bounds: Sequence[SSAValue],
        place: tuple[SSAValue, SSAValue],
        total: SSAValue,
    ) -> tuple[Values, SSAValue]:
        """What a layer makes of a sum."""
        inner = dict(values)
        layer.product.enter(inner, [0, *layer.product.columns], place[: len(bounds)])
        ((_, value),) = layer.product.finish(body, inner, total)
        return inner, value

    def _keep(self, body: Body, place: int, bounds: Sequence[SSAValue], sums: SSAValue) -> None:
        """Writes results where the next layer reads them, as it multiplies them; behind the last neuron are zeros."""
        layer, how, values = self.layers[place], self.plan[place], self.values[place]
        following = self.layers[place + 1]
        zero = body.add(arith.ConstantOp(FloatAttr(0.0, f32)))
        rows = self._rows(layer, how, values, bounds)
        waiting: list[SSAValue] = []

        def one(here: Body, down: SSAValue, across: SSAValue, total: SSAValue) -> None:
            row = here.plus(self.first, down, "row")

            def value(there: Body) -> list[SSAValue]:
                _, made = self._finished(there, layer, values, bounds, (row, across), total)
                inner = {**self.values[place + 1], following.read.res: made}
                inner[following.product.nest.body.block.args[0]] = row
                inner[following.product.sum.body.block.args[0]] = across
                there.clone(following.before, inner)
                return [inner[following.product.left]]

            inside = here.both(rows.within(here, row), here.less(across, layer.width))
            waiting.extend(here.choose(inside, value, [zero]))
            if len(waiting) == how.terms:
                word = here.over(here.minus(across, how.terms - 1), how.terms)
                here.store(how.pack(here, waiting), self.act, word, down)
                waiting.clear()

        how.each(body, self.thread, sums, one)

    def _store(
        self, body: Body, layer: Layer, how: Arithmetic, values: Values, bounds: Sequence[SSAValue], sums: SSAValue
    ) -> None:
        """Writes the results of the last layer."""
        rows = self._rows(layer, how, values, bounds)

        def one(here: Body, down: SSAValue, across: SSAValue, total: SSAValue) -> None:
            row = here.plus(self.first, down, "row")
            inside = here.when(here.both(rows.within(here, row), here.less(across, layer.width)))
            inner, _ = self._finished(inside, layer, values, bounds, (row, across), total)
            inside.clone([layer.store], inner)

        how.each(body, self.thread, sums, one)

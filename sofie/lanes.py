"""Which loop of a nest goes onto vector lanes, which into rows of a register tile, and how large the tile is.

Read off the scalar nest: how each access moves when a loop advances. `sofie.passes.vectorize` does what the plan says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from xdsl.dialects import arith, memref, scf
from xdsl.dialects import math as math_dialect
from xdsl.dialects.builtin import IndexType, IntegerType, MemRefType, f32, f64, i32
from xdsl.ir import Attribute, Block, Operation, SSAValue

from sofie import affine
from sofie.affine import Access, Load, movement
from sofie.dialects.scalars import DecodeOp, DotOp, DotPairsOp, EncodeOp, JoinOp, LoadWordOp, QuantizeOp, RequantizeOp
from sofie.dialects.types import bytes_of, element_of, shape_of
from sofie.loops import most_trips
from sofie.sizes import Size, most
from sofie.target import Cpu

ARITHMETIC = (
    arith.AddfOp,
    arith.SubfOp,
    arith.MulfOp,
    arith.DivfOp,
    arith.NegfOp,
    arith.MaximumfOp,
    arith.MinimumfOp,
    arith.MaxnumfOp,
    arith.MinnumfOp,
)
CONVERSIONS = (
    arith.ExtSIOp,
    arith.ExtUIOp,
    arith.TruncIOp,
    arith.SIToFPOp,
    arith.UIToFPOp,
    arith.FPToSIOp,
    arith.ExtFOp,
    arith.TruncFOp,
    DecodeOp,
    EncodeOp,
)
MIXED = (
    *CONVERSIONS,
    arith.AndIOp,
    arith.XOrIOp,
    arith.ShLIOp,
    arith.ShRSIOp,
    arith.ShRUIOp,
    arith.MaxUIOp,
    arith.MinUIOp,
    math_dialect.RoundEvenOp,
    JoinOp,
    DotOp,
    DotPairsOp,
    LoadWordOp,
    QuantizeOp,
    RequantizeOp,
)
"""Ops of nests on several types, whose vectors all have as many lanes as those of floats."""
FUNCTIONS = (
    math_dialect.ExpOp,
    math_dialect.LogOp,
    math_dialect.SqrtOp,
    math_dialect.TanhOp,
    math_dialect.ErfOp,
)
"""Those that math.hxx has for float vectors."""

INDEX_OPS = (arith.AddiOp, arith.SubiOp, arith.MuliOp, arith.MaxSIOp, arith.MinSIOp)


Outermost = Literal["columns", "others", "rows"]


@dataclass(frozen=True)
class Plan:
    """What goes where: the loop on lanes, the loop of rows (None: no second loop helps), and the tile's shape."""

    lanes_loop: int
    rows_loop: int | None
    lanes: int
    vectors: int
    heights: tuple[int, ...] = (1,)
    """Rows of a tile of one vector, of two, .. up to `vectors`."""
    outermost: Outermost = "columns"
    """What stays while all else passes: a tile's columns, what the loops in no tile walk over, or a tile's rows."""
    overlap: bool = False
    """Whether a column may be computed twice, so that the last vector can lie across the one before."""

    def rows(self, vectors: int) -> int:
        """Rows of a tile of so many vectors."""
        return self.heights[min(vectors, len(self.heights)) - 1]


@dataclass(frozen=True)
class Segment:
    """Columns from `start` to `end`, `step` at a time, each step as vectors of `lanes` at `offsets` from its first."""

    lanes: int
    offsets: tuple[int, ...]
    start: int
    end: int
    step: int


def segments(plan: Plan, extent: int, vectors: int) -> list[Segment]:
    """All columns: whole tiles, fewer vectors, and what fills no vector as one across the last, or by smaller ones."""
    found: list[Segment] = []
    start, lanes = 0, plan.lanes
    for count in range(vectors, 0, -1):
        width = lanes * count
        end = start + (extent - start) // width * width
        if end > start:
            found.append(Segment(lanes, tuple(range(0, width, lanes)), start, end, width))
            start = end
    width = next((w for w in (lanes, 8, 4) if w <= min(extent, lanes)), 1)
    if start < extent and plan.overlap and width > 1:
        last = found[-1] if found else Segment(width, tuple(range(0, extent - width, width)), 0, 0, 0)
        if not found or (last.end - last.start == last.step and vectors > len(last.offsets)):
            reach = extent - last.start
            found[-1:] = [Segment(width, (*last.offsets, reach - width), last.start, extent, reach)]
        else:
            found.append(Segment(width, (0,), extent - width, extent, width))
        return found
    for small in (min(lanes, 8), min(lanes, 4)):
        if small < lanes and extent - start >= small:
            end = start + (extent - start) // small * small
            found.append(Segment(small, (0,), start, end, small))
            start = end
    if start < extent:
        found.append(Segment(1, (0,), start, extent, 1))
    return found


def _accesses(nest: scf.ParallelOp) -> list[tuple[Access, int]]:
    """Every load and store with how often it runs per iteration of the parallel loops."""
    found: list[tuple[Access, int]] = []

    def visit(block: Block, times: int) -> None:
        for op in block.ops:
            if isinstance(op, Access):
                found.append((op, times))
            elif isinstance(op, scf.ForOp):
                visit(op.body.block, times * (most_trips(op.lb, op.ub, op.step) or 1))

    visit(nest.body.block, 1)
    return found


def plan_of(nest: scf.ParallelOp, target: Cpu, tile: int = 0) -> Plan | None:
    """The cheapest way onto lanes, or None where there is none."""
    if not _has_vector_form(nest):
        return None
    doubles = all(element_of(op.memref) == f64 for op, _ in _accesses(nest))
    lanes = max(target.lanes // 2, 2) if doubles else target.lanes
    best: tuple[float, int] | None = None
    for d, loop in enumerate(nest.body.block.args):
        cost = _cost(nest, d, loop, lanes)
        if cost is not None and (best is None or cost <= best[0]):  # of equals, the inner one
            best = (cost, d)
    if best is None:
        return None
    d = best[1]
    if _interleaves(nest, nest.body.block.args[d]):
        return None
    extent = extent_of(nest, d)
    assert extent is not None  # its cost is known
    if not adds_up(nest):
        return Plan(d, None, lanes, 1, overlap=_may_overlap(nest))
    overlap = _may_overlap(nest)
    columns = max(-(-extent // lanes) if overlap else extent // lanes, 1)
    rows_loop = _rows_loop(nest, d)
    if rows_loop is None:
        tiles = -(-columns // (target.registers - 4))
        return Plan(d, None, lanes, -(-columns // tiles), overlap=overlap)
    rows = extent_of(nest, rows_loop)
    step = _step_of(nest, target)
    sums = _sums(nest, d, rows_loop, target, step)
    limit = tile or _apart(nest, d, rows_loop)
    if any(isinstance(op, JoinOp) for op in nest.body.walk()):
        columns, limit = 1, min(limit, target.registers // 4)  # rows share words, columns do not
    heights = _heights(MANY_ROWS if rows is None else rows, columns, sums, limit, step)
    outermost = _outermost(nest, d, rows_loop, len(heights) * lanes)
    return Plan(d, rows_loop, lanes, len(heights), heights, outermost, overlap)


def adds_up(nest: scf.ParallelOp) -> bool:
    """Whether a nest has sums: loops, or words of several rows that are written out."""
    return any(isinstance(op, scf.ForOp | JoinOp) for op in nest.body.walk())


FEWEST = 4
"""The shortest loop that goes onto lanes."""


def _interleaves(nest: scf.ParallelOp, across: SSAValue) -> bool:
    """Whether a nest only copies, into places so few side by side that scalars are stored faster than lanes scattered.

    The three colours of an image of 224 x 224, in the cache: 42 -> 15 us (Zen 4).
    """
    stores = [op for op, _ in _accesses(nest) if isinstance(op, memref.StoreOp)]
    if any(isinstance(op, (*ARITHMETIC, *FUNCTIONS)) for op in nest.body.walk()):
        return False
    short = [loop for d, loop in enumerate(nest.body.block.args) if (extent_of(nest, d) or FEWEST) < FEWEST]
    return all(movement(op, across) not in (0, 1) and any(movement(op, loop) == 1 for loop in short) for op in stores)


def _may_overlap(nest: scf.ParallelOp) -> bool:
    """Whether an iteration may run twice: nothing that the nest reads is what it writes."""
    written = {op.memref for op, _ in _accesses(nest) if isinstance(op, memref.StoreOp)}
    return not any(op.memref in written for op, _ in _accesses(nest) if isinstance(op, Load))


MANY_ROWS = 960
"""What the rows of a run-time extent are taken for when a tile's height is chosen: a multiple of every height."""


def extent_of(nest: scf.ParallelOp, d: int) -> int | None:
    """The extent of a loop, None where only the run knows it."""
    return affine.constant(nest.upperBound[d])


def _has_vector_form(nest: scf.ParallelOp) -> bool:
    """Whether every op of the nest can work on lanes, whichever loop they hold."""
    allowed = (
        *ARITHMETIC,
        *FUNCTIONS,
        *INDEX_OPS,
        arith.ConstantOp,
        *(memref.LoadOp, memref.StoreOp),
        *(scf.ForOp, scf.YieldOp, scf.ReduceOp),
    )
    kinds = {element_of(op.memref) for op, _ in _accesses(nest)}
    mixed = len(kinds) > 1 or not kinds <= {f32, f64} or any(isinstance(op, MIXED) for op in nest.body.walk())
    for op in nest.body.walk():
        types = {v.type for v in [*op.operands, *op.results] if not isinstance(v.type, IndexType | MemRefType)}
        if not isinstance(op, (*allowed, *MIXED) if mixed else allowed):
            return False
        if isinstance(op, FUNCTIONS) and types != {f32} and (mixed or not isinstance(op, math_dialect.SqrtOp)):
            return False
        if mixed and not _is_of_lanes(op, types):
            return False
    return mixed or not any(isinstance(op, math_dialect.SqrtOp) and op.result.type == f64 for op in nest.body.walk())


i8, i16 = IntegerType(8), IntegerType(16)
_BYTES, _NUMBERS = {i8, i16}, {i32, f32, f64}
_CONVERTED: dict[type[Operation], set[tuple[Attribute, Attribute]]] = {
    arith.ExtSIOp: {(i8, i32), (i16, i32)},
    arith.ExtUIOp: {(i8, i32), (i16, i32)},
    arith.TruncIOp: {(i32, i8), (i32, i16)},
    arith.SIToFPOp: set(itertools.product((i8, i16, i32), (f32, f64))),
    arith.UIToFPOp: set(itertools.product((i8, i16), (f32, f64))),
    arith.FPToSIOp: {(f32, i32), (f64, i32)},
    arith.ExtFOp: {(f32, f64)},
    arith.TruncFOp: {(f64, f32)},
    DecodeOp: {(i16, f32)},
    EncodeOp: {(f32, i16)},
}
"""From which type to which integers.hxx and halves.hxx convert."""


def _is_of_lanes(op: Operation, types: set[Attribute]) -> bool:
    """Whether integers.hxx or halves.hxx has an op on vectors of these types."""
    if not types <= _BYTES | _NUMBERS:
        return False
    if isinstance(op, CONVERSIONS):
        return (op.operands[0].type, op.results[0].type) in _CONVERTED[type(op)]
    if isinstance(op, INDEX_OPS):
        return types <= ({i8, i32} if isinstance(op, arith.MaxSIOp | arith.MinSIOp) else {i32})
    if isinstance(op, arith.MaxUIOp | arith.MinUIOp):
        return types == {i8}
    if isinstance(op, arith.ShLIOp | arith.ShRSIOp | arith.ShRUIOp):
        return types == {i32} and affine.constant(op.rhs) in range(32)
    return True


def _cost(nest: scf.ParallelOp, d: int, loop: SSAValue, lanes: int) -> float | None:
    """Cost per element with loop `d` on lanes; None where its loads would have to be gathered."""
    extent = extent_of(nest, d)
    if extent is None or extent < FEWEST or affine.constant(nest.step[d]) != 1 or _bounds_move(nest, loop):
        return None
    small = 4 if lanes > 4 else lanes
    wide, rest = divmod(extent, lanes)
    steps = wide + rest // small + rest % small
    cost = 0.0
    for op, times in _accesses(nest):
        moved = movement(op, loop)
        if moved is None or (moved not in (0, 1) and isinstance(op, Load)):
            return None
        cost += times * (steps / extent if moved in (0, 1) else 1.0)
    return cost


def _bounds_move(nest: scf.ParallelOp, loop: SSAValue) -> bool:
    """Whether a sum of the nest has other bounds in each iteration of `loop`: such iterations make no tile."""
    bounds = [v for op in nest.body.walk() if isinstance(op, scf.ForOp) for v in (op.lb, op.ub)]
    return any(affine.coefficient(v, loop) != 0 for v in bounds)


def _rows_loop(nest: scf.ParallelOp, lanes_loop: int) -> int | None:
    """The loop along which the most vector loads can be kept: they do not move with it.

    Of equals, one whose rows share what the innermost sum reads, then the longest.
    """
    across = nest.body.block.args[lanes_loop]
    best: tuple[int, bool, int, int] | None = None
    for d, loop in enumerate(nest.body.block.args):
        extent = extent_of(nest, d)
        if d == lanes_loop or (extent is not None and extent < 2) or _bounds_move(nest, loop):
            continue
        kept = sum(
            times
            for op, times in _accesses(nest)
            if isinstance(op, Load) and movement(op, across) == 1 and movement(op, loop) == 0
        )
        if any(movement(op, loop) is None for op, _ in _accesses(nest)):
            continue
        candidate = (kept, _shares(nest, across, loop), min(extent or 16, 16), d)
        if kept and (best is None or candidate > best):
            best = candidate
    return None if best is None else best[3]


def _shares(nest: scf.ParallelOp, across: SSAValue, loop: SSAValue) -> bool:
    """Whether a vector that one iteration of `loop` reads is read by the next one a few steps earlier in its sum."""
    for sum_ in [op for op in nest.body.walk() if isinstance(op, scf.ForOp)]:
        for load in [op for op in sum_.body.block.ops if isinstance(op, Load)]:
            inner, outer = movement(load, sum_.body.block.args[0]), movement(load, loop)
            steps = most_trips(sum_.lb, sum_.ub, sum_.step)
            if movement(load, across) == 1 and inner and outer and steps and outer % inner == 0:
                if 0 < outer // inner < steps:
                    return True
    return False


LINE, WAY, WAYS = 64, 4096, 6
"""Bytes of a line and of one way of the first cache, where an address has one place; the ways that rows may fill."""


def _apart(nest: scf.ParallelOp, lanes_loop: int, rows_loop: int) -> int:
    """How many rows the first cache holds side by side; fewer where they lie a multiple of its ways apart."""
    args = nest.body.block.args
    most_rows = MANY_ROWS
    for op, _ in _accesses(nest):
        if isinstance(op, Load) and movement(op, args[lanes_loop]) == 0:
            moved = movement(op, args[rows_loop])
            distance = 0 if moved is None or isinstance(moved, Size) else abs(moved) * bytes_of(element_of(op.memref))
            if distance >= LINE:
                most_rows = min(most_rows, WAYS * (WAY // math.gcd(distance, WAY)))
    return most_rows


ROUNDING = 6
"""Registers of what makes bytes of sums: four constants, a factor, and the element that a dot product cannot load."""


def _sums(nest: scf.ParallelOp, lanes_loop: int, rows_loop: int, target: Cpu, step: Step) -> int:
    """How many vectors the sums and kept operands of a tile may fill.

    All registers but what passes through them, where the other operand is one element at a time. Where it is a vector
    for each sum, as of a depthwise convolution, compilers load many of them early: half the registers, and no fewer
    than hide the latency.
    What makes bytes of sums has constants that compilers keep, if need be instead of sums (MobileNetV2: 2.40 ->
    2.32 ms, Sapphire Rapids).
    """
    lanes, rows = nest.body.block.args[lanes_loop], nest.body.block.args[rows_loop]
    loads = [op for op, times in _accesses(nest) if isinstance(op, Load) and times > 1]
    vectors = any(movement(op, lanes) == 1 and movement(op, rows) != 0 for op in loads)
    if vectors:
        return max(target.registers // 2, 14)
    rounds = step is PLAIN and any(isinstance(op, QuantizeOp | RequantizeOp) for op in nest.body.walk())
    return target.registers - step.passing - (ROUNDING if rounds else 0)


def _heights(rows: int, vectors: int, registers: int, limit: int, step: Step) -> tuple[int, ...]:
    """Rows of a tile of one vector, of two, ..: as many vectors as take the fewest cycles over all rows and columns.

    A tile's sums and one row of constants have to fit into `registers`, and its rows are at most `limit`; of equals,
    the one with most sums, then with fewest loads.
    """

    def total(height: int, count: int) -> float:
        return (rows // height) * step.cycles(height, count) + step.cycles(rows % height, count)

    best: list[int] = []
    for count in range(1, min(vectors, 4) + 1):
        most_rows = min(limit, rows, (registers - step.kept * count) // count)
        best.append(min(range(1, most_rows + 1), key=lambda height: (total(height, count), -height)))

    def whole(count: int) -> tuple[float, int, int]:
        rest = vectors % count
        cycles = (vectors // count) * total(best[count - 1], count) + (total(best[rest - 1], rest) if rest else 0.0)
        return cycles, -count * best[count - 1], count + best[count - 1]

    chosen = min(range(1, len(best) + 1), key=whole)
    return tuple(best[:chosen])


FIRST_CACHE, SECOND_CACHE = 24576, 393216
"""Bytes that the caches hold beside what else passes through them."""


def _outermost(nest: scf.ParallelOp, lanes_loop: int, rows_loop: int, width: int) -> Outermost:
    """What is kept, so that the fewest bytes move.

    A tile's rows where the first cache holds all columns; else a tile's columns, or what an iteration of the loops in
    no tile reads, by what the other operands cost then.
    """
    args, panels = nest.body.block.args, panels_of(nest, lanes_loop)
    others = [d for d in range(len(args)) if d not in (lanes_loop, rows_loop, *panels)]
    times = math.prod(extent_of(nest, d) or MANY_ROWS for d in others)
    columns = math.prod(extent_of(nest, d) or 1 for d in panels) * max((extent_of(nest, lanes_loop) or 1) // width, 1)
    inside = by_outside = 0.0
    kept = 0
    for base in dict.fromkeys(op.memref for op, _ in _accesses(nest) if isinstance(op, Load)):
        loads = [op for op, _ in _accesses(nest) if isinstance(op, Load) and op.memref is base]
        moves = {d for d in range(len(args)) if any(movement(op, args[d]) != 0 for op in loads)}
        size = most(math.prod(shape_of(base))) * bytes_of(element_of(base))
        inside += _passes(size, 1 if moves & {lanes_loop, *panels} else columns)
        by_outside += _passes(size, 1 if moves & set(others) else times)
        kept += 0 if moves & {rows_loop, *others} else size
    if columns > 1 and kept <= FIRST_CACHE // 2:
        return "rows"
    return "columns" if times == 1 or inside < by_outside else "others"


def panels_of(nest: scf.ParallelOp, lanes_loop: int) -> list[int]:
    """The loops over more columns: they move just what the loop on lanes moves."""
    args = nest.body.block.args
    loads = [op for op, _ in _accesses(nest) if isinstance(op, Load)]
    across = [movement(op, args[lanes_loop]) != 0 for op in loads]
    return [d for d, loop in enumerate(args) if d != lanes_loop and [movement(op, loop) != 0 for op in loads] == across]


def _passes(size: int, times: int) -> float:
    """Cycles for reading so many bytes so many times from the cache that holds them."""
    if size <= FIRST_CACHE:
        return 0.0
    return size * times / (32 if size <= SECOND_CACHE else 12)


def _cycles(rows: int, vectors: int) -> float:
    """What a tile takes a step: multiply-adds or loads at two a cycle, and at least the latency of one chain."""
    return max(rows * vectors, rows + vectors, 8) / 2 if rows else 0.0


def _cycles_of_words(rows: int, vectors: int) -> float:
    """The same where words become halves: what it takes to issue two multiply-adds a sum, of two ops each."""
    return ((4 * rows + 4) * vectors + 2 * rows + 4) / 5 if rows else 0.0


@dataclass(frozen=True)
class Step:
    """What a step of a tile's sums takes: cycles, by rows and vectors, and registers.

    kept: registers that a vector of columns keeps. passing: those of what passes through: elements of x and products.
    """

    cycles: Callable[[int, int], float]
    kept: int
    passing: int


PLAIN, WIDENED, NARROW = Step(_cycles, 1, 1), Step(_cycles_of_words, 2, 1), Step(_cycles, 1, 3)


def _step_of(nest: scf.ParallelOp, target: Cpu) -> Step:
    """That of words, widened first or narrow, where the CPU multiplies no bytes; else a plain one."""
    dots = [op for op in nest.body.walk() if isinstance(op, DotOp)]
    if not dots or not target.multiplies_pairs:
        return PLAIN
    return NARROW if all(dot.narrow is not None for dot in dots) else WIDENED

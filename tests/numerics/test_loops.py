"""Hypothesis writes loops and branches at level 2; each level below must mean the same.

What is drawn is what can go wrong: values that change places between iterations, results computed on top of a carried
value that is still read, slices of the current step, values from outside, loops in loops, branches in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from xdsl.parser import Parser

from sofie import interpreter, pipeline
from tests.numerics.test_random_graphs import examples

SIDE = 3
TENSOR = f"tensor<{SIDE}x{SIDE}xf32>"
STRAIGHT, TURNED = "affine_map<(d0, d1) -> (d0, d1)>", "affine_map<(d0, d1) -> (d1, d0)>"
DEEPEST = 3


@dataclass
class Writer:
    """A function under construction; `values` are the tensors that the next op may use."""

    draw: st.DrawFn
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def pick(self, values: list[str]) -> str:
        """One of the values, the newest most likely."""
        return self.draw(st.sampled_from(values[::-1]))

    def chance(self, percent: int) -> bool:
        return self.draw(st.integers(0, 99)) < percent

    def line(self, text: str) -> None:
        self.lines.append(text)

    def elementwise(self, values: list[str]) -> str:
        """(a - b) / 2 into room of its own or on top of a value, which may be read as well."""
        a, b = self.pick(values), self.pick(values)
        turned = self.draw(st.sampled_from([STRAIGHT, STRAIGHT, TURNED]))
        over = self.pick(values) if self.chance(40) else None
        target = over or self.name()
        if over is None:
            self.line(f"{target} = tensor.empty() : {TENSOR}")
        reads_old = over is not None and self.chance(50)
        result = self.name()
        self.line(
            f"{result} = linalg.generic {{indexing_maps = [{turned}, {STRAIGHT}, {STRAIGHT}], "
            f'iterator_types = ["parallel", "parallel"]}} ins({a}, {b} : {TENSOR}, {TENSOR}) '
            f"outs({target} : {TENSOR}) {{"
        )
        self.line("^bb0(%p: f32, %q: f32, %o: f32):")
        self.line(f"%d = arith.subf %p, {'%o' if reads_old else '%q'} : f32")
        self.line("%h = arith.constant 0.5 : f32")
        self.line("%r = arith.mulf %d, %h : f32")
        self.line(f"linalg.yield %r : f32 }} -> {TENSOR}")
        return result

    def row(self, values: list[str], steps: list[str]) -> str:
        """A row of one value, at the current step or a fixed place, put into another."""
        places = [*steps, "0", "1"]
        part, result = self.name(), self.name()
        start, end = self.pick(places), self.pick(places)
        kind = f"tensor<1x{SIDE}xf32>"
        source = self.pick(values)
        self.line(f"{part} = tensor.extract_slice {source}[{start}, 0] [1, {SIDE}] [1, 1] : {TENSOR} to {kind}")
        if self.chance(60):
            moved, room = self.name(), self.name()
            self.line(f"{room} = tensor.empty() : {kind}")
            self.line(
                f"{moved} = linalg.generic {{indexing_maps = [{STRAIGHT}, {STRAIGHT}], "
                f'iterator_types = ["parallel", "parallel"]}} ins({part} : {kind}) outs({room} : {kind}) {{'
            )
            self.line("^bb0(%p: f32, %o: f32):")
            self.line(f"%n = arith.negf %p : f32 \n linalg.yield %n : f32 }} -> {kind}")
            part = moved
        self.line(
            f"{result} = tensor.insert_slice {part} into {self.pick(values)}[{end}, 0] [1, {SIDE}] [1, 1] "
            f": {kind} into {TENSOR}"
        )
        return result

    def loop(self, values: list[str], steps: list[str], depth: int) -> list[str]:
        starts = [self.pick(values) for _ in range(self.draw(st.integers(1, 3)))]
        carried, step = [self.name() for _ in starts], self.name()
        results = [self.name() for _ in starts]
        pairs = ", ".join(f"{c} = {s}" for c, s in zip(carried, starts, strict=True))
        kinds = ", ".join([TENSOR] * len(starts))
        self.line(f"{', '.join(results)} = scf.for {step} = %c0 to %c3 step %c1 iter_args({pairs}) -> ({kinds}) {{")
        inner = self.block([*values, *carried], [*steps, step], depth + 1)
        ends = [self.pick([*carried, *inner]) for _ in starts]
        self.line(f"scf.yield {', '.join(ends)} : {kinds} }}")
        return results

    def branch(self, values: list[str], steps: list[str], depth: int) -> list[str]:
        results = [self.name() for _ in range(self.draw(st.integers(1, 2)))]
        kinds = ", ".join([TENSOR] * len(results))
        flag = self.name()
        self.line(f"{flag} = tensor.extract %flag[] : tensor<i1>")
        self.line(f"{', '.join(results)} = scf.if {flag} -> ({kinds}) {{")
        for end in ("} else {", "}"):
            inner = self.block(values, steps, depth + 1)
            ends = [self.pick([*values, *inner]) for _ in results]
            self.line(f"scf.yield {', '.join(ends)} : {kinds} {end}")
        return results

    def block(self, values: list[str], steps: list[str], depth: int) -> list[str]:
        """A few ops; returns the values they make."""
        made: list[str] = []
        for _ in range(self.draw(st.integers(1, 4))):
            seen = [*values, *made]
            kind = self.draw(st.sampled_from(["elementwise", "elementwise", "row", "loop", "branch"]))
            if kind == "row":
                made.append(self.row(seen, steps))
            elif kind == "elementwise" or depth == DEEPEST:
                made.append(self.elementwise(seen))
            else:
                made += (self.loop if kind == "loop" else self.branch)(seen, steps, depth)
        return made


@st.composite
def programs(draw: st.DrawFn) -> str:
    writer = Writer(draw)
    made = writer.block(["%x", "%z"], [], 0)
    results = [writer.pick(["%x", *made]) for _ in range(draw(st.integers(1, 3)))]
    kinds = ", ".join([TENSOR] * len(results))
    head = (
        f'func.func @infer(%x : {TENSOR}, %z : {TENSOR}, %flag : tensor<i1> {{sofie.dtype = "bool"}}) -> ({kinds}) {{'
    )
    bounds = [f"%c{k} = arith.constant {k} : index" for k in (0, 1, SIDE)]
    return "\n".join([head, *bounds, *writer.lines, f"func.return {', '.join(results)} : {kinds} }}"])


def lowered(text: str, spec: str = "", without: tuple[str, ...] = ()) -> object:
    module = Parser(pipeline.context(), text).parse_module()
    pipeline.verify(module, "as drawn")
    if spec:
        pipeline.run(module, pipeline.parse(spec, without), verify_each=True)
    return module


def inputs(flag: bool) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [*(rng.standard_normal((SIDE, SIDE)).astype(np.float32) for _ in range(2)), np.array(flag)]


LEVELS = (
    "assign-destinations",
    "assign-destinations,bufferize,plan-memory",
    "fuse-elementwise,fuse-reduction,fuse-epilogue,assign-destinations{in-place=false},bufferize,plan-memory",
    "fuse-elementwise,lower{cpu=portable}",
)


@pytest.mark.parametrize("spec", LEVELS)
def test_every_level_means_what_level_2_means(spec: str) -> None:
    """A write that overtakes a read, in this iteration or the next; a buffer shared while somebody still needs it."""

    @examples(60)
    @given(programs(), st.booleans())
    def agrees(text: str, flag: bool) -> None:
        note(text)
        given_arrays = inputs(flag)
        want = interpreter.run(lowered(text), given_arrays)
        got = interpreter.run(lowered(text, spec), given_arrays)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)

    agrees()


ADD = (
    f'{{indexing_maps = [{STRAIGHT}, {STRAIGHT}], iterator_types = ["parallel", "parallel"]}} ins(%a : {TENSOR}) '
    f"outs(%b : {TENSOR}) {{ ^bb0(%p: f32, %o: f32): %r = arith.addf %p, %o : f32 linalg.yield %r : f32 }} -> {TENSOR}"
)


def add(a: str, b: str) -> str:
    """b + a, on top of b."""
    return "linalg.generic " + ADD.replace("%a", a).replace("%b", b)


HAZARDS = {
    "a value from outside is updated in every iteration": (
        f"""%f = {add("%x", "%z")}
        %y = scf.for %t = %c0 to %c3 step %c1 iter_args(%s = %x) -> ({TENSOR}) {{
          %v = {add("%s", "%f")}
          scf.yield %v : {TENSOR}
        }}
        func.return %y, %x : {TENSOR}, {TENSOR}""",
        lambda x, z: (x + 3 * (x + z), x),
    ),
    "two values change places": (
        f"""%f = {add("%x", "%z")}
        %y, %w = scf.for %t = %c0 to %c3 step %c1 iter_args(%s = %x, %u = %f) -> ({TENSOR}, {TENSOR}) {{
          scf.yield %u, %s : {TENSOR}, {TENSOR}
        }}
        func.return %y, %w : {TENSOR}, {TENSOR}""",
        lambda x, z: (x + z, x),
    ),
    "a carried value is read after it was updated": (
        f"""%y, %w = scf.for %t = %c0 to %c3 step %c1 iter_args(%s = %x, %u = %z) -> ({TENSOR}, {TENSOR}) {{
          %v = {add("%u", "%s")}
          %q = {add("%s", "%u")}
          scf.yield %v, %q : {TENSOR}, {TENSOR}
        }}
        func.return %y, %w : {TENSOR}, {TENSOR}""",
        lambda x, z: (4 * (x + z), 4 * (x + z)),
    ),
    "one start for two carried values": (
        f"""%f = {add("%x", "%z")}
        %y, %w = scf.for %t = %c0 to %c3 step %c1 iter_args(%s = %f, %u = %f) -> ({TENSOR}, {TENSOR}) {{
          %v = {add("%x", "%s")}
          scf.yield %v, %u : {TENSOR}, {TENSOR}
        }}
        func.return %y, %w : {TENSOR}, {TENSOR}""",
        lambda x, z: (x + z + 3 * x, x + z),
    ),
}


@pytest.mark.parametrize("spec", ["", *LEVELS])
@pytest.mark.parametrize("name", HAZARDS)
def test_hazard(name: str, spec: str) -> None:
    """The ways in which an iteration can spoil the next one, each alone."""
    body, expected = HAZARDS[name]
    bounds = "\n".join(f"%c{k} = arith.constant {k} : index" for k in (0, 1, SIDE))
    head = f"func.func @infer(%x : {TENSOR}, %z : {TENSOR}) -> ({TENSOR}, {TENSOR}) {{"
    x, z, _ = inputs(True)
    results = interpreter.run(lowered(f"{head}\n{bounds}\n{body}\n}}", spec), [x, z])
    for got, want in zip(results, expected(x, z), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)

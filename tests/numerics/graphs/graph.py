"""A graph under construction, whose values are known while it is drawn.

Each node is evaluated as it is added: with all floats as float32, as an implementation would, and with all floats as
float64, which is the truth. So no row says what shape or type its results have, and how far apart the two are says how
well conditioned a value is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sofie.errors import SofieError
from tests.numerics.graphs.judges import evaluate, in_precision

Draw = Callable[[st.SearchStrategy], object]
Fits = Callable[[tuple[int, ...]], bool]

LARGEST = 1000
"""Elements a value may have before the graph stops growing from it."""
HIGHEST = 1e12
"""The largest magnitude of a float: beyond it, float32 and float64 part."""
UNFOLDED = 5000
"""Elements that make a value too large to be evaluated when a model is read."""
EXTENTS = (1, 2, 3, 4, 5, 6, 9, 13)
FLOATS = ("float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = ("int32", "int64", "uint8", *SIGNED, *UNSIGNED)
NUMBERS = ("float32", "float32", *FLOATS, *INTEGERS)
WIDE = ("float32", "float32", *FLOATS, "int32", "int64", "uint32", "uint64")
ALL = ("float32", "float32", *NUMBERS, "bool")
EXACT = frozenset(
    "Abs Add ArgMax Cast CastLike Ceil CenterCropPad Clip Compress Concat ConstantOfShape Div Expand EyeLike Flatten "
    "Floor Gather GatherElements GatherND Hardmax Identity Max MaxPool GlobalMaxPool Min Mod Mul Neg OneHot Pad "
    "Range ReduceMax ReduceMin ReduceSum Relu Reshape ReverseSequence Round ScatterElements ScatterND Sign Slice "
    "SpaceToDepth DepthToSpace Split Squeeze Sub Sum TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unique "
    "Unsqueeze Where".split()
)
"""Operators whose result, where float32 holds it, is the same in any order of computing; what a jump may follow."""


class Declined(Exception):
    """The reference refuses the node, or its result lies beyond what floats of both widths agree on."""


@dataclass(frozen=True)
class Value:
    """A value in both widths.

    `exact`: no rounding went into it. `open`: other nodes may be drawn on it; it is neither empty nor large.
    """

    single: np.ndarray
    double: np.ndarray
    kind: str
    exact: bool
    open: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.double.shape


@dataclass
class Graph:
    """Values by name, nodes, weights and the names of inputs.

    Hypothesis draws the operators and the values they read, which is what it can shrink; numbers come from `rng`, since
    hypothesis prefers some and gives up on models that need many.
    """

    draw: Draw
    rng: np.random.Generator
    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    # -- choices -------------------------------------------------------------------------------------------------

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def flag(self) -> bool:
        return bool(self.rng.random() < 0.5)

    def one_of(self, *choices: object) -> object:
        """One of the choices, each as likely."""
        return choices[int(self.rng.integers(len(choices)))]

    def some(self, count: int, least: int = 1) -> list[int]:
        """At least so many of the numbers below `count`, in order."""
        picked = [k for k in range(count) if self.rng.random() < 0.5]
        return picked if len(picked) >= least else sorted(self.rng.permutation(count)[:least].tolist())

    # -- what is there -------------------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        return self.values[name].shape

    def rank(self, name: str) -> int:
        return len(self.values[name].shape)

    def kind(self, name: str) -> str:
        return self.values[name].kind

    def array(self, name: str) -> np.ndarray:
        return self.values[name].single

    def value(
        self,
        *kinds: str,
        rank: tuple[int, int] = (0, 5),
        exact: bool = False,
        fits: Fits = lambda shape: True,
        shape: tuple[int, ...] = (2, 3, 4, 5, 3),
    ) -> str:
        """A value of one of the types and ranks whose shape fits; one is made of another where there is none.

        `shape`: what a new input has, cut to the rank, where nothing else fits.
        """
        kind = self.one_of(*(kinds or ("float32",)))

        def usable(v: Value) -> bool:
            low, high = rank
            return (
                v.open and v.kind == kind and low <= len(v.shape) <= high and fits(v.shape) and (v.exact or not exact)
            )

        names = [name for name, v in self.values.items() if usable(v)]
        if names and self.integer(0, 4):
            return self.draw(st.sampled_from(names[::-1]))
        for name in self.rng.permutation([n for n, v in self.values.items() if v.open]).tolist():
            v = self.values[name]
            if (v.kind in (kind, "float32")) and (v.exact or (v.kind == kind and not exact)) and v.double.size:
                made = self.of_rank(name if v.kind == kind else self.of_kind(name, kind), rank)
                if usable(self.values[made]):
                    return made
        for _ in range(20):
            extents = self.rng.choice(EXTENTS, self.rng.integers(rank[0], min(rank[1], 4) + 1))
            if np.prod(extents) <= LARGEST // 4 and fits(tuple(extents.tolist())):
                return self.fresh(tuple(extents.tolist()), kind)
        return self.fresh(shape[: rank[1]], kind)

    def of_kind(self, x: str, kind: str) -> str:
        """An exact float value as another type: a comparison, or a cast of what the type holds."""
        if kind == "bool":
            return self.node("Greater", [x, self.constant(np.float32(0.25))])
        if kind != "float64":
            if np.abs(self.array(x)).max(initial=0) > 25:
                return self.fresh(self.shape(x), kind)
            x = self.node("Mul", [x, self.constant(np.float32(4))])
            x = self.node("Abs", [x]) if kind in UNSIGNED else x
        return self.node("Cast", [x], to=code(kind))

    def of_rank(self, x: str, rank: tuple[int, int]) -> str:
        """The same elements in a shape whose rank lies within."""
        shape, (low, high) = self.shape(x), rank
        if len(shape) > high:
            target = (*shape[: high - 1], int(np.prod(shape[high - 1 :]))) if high else ()
            return self.node("Reshape", [x, self.ints(*target)]) if high else self.node("ReduceMax", [x], keepdims=0)
        if len(shape) < low:
            return self.node("Unsqueeze", [x, self.ints(*range(low - len(shape)))])
        return x

    # -- what is added -------------------------------------------------------------------------------------------

    def random(self, shape: Sequence[int], kind: str) -> np.ndarray:
        """Numbers of a type: floats that float32 holds, half of them multiples of a quarter; integers, most small."""
        shape = tuple(shape)
        if kind == "bool":
            return self.rng.random(shape) < 0.5
        if kind in FLOATS:
            quarters = self.rng.integers(-16, 17, shape) / 4
            array = quarters if self.rng.random() < 0.5 else self.rng.standard_normal(shape)
            return np.asarray(array, np.float32).astype(kind)
        least, most = np.iinfo(kind).min, np.iinfo(kind).max
        if self.rng.random() < 0.75:
            least, most = max(least, -20), 20
        return self.rng.integers(least, most, shape, dtype=kind, endpoint=True)

    def fresh(self, shape: Sequence[int], kind: str = "float32") -> str:
        """A new input of the model."""
        return self.feed(self.random(shape, kind))

    def feed(self, array: np.ndarray) -> str:
        """A new input with these contents."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(name)
        self._enter(name, np.asarray(array), np.isfinite(array).all())
        return name

    def constant(self, array: np.ndarray) -> str:
        """A weight with these contents."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        self._enter(name, np.asarray(array), False)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, *shape: int, kind: str = "float32") -> str:
        return self.constant(self.random(shape, kind))

    def given(self, array: np.ndarray) -> str:
        """A weight or an input with these contents."""
        return self.constant(array) if self.rng.random() < 0.6 else self.feed(array)

    def operand(self, *shape: int, kind: str = "float32", exact: bool = False) -> str:
        """A value of just this shape: a weight, an input, or one that is there."""
        names = [n for n, v in self.values.items() if v.open and (v.shape, v.kind) == (shape, kind)]
        names = [n for n in names if self.values[n].exact or not exact]
        if names and self.rng.random() < 0.4:
            return self.draw(st.sampled_from(names[::-1]))
        return self.given(self.random(shape, kind))

    def positive(self, *shape: int, kind: str = "float32") -> str:
        """A weight or an input of numbers from a half."""
        return self.given((np.abs(self.random(shape, kind)) + 0.5).astype(kind))

    def spread(self, *shape: int, axis: int = -1) -> str:
        """An input without two equal elements along an axis."""
        order = np.argsort(self.rng.random(shape), axis=axis)
        return self.feed((order / 4 - 1).astype(np.float32))

    def bounded(self, x: str) -> str:
        """A value between -1 and 1."""
        return self.node("Tanh", [x]) if np.abs(self.array(x)).max(initial=0) > 1.5 else x

    def squared(self, x: str) -> str:
        """A value from a quarter to a few, as smooth as `x`."""
        x = self.bounded(x)
        return self.node("Add", [self.node("Mul", [x, x]), self.constant(np.array(0.25, self.kind(x)))])

    def part(self, x: str, start: int, count: int) -> str:
        """`count` elements of a vector."""
        return self.node("Slice", [x, self.ints(start), self.ints(start + count)])

    def node(self, operator: str, inputs: Sequence[str], **how: object) -> str:
        """A node of one result, or the first result of one."""
        return self.nodes_of(operator, inputs, **how)[0]

    def nodes_of(
        self,
        operator: str,
        inputs: Sequence[str],
        count: int = 1,
        domain: str = "",
        kind: str | None = None,
        reads: Sequence[str] = (),
        found: bool = False,
        **attributes: object,
    ) -> list[str]:
        """A node of `count` results.

        `kind`: the type of a float result where it is that of neither an operand nor an attribute. `reads`: values that
        graphs inside see. `found`: the run finds the sizes of the results, so that nothing else is drawn on them.
        """
        number = len(self.nodes)
        names = [f"v{number}" if not k else f"v{number}_{k}" for k in range(count)]
        label = f"{operator}_{number}"
        node = helper.make_node(operator, inputs, names, name=label, domain=domain, **attributes)
        feeds = [n for n in dict.fromkeys([*inputs, *reads]) if n]
        widths = []
        for width in ("single", "double"):
            arrays = {n: getattr(self.values[n], width) for n in feeds}
            try:
                widths.append(evaluate(in_precision(node, width), arrays))
            except SofieError as error:
                raise Declined(f"{label}: {error}") from error
        kind = kind or _attribute_kind(node)
        floats = [self.kind(n) for n in feeds if self.kind(n) in FLOATS]
        kind = kind or ("float64" if floats and set(floats) == {"float64"} else "float32")
        exact = operator in EXACT and all(self.values[n].exact for n in feeds)
        widths = [[_as(width, a) for a in made] for width, made in zip((np.float32, np.float64), widths, strict=True)]
        for single, double in zip(*widths, strict=True):
            if not np.all(np.abs(double) <= HIGHEST) and double.dtype.kind == "f":
                raise Declined(f"{label}: a result is as large as {np.abs(double).max()}")
            assert double.dtype.kind == "f" or np.array_equal(single, double), (
                f"{label} jumps where numbers are rounded"
            )
        for name, single, double in zip(names, *widths, strict=True):
            plain = double.dtype.kind != "f"
            known = plain or (exact and np.array_equal(single, double))
            small = 0 < double.size <= LARGEST and not found
            self.values[name] = Value(single, double, str(double.dtype) if plain else kind, known, small)
        self.nodes.append(node)
        return names

    def operators(self) -> Counter[tuple[str, str]]:
        """How often each operator is there, by domain and name."""
        return Counter((node.domain, node.op_type) for node in self.nodes)

    def _enter(self, name: str, array: np.ndarray, pickable: bool) -> None:
        floats = array.dtype.kind == "f"
        single, double = (array.astype(f"float{width}") if floats else array for width in (32, 64))
        self.values[name] = Value(single, double, str(array.dtype), True, bool(pickable))


def code(kind: str) -> int:
    """ONNX's number of an element type."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(kind))


def _attribute_kind(node: onnx.NodeProto) -> str | None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype", "output_datatype", "output_dtype"):
            return {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}.get(attribute.i)
        if attribute.name == "value" and attribute.t.data_type == TensorProto.DOUBLE:
            return "float64"
    return None


def _as(width: type, array: np.ndarray) -> np.ndarray:
    """Floats in this width, whatever the reference has made of them."""
    return array.astype(width) if array.dtype.kind == "f" else array

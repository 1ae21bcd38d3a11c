"""RNN, GRU and LSTM in float64, element by element as the ONNX specification words them; and models of one node.

Where its text leaves something open, ONNX Runtime's behaviour is written here: which parameters an activation takes
from the lists, that the clip does not touch the cell, and what a sequence shorter than the tensor does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Floats = np.ndarray

ACTIVATIONS: dict[str, tuple[int, Callable[..., Floats]]] = {
    "Relu": (0, lambda x: np.maximum(x, 0)),
    "Tanh": (0, np.tanh),
    "Sigmoid": (0, lambda x: 1 / (1 + np.exp(-x))),
    "Affine": (2, lambda x, a=1.0, b=0.0: a * x + b),
    "LeakyRelu": (1, lambda x, a=0.01: np.where(x < 0, a * x, x)),
    "ThresholdedRelu": (1, lambda x, a=1.0: np.where(x > a, x, 0)),
    "ScaledTanh": (2, lambda x, a=1.0, b=1.0: a * np.tanh(b * x)),
    "HardSigmoid": (2, lambda x, a=0.2, b=0.5: np.clip(a * x + b, 0, 1)),
    "Elu": (1, lambda x, a=1.0: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x)),
    "Softsign": (0, lambda x: x / (1 + np.abs(x))),
    "Softplus": (0, lambda x: np.logaddexp(0, x)),
}
"""How many of alpha and beta each takes, and the function."""

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


@dataclass(frozen=True)
class Case:
    """One node: its attributes as ONNX names them, its sizes, and which optional operands it has."""

    operator: str
    steps: int = 5
    batch: int = 3
    inputs: int = 4
    hidden: int = 6
    attributes: dict[str, object] = field(default_factory=dict)
    operands: tuple[str, ...] = ("B",)
    at_run_time: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    outputs: tuple[bool, ...] = (True, True, True)
    dtype: str = "float32"

    @property
    def directions(self) -> int:
        return 2 if self.attributes.get("direction") == "bidirectional" else 1

    @property
    def results(self) -> int:
        return 3 if self.operator == "LSTM" else 2

    def arrays(self, seed: int = 0) -> dict[str, Floats]:
        """Random operands in ONNX's order, absent ones left out."""
        rng = np.random.default_rng(seed)
        d, h, g = self.directions, self.hidden, GATES[self.operator]
        swap = self.attributes.get("layout") == 1
        state = (self.batch, d, h) if swap else (d, self.batch, h)
        shapes = {
            "X": (self.batch, self.steps, self.inputs) if swap else (self.steps, self.batch, self.inputs),
            "W": (d, g * h, self.inputs),
            "R": (d, g * h, h),
            "B": (d, 2 * g * h),
            "sequence_lens": (self.batch,),
            "initial_h": state,
            "initial_c": state,
            "P": (d, 3 * h),
        }
        made = {}
        for name, shape in shapes.items():
            array = (rng.standard_normal(shape) * (1.0 if name == "X" else 0.5)).astype(self.dtype)
            if name in ("X", "W", "R", *self.operands):
                made[name] = array
        if self.lengths:
            made["sequence_lens"] = np.array(self.lengths, np.int32)
        return made

    def model(self, arrays: dict[str, Floats]) -> onnx.ModelProto:
        """The node with X, and the operands `at_run_time`, as inputs and the others as weights."""
        slots = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
        names = [n if n in arrays else "" for n in slots[: 8 if self.operator == "LSTM" else 6]]
        while not names[-1]:
            names.pop()
        outputs = [
            n if used else "" for n, used in zip(("Y", "Y_h", "Y_c")[: self.results], self.outputs, strict=False)
        ]
        attributes = {"hidden_size": self.hidden, **self.attributes}
        node = helper.make_node(self.operator, names, outputs, name="layer", **attributes)
        live = ("X", *self.at_run_time)
        graph = helper.make_graph(
            [node],
            "test",
            [_port(n, arrays[n]) for n in arrays if n in live],
            [helper.make_tensor_value_info(n, _code(self.dtype), None) for n in outputs if n],
            [numpy_helper.from_array(a, n) for n, a in arrays.items() if n not in live],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)

    @property
    def leans_on_defaults(self) -> bool:
        """Whether an activation has no parameter given whose default ONNX Runtime does not know."""
        used = {"Affine", "ThresholdedRelu", "ScaledTanh"} & set(self.attributes.get("activations", ()))
        return bool(used) and "activation_alpha" not in self.attributes


def _code(dtype: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _port(name: str, array: Floats) -> onnx.ValueInfoProto:
    code = TensorProto.INT32 if name == "sequence_lens" else _code(str(array.dtype))
    return helper.make_tensor_value_info(name, code, array.shape)


def _functions(case: Case) -> list[list[Callable[[Floats], Floats]]]:
    names = case.attributes.get("activations") or FUNCTIONS[case.operator] * case.directions
    alphas = iter(np.float32(case.attributes.get("activation_alpha", ())).astype(float))
    betas = iter(np.float32(case.attributes.get("activation_beta", ())).astype(float))

    def bind(name: str) -> Callable[[Floats], Floats]:
        count, fn = ACTIVATIONS[name]
        given = [next(source, None) for source in (alphas, betas)[:count]]
        keywords = {k: v for k, v in zip("ab", given, strict=False) if v is not None}
        return lambda x: fn(x, **keywords)

    bound = [bind(n) for n in names]
    each = len(FUNCTIONS[case.operator])
    return [bound[k * each : (k + 1) * each] for k in range(case.directions)]


def truth(case: Case, arrays: dict[str, Floats]) -> list[Floats]:
    """Y, Y_h and (LSTM) Y_c in float64."""
    wide = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arrays.items()}
    swap = case.attributes.get("layout") == 1
    x = wide["X"].swapaxes(0, 1) if swap else wide["X"]
    states = [wide[n].swapaxes(0, 1) if swap else wide[n] for n in ("initial_h", "initial_c") if n in wide]
    zeros = np.zeros((case.directions, case.batch, case.hidden))
    initial_h = states[0] if "initial_h" in wide else zeros
    initial_c = states[-1] if "initial_c" in wide else zeros
    lengths = wide.get("sequence_lens", np.full(case.batch, case.steps))
    direction = case.attributes.get("direction", "forward")
    y = np.zeros((case.steps, case.directions, case.batch, case.hidden))
    last_h, last_c = initial_h.copy(), initial_c.copy()
    for d, functions in enumerate(_functions(case)):
        backwards = direction == "reverse" or d == 1
        for b in range(case.batch):
            walk: Iterator[int] = reversed(range(lengths[b])) if backwards else iter(range(lengths[b]))
            h, c = initial_h[d, b], initial_c[d, b]
            for t in walk:
                h, c = _step(case, functions, {n: wide[n][d] for n in wide if n in ("W", "R", "B", "P")}, x[t, b], h, c)
                y[t, d, b] = h
            last_h[d, b], last_c[d, b] = h, c
    results = [y.transpose(2, 0, 1, 3) if swap else y]
    results += [v.swapaxes(0, 1) if swap else v for v in (last_h, last_c)]
    return results[: case.results]


def _step(
    case: Case, functions: Sequence[Callable[[Floats], Floats]], own: dict[str, Floats], x: Floats, h: Floats, c: Floats
) -> tuple[Floats, Floats]:
    """The next state and cell of one sequence."""
    gates = GATES[case.operator]
    limit = float(np.float32(case.attributes.get("clip", np.inf)))

    def clip(v: Floats) -> Floats:
        return np.clip(v, -limit, limit)

    bias = own.get("B", np.zeros(2 * gates * case.hidden)).reshape(2, gates, -1)
    w = (own["W"] @ x).reshape(gates, -1) + bias[0]
    r = own["R"].reshape(gates, case.hidden, case.hidden)
    if case.operator == "RNN":
        return functions[0](clip(w[0] + r[0] @ h + bias[1, 0])), c
    if case.operator == "GRU":
        f, g = functions
        z, reset = (f(clip(w[k] + r[k] @ h + bias[1, k])) for k in (0, 1))
        if case.attributes.get("linear_before_reset"):
            new = g(clip(w[2] + reset * (r[2] @ h + bias[1, 2])))
        else:
            new = g(clip(w[2] + r[2] @ (reset * h) + bias[1, 2]))
        return (1 - z) * new + z * h, c
    f, g, out = functions
    p = own.get("P", np.zeros(3 * case.hidden)).reshape(3, -1)
    i, o, forget, new = (w[k] + r[k] @ h + bias[1, k] for k in range(4))
    i = f(clip(i + p[0] * c))
    forget = 1 - i if case.attributes.get("input_forget") else f(clip(forget + p[2] * c))
    cell = forget * c + i * g(clip(new))
    return f(clip(o + p[1] * cell)) * out(cell), cell

"""Recurrent layers: each stays one RNN, GRU or LSTM node of ONNX, both directions of a Bidirectional too where it can.

A mask may leave out any steps. ONNX knows sequences that end early, so the steps that count are moved to the front in
their order, the node runs over as many as there are, and the results are put back to where they belong; a step that
does not count repeats the result before it (after it, backwards), or is 0, as Keras has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sofie.errors import printable
from sofie.frontends.keras.builder import Builder, Tensor, Value, ints, number
from sofie.frontends.keras.config import Layer
from sofie.frontends.keras.layers.activations import name_of
from sofie.frontends.keras.registry import Inputs, Weight, layer
from sofie.frontends.keras.translate import Translator
from sofie.weights import Array

Function = tuple[str, float | None, float | None]

FUNCTIONS: dict[str, Function] = {
    "elu": ("Elu", 1.0, None),
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    "leaky_relu": ("LeakyRelu", 0.2, None),
    "linear": ("Affine", 1.0, 0.0),
    "relu": ("Relu", None, None),
    "sigmoid": ("Sigmoid", None, None),
    "softplus": ("Softplus", None, None),
    "softsign": ("Softsign", None, None),
    "tanh": ("Tanh", None, None),
}
"""Keras' name of an activation: ONNX's, with its alpha and beta."""
OLD: dict[str, Function] = {"hard_sigmoid": ("HardSigmoid", 0.2, 0.5)}


@dataclass(frozen=True)
class Kind:
    """A recurrent operator: its name, how many gates, their order in Keras by ONNX's places, how many states."""

    operator: str
    gates: tuple[int, ...]
    states: int


KINDS = {
    "SimpleRNN": Kind("RNN", (0,), 1),
    "GRU": Kind("GRU", (0, 1, 2), 1),
    "LSTM": Kind("LSTM", (0, 3, 1, 2), 2),
}
"""The gates of Keras are z, r, h and i, f, c, o; those of ONNX z, r, h and i, o, f, c."""


def _weights(own: Layer) -> list[Weight]:
    """Those of the cell, which a layer holds; a cell's own are its own."""
    within = ("",) if own.kind.endswith("Cell") else ("cell", "")
    names = ["kernel", "recurrent_kernel", *(["bias"] if own.flag("use_bias", True) else [])]
    return [Weight(name, within) for name in names]


@dataclass(frozen=True)
class Cell:
    """What one direction needs: the kind, ONNX's W, R and B without the direction's axis, and attributes."""

    kind: Kind
    units: int
    weight: Array
    recurrence: Array
    bias: Array
    functions: tuple[Function, ...]
    after: bool


def cell(own: Layer, features: int, translator: Translator) -> Cell:
    """Reads the weights of a layer or cell. Raises SofieError."""
    kind, units = KINDS[own.kind.removesuffix("Cell")], own.integer("units")
    count = len(kind.gates)
    order = np.concatenate([np.arange(units) + gate * units for gate in kind.gates])
    after = own.kind.startswith("GRU") and own.flag("reset_after", own.version >= 3)
    kernel = translator.weight(own, "kernel", features, count * units)
    recurrence = translator.weight(own, "recurrent_kernel", units, count * units)
    bias: Array = np.zeros((2, count * units), np.float32)
    if own.flag("use_bias", True) and after:
        bias = translator.weight(own, "bias", 2, count * units)
    elif own.flag("use_bias", True):
        bias[0] = translator.weight(own, "bias", count * units)
    functions = [_function(own, "activation", "tanh")]
    if count > 1:
        functions.insert(0, _function(own, "recurrent_activation", "sigmoid"))
    if own.kind.startswith("LSTM"):
        functions.append(functions[-1])
    turned = [a.T[order] for a in (kernel, recurrence)]
    return Cell(kind, units, turned[0], turned[1], bias[:, order].reshape(-1), tuple(functions), after)


def _function(own: Layer, key: str, default: str) -> Function:
    given = name_of(own, key) if own.config.get(key, default) != default else default
    known = FUNCTIONS | OLD if own.version < 3 else FUNCTIONS
    if isinstance(given, Layer) or given not in known:
        what = given.kind if isinstance(given, Layer) else given
        own.refuse(
            f"its {key} {printable(what, 40)!r} is not supported in a recurrent layer; use one of {', '.join(known)}"
        )
    return known[given]


@dataclass(frozen=True)
class Steps:
    """Sequences with the steps that count in front: the input (time, batch, features), and how to go back.

    lengths: how many count, (batch). before: how many count before each step, (batch, time). mask: which do.
    """

    x: Value
    lengths: Value | None = None
    before: Value | None = None
    mask: Value | None = None


def steps(own: Layer, x: Tensor, b: Builder) -> Steps:
    """The steps of a tensor (batch, time, features) with its mask."""
    value = b.floating(b.last(x))
    if x.mask is None:
        return Steps(b("Transpose", value, perm=[1, 0, 2]))
    if len(x.mask.shape) != 2:
        own.refuse(f"a mask of rank {len(x.mask.shape)} reaches it; one of (batch, time) is supported")
    count = b("Cast", x.mask, to=7)
    axis = np.array(1, np.int64)
    before = b("CumSum", count, axis, exclusive=1)
    place = b("CumSum", b("Add", b("Mul", count, ints([0])), ints([1])), axis, exclusive=1)
    rank = b("Sub", b("Mul", count, ints([1 << 40])), place)  # those that count first, each by its place
    _, order = b.node("TopK", rank, b.size(value, 1), results=2, axis=1)
    moved = b("GatherND", value, b.unsqueeze(order, 2), batch_dims=1)
    lengths = b("Cast", b.reduce("ReduceSum", count, [1]), to=6)
    return Steps(b("Transpose", moved, perm=[1, 0, 2]), lengths, before, x.mask)


def put_back(result: Value, given: Steps, backwards: bool, zeros: bool, b: Builder) -> Value:
    """The results (batch, time, units) of the moved steps, at the places of the original ones."""
    if given.mask is None or given.before is None or given.lengths is None:
        return result
    if zeros:
        index, valid = given.before, given.mask
    elif backwards:  # the next step that counts
        index = given.before
        valid = b("Less", index, b.unsqueeze(b("Cast", given.lengths, to=7), 1))
    else:  # the last one that counts
        index = b("Sub", b("Add", given.before, b("Cast", given.mask, to=7)), ints([1]))
        valid = b("GreaterOrEqual", index, ints([0]))
    safe = b("Where", valid, index, ints([0]))
    moved = b("GatherND", result, b.unsqueeze(safe, 2), batch_dims=1)
    return b("Where", b.unsqueeze(valid, 2), moved, number(0))


def node(cells: Sequence[Cell], given: Steps, direction: str, states: Sequence[Value], b: Builder) -> list[Value]:
    """The node: Y (time, directions, batch, units) and the last states (directions, batch, units)."""
    first = cells[0]
    functions = [f for c in cells for f in c.functions]
    attributes: dict[str, object] = {"activations": [f[0] for f in functions]}
    for key, place in (("activation_alpha", 1), ("activation_beta", 2)):
        values = [f[place] for f in functions if f[place] is not None]
        if values:
            attributes[key] = values
    if first.kind.operator == "GRU":
        attributes["linear_before_reset"] = int(first.after)
    return b.node(
        first.kind.operator,
        given.x,
        *(np.stack([getattr(c, name) for c in cells]) for name in ("weight", "recurrence", "bias")),
        given.lengths,
        *states,
        results=1 + first.kind.states,
        hidden_size=first.units,
        direction=direction,
        **attributes,
    )


def _initial(own: Layer, inputs: Inputs, count: int, b: Builder) -> list[Value]:
    """The initial states, from the argument of that name or, as Keras 2 saves them, from behind the input."""
    given = inputs.kwargs.get("initial_state")
    if given is None and isinstance(inputs.args[0], list) and len(inputs.args[0]) > 1:
        given = inputs.args[0][1:]
    if given is None and len(inputs.args) > 1:
        given = inputs.args[1]
    if given is None:
        return []
    flat: list[Tensor] = []
    waiting = [given]
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, list):
            waiting = [*value, *waiting]
        elif isinstance(value, Tensor):
            flat.append(value)
        else:
            own.refuse("an initial state that is no tensor is not supported")
    if len(flat) != count:
        raise own.wrong(f"it has {count} states and is given {len(flat)}")
    return [b.floating(b.last(t)) for t in flat]


def _sequence(own: Layer, inputs: Inputs) -> Tensor:
    """The input with the mask that counts: Keras 3 overlooks that of a tensor where initial states are given."""
    x = inputs.args[0][0] if isinstance(inputs.args[0], list) else inputs.args[0]
    if not isinstance(x, Tensor) or x.rank != 3:
        raise own.wrong("its input is no sequence (batch, time, features)")
    if own.flag("stateful", False):
        own.refuse("stateful is not supported: build the model with stateful=False and pass the states as inputs")
    if own.flag("time_major", False):
        own.refuse("time_major is not supported")
    started = own.version >= 3 and inputs.kwargs.get("initial_state") is not None
    return replace(x, mask=None) if started and inputs.kwargs.get("mask") is None else x


def _arriving(inputs: Inputs) -> Value | None:
    """The mask of the input, which is that of a sequence of results."""
    first = inputs.args[0][0] if isinstance(inputs.args[0], list) else inputs.args[0]
    return first.mask if isinstance(first, Tensor) else None


@dataclass(frozen=True)
class Run:
    """One direction's results: of each step in the order of the input (batch, time, units), last, and the states."""

    every: Value | None
    last: Value
    states: list[Value]


def _run(
    own: Layer, given: Steps, made: Cell, backwards: bool, states: Sequence[Value], every: bool, b: Builder
) -> Run:
    """A cell over sequences, one way."""
    y, finals = _one_way(made, given, backwards, states, b)
    return _result(own, given, y, 0, finals, backwards, every, b)


def _one_way(
    made: Cell, given: Steps, backwards: bool, states: Sequence[Value], b: Builder
) -> tuple[Value, list[Value]]:
    """The node of one direction: Y, and the last states (batch, units)."""
    lead = [b.unsqueeze(s, 0) for s in states]
    y, *finals = node([made], given, "reverse" if backwards else "forward", lead, b)
    return y, _kept([b.squeeze(f, 0) for f in finals], given, states, b)


def _kept(finals: list[Value], given: Steps, states: Sequence[Value], b: Builder) -> list[Value]:
    """The last states; those of a sequence of which nothing counts are the initial ones, which ONNX leaves open."""
    if given.lengths is None:
        return finals
    some = b.unsqueeze(b("Greater", given.lengths, np.array(0, np.int32)), 1)
    initial = list(states) or [b.constant(number(0))] * len(finals)
    return [b("Where", some, f, s) for f, s in zip(finals, initial, strict=True)]


def _result(
    own: Layer, given: Steps, y: Value, way: int | None, finals: list[Value], backwards: bool, every: bool, b: Builder
) -> Run:
    """What Keras returns from Y: `way` is the direction in it, None where it has one."""
    zeros = own.flag("zero_output_for_mask", False)
    last = finals[0]
    if given.lengths is not None:  # nothing counts: 0, not the initial state
        last = b("Where", b.unsqueeze(b("Greater", given.lengths, np.array(0, np.int32)), 1), last, number(0))
        if zeros and given.mask is not None:
            end = b("Gather", given.mask, np.array(0 if backwards else -1, np.int64), axis=1)
            last = b("Where", b.unsqueeze(end, 1), last, number(0))
    if not every:
        return Run(None, last, finals)
    one = b.squeeze(y, 1) if way == 0 else y
    turned = b("Transpose", one, perm=[1, 0, 2])
    return Run(put_back(turned, given, backwards, zeros, b), last, finals)


def _flipped(value: Value, b: Builder) -> Value:
    """The other way round in time."""
    return b.slice(value, 1, -1, np.iinfo(np.int64).min + 1, -1)


@layer(
    "GRU",
    "LSTM",
    "SimpleRNN",
    weights=_weights,
    masks="own",
    arguments=("initial_state",),
    options="one node; return_sequences, return_state, go_backwards, initial states, any mask; not stateful",
)
def _recurrent(inputs: Inputs, translator: Translator) -> list[Tensor]:
    own = inputs.layer
    x = _sequence(own, inputs)
    made = cell(own, translator.known(own, x, -1), translator)
    return _layered(inputs, x, [made], translator)


def _layered(inputs: Inputs, x: Tensor, made: Sequence[Cell], translator: Translator) -> list[Tensor]:
    """Cells on top of each other as one layer: all but the last give their sequence to the next."""
    own, b = inputs.layer, translator.build
    backwards, every = own.flag("go_backwards", False), own.flag("return_sequences", False)
    initial = _initial(own, inputs, sum(c.kind.states for c in made), b)
    given, run = steps(own, x, b), None
    states: list[Value] = []
    for k, one in enumerate(made):
        mine = initial[len(states) : len(states) + one.kind.states]
        top = k == len(made) - 1
        if not top:
            y, ended = _one_way(one, given, backwards, mine, b)
            given = replace(given, x=b.squeeze(y, 1))
        else:
            run = _run(own, given, one, backwards, mine, every, b)
            ended = run.states
        states += ended
    assert run is not None
    result = run.last
    if run.every is not None:
        result = _flipped(run.every, b) if backwards else run.every
    mask = _arriving(inputs) if every else None
    return [Tensor(result, mask=mask), *(Tensor(s) for s in (states if own.flag("return_state", False) else ()))]


@layer(
    "GRUCell",
    "LSTMCell",
    "SimpleRNNCell",
    weights=_weights,
    options="inside RNN and StackedRNNCells",
)
def _alone(inputs: Inputs, translator: Translator) -> Tensor:
    inputs.layer.refuse("a cell that is called as a layer is not supported; put it into an RNN")


@layer("StackedRNNCells", options="inside RNN, of the cells of Keras")
def _stack_alone(inputs: Inputs, translator: Translator) -> Tensor:
    inputs.layer.refuse("cells that are called as a layer are not supported; put them into an RNN")


@layer("RNN", masks="own", arguments=("initial_state",), options="of the cells of Keras and StackedRNNCells of them")
def _of_cells(inputs: Inputs, translator: Translator) -> list[Tensor]:
    own = inputs.layer
    x = _sequence(own, inputs)
    if "cell" in own.children:
        held = own.children["cell"]
        cells = list(held.children.values()) if held.kind == "StackedRNNCells" else [held]
    else:
        cells = [child for key, child in own.children.items() if key.startswith("cells/")]
    if not cells:
        raise own.wrong("its configuration has no cell")
    made, features = [], translator.known(own, x, -1)
    for one in cells:
        if one.kind.removesuffix("Cell") not in KINDS or not one.kind.endswith("Cell"):
            one.refuse("this class of cell has no translation; use GRUCell, LSTMCell or SimpleRNNCell")
        made.append(cell(one, features, translator))
        features = made[-1].units
    return _layered(inputs, x, made, translator)


MERGES = {"sum": "Add", "mul": "Mul", "ave": "Add"}


@layer(
    "Bidirectional",
    masks="own",
    arguments=("initial_state",),
    options="of GRU, LSTM, SimpleRNN; merge_mode concat, sum, mul, ave, None; one node where both directions are alike",
)
def _bidirectional(inputs: Inputs, translator: Translator) -> list[Tensor]:
    own, b = inputs.layer, translator.build
    ways = [own.children.get(key) for key in ("layer", "backward_layer")]
    if ways[0] is None or ways[1] is None:
        raise own.wrong("its configuration has no layer inside it")
    layers = [w for w in ways if w is not None]
    for way in layers:
        if way.kind not in KINDS:
            way.refuse("this layer inside a Bidirectional has no translation; use GRU, LSTM or SimpleRNN")
        _sequence(way, inputs)
    x = _sequence(own, inputs)
    features = translator.known(own, x, -1)
    made = [cell(way, features, translator) for way in layers]
    count = made[0].kind.states
    initial = _initial(own, inputs, 2 * count, b)
    every, backwards = layers[0].flag("return_sequences", False), [w.flag("go_backwards", False) for w in layers]
    if backwards[0] == backwards[1]:
        raise own.wrong("both its directions go the same way")
    given = steps(own, x, b)
    if _alike(made) and not backwards[0]:
        runs = _both(layers, given, made, initial, every, b)
    else:
        runs = [
            _run(way, given, one, back, initial[k * count : (k + 1) * count], every, b)
            for k, (way, one, back) in enumerate(zip(layers, made, backwards, strict=True))
        ]
    results = [r.every if r.every is not None else r.last for r in runs]
    if every and backwards[0]:  # Keras turns the second round in any case
        results = [_flipped(r, b) for r in results]
    mask = _arriving(inputs) if every else None
    mode = own.config.get("merge_mode", "concat")
    states = [Tensor(s) for r in runs for s in r.states] if layers[0].flag("return_state", False) else []
    if mode is None:
        return [*(Tensor(r, mask=mask) for r in results), *states]
    return [Tensor(_merged(own, results, mode, b), mask=mask), *states]


def _merged(own: Layer, results: Sequence[Value], mode: object, b: Builder) -> Value:
    if mode == "concat":
        return b("Concat", *results, axis=-1)
    if not isinstance(mode, str) or mode not in MERGES:
        own.refuse(f"its merge_mode {printable(str(mode), 40)} is not known")
    result = b(MERGES[mode], *results)
    return b("Mul", result, number(0.5)) if mode == "ave" else result


def _alike(made: Sequence[Cell]) -> bool:
    """Whether one node can run both directions."""
    forward, backward = made
    same = forward.kind == backward.kind and forward.units == backward.units and forward.after == backward.after
    return same and len(forward.functions) == len(backward.functions)


def _both(
    layers: Sequence[Layer], given: Steps, made: Sequence[Cell], initial: Sequence[Value], every: bool, b: Builder
) -> list[Run]:
    """Both directions by one node."""
    count = made[0].kind.states
    lead = []
    if initial:
        ways = [[b.unsqueeze(s, 0) for s in (initial[k], initial[k + count])] for k in range(count)]
        lead = [b("Concat", *both, axis=0) for both in ways]
    y, *finals = node(made, given, "bidirectional", lead, b)
    ended = [[b.squeeze(part, 0) for part in b.node("Split", f, results=2, axis=0, num_outputs=2)] for f in finals]
    parts: list[Value] = [y, y]
    if every:
        parts = [b.squeeze(part, 1) for part in b.node("Split", y, results=2, axis=1, num_outputs=2)]
    runs = []
    for way, (own, part) in enumerate(zip(layers, parts, strict=True)):
        states = _kept([e[way] for e in ended], given, initial[way * count : (way + 1) * count], b)
        runs.append(_result(own, given, part, None, states, bool(way), every, b))
    return runs

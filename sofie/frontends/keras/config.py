"""The dialects of configuration, made one: layers with their settings, and calls of layers on results of others.

Keras 2 lists the calls of a layer as `[[["dense", 0, 0, {}], ...]]`; Keras 3 as `{"args": ..., "kwargs": ...}` whose
tensors are dictionaries. Both become a `Call`, whose tensors are `Ref`s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from sofie.errors import SofieError, printable
from sofie.frontends.keras.errors import refuse, wrong
from sofie.frontends.keras.reading import Document, Stored

NETWORKS = ("Sequential", "Functional", "Model", "Network", "Container")
"""Classes whose configuration is a graph of layers."""

ALIASES = {"GroupQueryAttention": "GroupedQueryAttention"}
"""Public names of classes that have another."""

FLOATS = {"float32", "mixed_float16", "mixed_bfloat16"}
"""Policies whose weights are float32; what Keras computes in 16 bits is computed in float32."""

MOST = 2**31 - 1
"""Of any size in a configuration."""


@dataclass(frozen=True)
class Ref:
    """A result: of the `node`-th call of a layer, the `index`-th tensor."""

    layer: str
    node: int
    index: int


@dataclass
class Call:
    """One use of a layer: Refs, lists of them and plain values."""

    args: list[Any]
    kwargs: dict[str, Any]


@dataclass
class Layer:
    """A layer with its settings; the accessors raise SofieError where a setting is missing or of another kind.

    `kind` is its class; `shared` numbers an object that stands in several places; `operation` says that it is a
    function of keras.ops, not a layer. `children` are the layers inside it by the name of the attribute that holds
    them. `weights` is filled by `weights.assign`.
    """

    file: str
    kind: str
    name: str
    config: dict[str, Any]
    version: int
    operation: bool = False
    calls: list[Call] = field(default_factory=list)
    children: dict[str, Layer] = field(default_factory=dict)
    network: Network | None = None
    weights: dict[str, Stored] = field(default_factory=dict)
    scope: str = ""
    shared: int | None = None

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"layer {printable(self.scope + self.name)!r} ({printable(self.kind, 40)})"

    def wrong(self, text: str) -> SofieError:
        """An error about a damaged file."""
        return wrong(self.file, self.label, text)

    def refuse(self, text: str) -> NoReturn:
        """Raises Untranslatable."""
        refuse(self.file, self.label, text)

    def _bad(self, key: str, wanted: str) -> SofieError:
        value = printable(repr(self.config[key]), 60) if key in self.config else "missing"
        return self.wrong(f"its {key} is {value}, not {wanted}")

    def integer(self, key: str, default: int | None = None, low: int = 1) -> int:
        """A whole number of at least `low`."""
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MOST:
            raise self._bad(key, f"a whole number from {low} to {MOST}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number; a number that Keras saved as an array is taken from it."""
        value = plain(self.config.get(key, default))
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e39:
            raise self._bad(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.config.get(key, default)
        if not isinstance(value, bool | int):
            raise self._bad(key, "true or false")
        return bool(value)

    def word(self, key: str, default: str, *known: str) -> str:
        """One of the words `known`; others are refused."""
        value = self.config.get(key, default)
        if not isinstance(value, str):
            raise self._bad(key, "a word")
        if value not in known:
            self.refuse(f"{key} {printable(value, 40)!r} is not supported; use {' or '.join(known)}")
        return value

    def sizes(self, key: str, rank: int, default: int | None = None, low: int = 1) -> list[int]:
        """`rank` whole numbers; one number stands for all of them."""
        value = plain(self.config.get(key, default))
        if isinstance(value, int) and not isinstance(value, bool):
            value = [value] * rank
        if (
            not isinstance(value, list)
            or len(value) != rank
            or not all(isinstance(v, int) and not isinstance(v, bool) and low <= v <= MOST for v in value)
        ):
            raise self._bad(key, f"{rank} whole number(s) of at least {low}")
        return value

    def pairs(self, key: str, rank: int) -> list[tuple[int, int]]:
        """`rank` pairs (before, after) of whole numbers from 0; one number stands for all, one an axis for a pair."""
        value = plain(self.config.get(key, 1))
        if isinstance(value, int):
            value = [value] * rank
        if rank == 1 and isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value):
            value = [value]
        if not isinstance(value, list | tuple) or len(value) != rank:
            raise self._bad(key, f"a number or a pair for each of {rank} axes")
        both = [[v, v] if isinstance(v, int) else v for v in value]
        for pair in both:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise self._bad(key, f"a number or a pair for each of {rank} axes")
            if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= MOST for v in pair):
                raise self._bad(key, "made of whole numbers of at least 0")
        return [(pair[0], pair[1]) for pair in both]

    def axes(self, key: str, rank: int, default: Any = -1) -> list[int]:
        """One axis or several of a tensor of `rank` axes, from 0, in order."""
        value = plain(self.config.get(key, default))
        given = value if isinstance(value, list | tuple) else [value]
        if not given or not all(isinstance(a, int) and not isinstance(a, bool) and -rank <= a < rank for a in given):
            raise self._bad(key, f"an axis of a tensor of rank {rank}")
        return sorted({a % rank for a in given})


@dataclass
class Network:
    """A graph of layers. `outputs` are named where the configuration names them."""

    layers: list[Layer]
    inputs: list[Ref]
    outputs: list[tuple[str, Ref]]
    sequential: bool = False


def plain(value: Any) -> Any:
    """A value out of Keras 3's wrappers for tuples and arrays."""
    while isinstance(value, dict) and value.get("class_name") in ("__tuple__", "__numpy__", "__tensor__"):
        inner = value.get("items", value.get("config", {}))
        value = inner.get("value") if isinstance(inner, dict) else inner
    return value


def parse(document: Document) -> Layer:
    """The model of a document as a layer with a network. Raises SofieError."""
    config = document.config
    if "class_name" not in config and isinstance(config.get("config"), dict):
        config = config["config"]
    model = _layer(document.file, config, document.version, "")
    if model.network is None:
        model.refuse("the model is no Sequential or Functional model: a subclassed model has no graph to translate")
    return model


def _layer(file: str, entry: Any, version: int, scope: str, default: str = "") -> Layer:
    """A layer from `{"class_name": ..., "config": ...}`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        raise wrong(file, "", "its configuration lists something that is no layer")
    config = entry.get("config", {})
    if isinstance(config, list):  # a Sequential model of Keras 2.2 and before
        config = {"layers": config}
    if not isinstance(config, dict):
        raise wrong(file, "", f"the configuration of a {printable(entry['class_name'], 40)} is no dictionary")
    name = entry.get("name", config.get("name", default or entry["class_name"].lower()))
    if not isinstance(name, str) or not name:
        raise wrong(file, "", f"a {printable(entry['class_name'], 40)} has a name that is no text")
    module = entry.get("module")
    in_ops = isinstance(module, str) and ".ops." in f"{module}."
    kind = str(entry["class_name"])
    kind = ALIASES.get(kind, kind)
    layer = Layer(file, kind, name, config, version, in_ops, scope=scope)
    number = entry.get("shared_object_id")
    layer.shared = number if isinstance(number, int) else None
    nodes = entry.get("inbound_nodes", [])
    if not isinstance(nodes, list):
        raise layer.wrong("its inbound_nodes are no list")
    layer.calls = [_call(layer, node) for node in nodes]
    if version >= 3 and not module and layer.calls and kind != "InputLayer":
        layer.operation = "trainable" not in config and not isinstance(
            config.get("dtype"), dict
        )  # a .h5 names no module
    inner = f"{scope}{name}/"
    registered = entry.get("registered_name")
    known = not isinstance(registered, str) or registered in ("", kind) or ">" not in registered
    if layer.kind in NETWORKS and "layers" in config and known:
        layer.network = _network(layer, config, inner)
    elif not known:
        layer.kind = registered if isinstance(registered, str) else layer.kind
    else:
        layer.children = dict(_children(layer, inner))
    return layer


def _children(layer: Layer, scope: str) -> Iterator[tuple[str, Layer]]:
    """The layers that a wrapper holds."""
    config, version = layer.config, layer.version
    for key in ("layer", "backward_layer", "cell"):
        if isinstance(config.get(key), dict):
            yield key, _layer(layer.file, config[key], version, scope, key)
    for k, cell in enumerate(config["cells"] if isinstance(config.get("cells"), list) else ()):
        yield f"cells/{k}", _layer(layer.file, cell, version, scope, f"cell_{k}")
    if layer.kind == "Bidirectional" and isinstance(config.get("layer"), dict) and not config.get("backward_layer"):
        entry = dict(config["layer"])
        if isinstance(entry.get("config"), dict):
            entry["config"] = dict(entry["config"])
            entry["config"]["go_backwards"] = not entry["config"].get("go_backwards", False)
            entry["config"]["name"] = f"backward_{entry['config'].get('name', 'layer')}"
        yield "backward_layer", _layer(layer.file, entry, version, scope)


def _network(owner: Layer, config: Mapping[str, Any], scope: str) -> Network:
    entries = config["layers"]
    if not isinstance(entries, list) or not entries:
        raise owner.wrong("it has no layers")
    layers = [_layer(owner.file, entry, owner.version, scope) for entry in entries]
    named: dict[str, Layer] = {}
    for layer in layers:
        if layer.name in named:
            raise owner.wrong(f"two of its layers are called {printable(layer.name)!r}")
        named[layer.name] = layer
    if owner.kind == "Sequential" or "output_layers" not in config:
        return _sequence(owner, config, layers, scope)
    inputs = [ref for _, ref in _refs(owner, "input_layers", config.get("input_layers"))]
    outputs = _refs(owner, "output_layers", config.get("output_layers"))
    if not outputs:
        raise owner.wrong("it has no outputs")
    return Network(layers, inputs, _from_zero(layers, outputs))


def _sequence(owner: Layer, config: Mapping[str, Any], layers: list[Layer], scope: str) -> Network:
    """A Sequential model as a graph; where it has no layer for its input, one is made of the first layer's settings."""
    if layers[0].kind != "InputLayer":
        first = layers[0].config
        shape = first.get("batch_input_shape", config.get("build_input_shape"))
        if shape is None:
            inner = layers[0].network
            shape = inner.layers[0].config.get("batch_input_shape") if inner and inner.sequential else None
        settings = {"batch_shape": shape, "dtype": "float32", "name": "input"}
        if layers[0].kind == "Embedding":
            settings["dtype"] = "int32"
        layers = [Layer(owner.file, "InputLayer", "input", settings, owner.version, scope=scope), *layers]
    for layer, before in zip(layers[1:], layers, strict=False):
        layer.calls = [Call([Ref(before.name, 0, 0)], {})]
    return Network(layers, [Ref(layers[0].name, 0, 0)], [("", Ref(layers[-1].name, 0, 0))], sequential=True)


def _refs(owner: Layer, key: str, value: Any, name: str = "") -> list[tuple[str, Ref]]:
    """The tensors of a structure of `[layer, node, index]`, each with the key of the dictionary it is in."""
    value = plain(value)
    if isinstance(value, dict):
        return [r for k in sorted(value, key=str) for r in _refs(owner, key, value[k], str(k))]
    if not isinstance(value, list):
        raise owner.wrong(f"its {key} are no list of layers")
    if len(value) == 3 and isinstance(value[0], str) and all(isinstance(v, int) for v in value[1:]):
        return [(name, Ref(value[0], value[1], value[2]))]
    return [r for inner in value for r in _refs(owner, key, inner, name)]


def _call(layer: Layer, node: Any) -> Call:
    if isinstance(node, dict):
        args, kwargs = node.get("args", []), node.get("kwargs", {})
        if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
            raise layer.wrong("its inbound_nodes hold a call without arguments")
        return Call([_tensors(layer, a) for a in args], {str(k): _tensors(layer, v) for k, v in kwargs.items()})
    if not isinstance(node, list) or not node:
        raise layer.wrong("its inbound_nodes hold something that is no call")
    if isinstance(node[0], str):  # a single tensor, not in a list of its own
        node = [node]
    refs, kwargs = [], {}
    for entry in node:
        if not isinstance(entry, list) or len(entry) not in (3, 4) or not isinstance(entry[0], str):
            raise layer.wrong("its inbound_nodes hold something that is no tensor")
        refs.append(entry[2] if entry[0] == "_CONSTANT_VALUE" else _ref(layer, entry))
        given = entry[3] if len(entry) == 4 else {}
        if not isinstance(given, dict):
            raise layer.wrong("its inbound_nodes hold arguments that are no dictionary")
        kwargs |= {str(k): _old(layer, v) for k, v in given.items()}
    return Call([refs[0]] if len(refs) == 1 else [refs], kwargs)


def _ref(layer: Layer, entry: Any) -> Ref:
    if not isinstance(entry, list | tuple) or len(entry) < 3 or not isinstance(entry[0], str):
        raise layer.wrong("its inbound_nodes name no tensor")
    if not all(isinstance(v, int) and 0 <= v <= MOST for v in entry[1:3]):
        raise layer.wrong("its inbound_nodes name a tensor by something else than numbers")
    return Ref(entry[0], entry[1], entry[2])


def _old(layer: Layer, value: Any) -> Any:
    """An argument by name in Keras 2: a tensor is `[layer, node, index]`."""
    if isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str) and all(isinstance(v, int) for v in value[1:3]):
            return _ref(layer, value)
        return [_old(layer, v) for v in value]
    return value


def _tensors(layer: Layer, value: Any) -> Any:
    """An argument in Keras 3: a tensor is a dictionary."""
    value = plain(value)
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        config = value.get("config")
        return _ref(layer, config.get("keras_history") if isinstance(config, dict) else None)
    if isinstance(value, list | tuple):
        return [_tensors(layer, v) for v in value]
    return value


def _from_zero(layers: list[Layer], outputs: list[tuple[str, Ref]]) -> list[tuple[str, Ref]]:
    """Numbers the calls of each layer from 0: a model's own input is its call 0 in Keras, which is not in the file.

    Keras 2 counts from it everywhere, Keras 3 where it names outputs of the outer model.
    """
    between = [[c.args, c.kwargs] for layer in layers for c in layer.calls]
    models = {la.name: la for la in layers if la.network is not None and la.calls}
    old = _reaching(models, [between, outputs] if layers[0].version < 3 else between)
    late = old if layers[0].version < 3 else {name for name, la in models.items() if la.kind != "Sequential"}
    late -= {ref.layer for ref in found(outputs) if ref.node == 0}
    for layer in layers:
        layer.calls = [Call(_shift(c.args, old), _shift(c.kwargs, old)) for c in layer.calls]
    return [(name, _shift(ref, late)) for name, ref in outputs]


def _reaching(models: Mapping[str, Layer], value: Any) -> set[str]:
    """The models of which a call is named whose number is that of all calls: they are counted from 1."""
    return {r.layer for r in found(value) if r.layer in models and r.node == len(models[r.layer].calls)}


def _shift(value: Any, shifted: set[str]) -> Any:
    if isinstance(value, Ref):
        return Ref(value.layer, value.node - 1, value.index) if value.layer in shifted else value
    if isinstance(value, list):
        return [_shift(v, shifted) for v in value]
    return {k: _shift(v, shifted) for k, v in value.items()} if isinstance(value, dict) else value


def found(value: Any) -> Iterator[Ref]:
    """Every Ref of a structure."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from found(inner)
    elif isinstance(value, dict):
        yield from found(list(value.values()))


def snake_case(name: str) -> str:
    """The name of a class as Keras writes it into paths.

    >>> snake_case("Conv2DTranspose"), snake_case("LeakyReLU")
    ('conv2d_transpose', 'leaky_re_lu')
    """
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def check_policy(layer: Layer) -> None:
    """Refuses weights that are not float32. Raises Untranslatable."""
    policy = layer.config.get("dtype")
    while isinstance(policy, dict):
        policy = policy.get("config", {}).get("name") if isinstance(policy.get("config"), dict) else None
    if layer.config.get("quantization_config"):
        layer.refuse("it is quantised; save the model before it is quantised")
    if isinstance(policy, str) and policy not in FLOATS and not re.fullmatch("u?int(8|16|32|64)|bool", policy):
        layer.refuse(f"its dtype is {printable(policy, 40)}; build the model with float32")

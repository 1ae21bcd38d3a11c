"""The walk: calls of layers in the order in which their inputs come, each handed to the layer's rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from sofie.errors import SofieError, printable
from sofie.frontends.keras import weights
from sofie.frontends.keras.builder import IR_VERSION, OPSET, Builder, Size, Tensor, Value
from sofie.frontends.keras.config import Layer, Ref, check_policy, found, parse
from sofie.frontends.keras.errors import wrong
from sofie.frontends.keras.reading import MOST_WEIGHTS, Document
from sofie.frontends.keras.registry import Entry, Inputs, layers, operations
from sofie.weights import Array

AXES = {2: ("length",), 3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
"""What an axis of unknown size is called, by the rank of the input."""
FIRST = ("inputs", "sequences", "query", "x", "input")
"""Names of the first argument, where a call gives it by name."""
IGNORED = ("mask", "training")
TYPES = {"float16": "float32", "bfloat16": "float32", "mixed_float16": "float32", "float64": "float32"}
"""Types of inputs that become another; integers and booleans stay."""
DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, ZeroDivisionError)
"""What a rule may stumble over in a configuration that Keras did not write."""


def translate(document: Document) -> onnx.ModelProto:
    """The ONNX model of a document. Raises SofieError."""
    try:
        model = parse(document)
        weights.assign(document, model)
        return Translator(document).model(model)
    except RecursionError as error:
        raise wrong(document.file, "", "its models are nested too deep") from error
    except DAMAGED as error:
        raise wrong(document.file, "", f"its configuration is damaged: {printable(str(error), 200)}") from error


class Translator:
    """The state of a walk: the graph so far and what of the weights is read."""

    def __init__(self, document: Document) -> None:
        self.build = Builder()
        self.document = document
        self._bytes = 0

    def model(self, layer: Layer) -> onnx.ModelProto:
        """The ONNX model of the outermost model."""
        network = layer.network
        assert network is not None
        named = {la.name: la for la in network.layers}
        inputs = [self._input(self._named(layer, named, ref), len(network.inputs) > 1) for ref in network.inputs]
        results = self.network(layer, inputs)
        outputs = []
        for (key, ref), result in zip(network.outputs, results, strict=True):
            self.build.scope = "outputs"
            value = self.build.last(result)
            outputs.append((key or ref.layer, value))
        graph = self._graph(printable(layer.name), outputs)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="sofie from Keras")

    def _graph(self, name: str, outputs: Sequence[tuple[str, Value]]) -> onnx.GraphProto:
        """The nodes that outputs need, with the outputs under their own names."""
        build = self.build
        taken = {i.name for i in build.inputs}
        renamed: dict[str, str] = {}
        infos = []
        made = {o for node in build.nodes for o in node.output}
        for wanted, value in outputs:
            called, count = wanted, 0
            while called in taken:
                count += 1
                called = f"{wanted}_{count}"
            taken.add(called)
            if value.name in renamed or value.name not in made:
                build.nodes.append(helper.make_node("Identity", [value.name], [called], f"{called}/Identity"))
            else:
                renamed[value.name] = called
            infos.append(
                helper.make_tensor_value_info(called, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            )
        for node in build.nodes:
            for ends in (node.input, node.output):
                ends[:] = [renamed.get(end, end) for end in ends]
        needed = {info.name for info in infos}
        kept = []
        for node in reversed(build.nodes):
            if not needed.isdisjoint(node.output):
                kept.append(node)
                needed.update(node.input)
        constants = [tensor for key, tensor in build.constants.items() if key in needed]
        return helper.make_graph(kept[::-1], name, build.inputs, infos, constants)

    def _named(self, owner: Layer, named: dict[str, Layer], ref: Ref) -> Layer:
        if ref.layer not in named:
            raise owner.wrong(f"it names a layer {printable(ref.layer)!r} that it does not have")
        return named[ref.layer]

    def _input(self, layer: Layer, several: bool) -> Tensor:
        """An input of the model, with names for the sizes that are not known."""
        if layer.kind != "InputLayer":
            raise layer.wrong("it is listed as an input and is no InputLayer")
        config = layer.config
        if config.get("sparse") or config.get("ragged"):
            layer.refuse("sparse and ragged inputs are not supported")
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        if not isinstance(shape, list) or not shape:
            raise layer.wrong("the model has no shape of its input: build it with an Input of known shape")
        words = AXES.get(len(shape), ())
        sizes: list[Size] = []
        for axis, size in enumerate(shape):
            if size is None:
                word = words[axis - 1] if 0 < axis <= len(words) else f"axis_{axis}"
                sizes.append("batch" if axis == 0 else f"{layer.name}_{word}" if several else word)
            elif isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**31:
                sizes.append(size)
            else:
                raise layer.wrong(f"the shape of its input has a size {printable(str(size), 40)}")
        kind = config.get("dtype") or "float32"
        kind = kind.get("config", {}).get("name") if isinstance(kind, dict) else kind
        kind = TYPES.get(kind, kind) if isinstance(kind, str) else ""
        if kind not in ("float32", "int32", "int64", "int16", "int8", "uint8", "bool"):
            layer.refuse(f"an input of type {printable(str(kind), 40)} is not supported")
        return Tensor(self.build.input(layer.name, np.dtype(kind), sizes))

    # -- graphs of layers ----------------------------------------------------------------------------------------------

    def network(self, owner: Layer, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of a model on these inputs."""
        network = owner.network
        assert network is not None
        if len(tensors) != len(network.inputs):
            raise owner.wrong(f"it takes {len(network.inputs)} input(s) and is called on {len(tensors)}")
        named = {la.name: la for la in network.layers}
        done: dict[tuple[str, int], list[Tensor]] = {
            (ref.layer, ref.node): [tensor] for ref, tensor in zip(network.inputs, tensors, strict=True)
        }
        waiting = [(la, k) for la in network.layers for k in range(len(la.calls)) if (la.name, k) not in done]
        while waiting:
            left = []
            for layer, k in waiting:
                call = layer.calls[k]
                refs = list(found([call.args, call.kwargs]))
                if all((ref.layer, ref.node) in done for ref in refs):
                    args = [self._resolved(owner, done, a) for a in call.args]
                    kwargs = {key: self._resolved(owner, done, v) for key, v in call.kwargs.items()}
                    done[layer.name, k] = self.apply(layer, args, kwargs)
                else:
                    left.append((layer, k))
            if len(left) == len(waiting):
                layer, k = left[0]
                ref = next(
                    r for r in found([layer.calls[k].args, layer.calls[k].kwargs]) if (r.layer, r.node) not in done
                )
                self._named(owner, named, ref)
                raise layer.wrong(
                    f"its input, the result of {printable(ref.layer)!r}, never comes: the graph is a circle"
                )
            waiting = left
        return [self._resolved(owner, done, ref) for _, ref in network.outputs]

    def _resolved(self, owner: Layer, done: dict[tuple[str, int], list[Tensor]], value: Any) -> Any:
        if isinstance(value, Ref):
            results = done.get((value.layer, value.node), [])
            if value.index >= len(results):
                raise owner.wrong(f"it uses result {value.index} of layer {printable(value.layer)!r}, which has none")
            return results[value.index]
        if isinstance(value, list):
            return [self._resolved(owner, done, v) for v in value]
        return value

    def apply(self, layer: Layer, args: list[Any], kwargs: dict[str, Any]) -> list[Tensor]:
        """The results of a layer. Raises SofieError."""
        if not args:
            first = next((name for name in FIRST if name in kwargs), None)
            args = [kwargs[first]] if first is not None else []
            kwargs = {key: value for key, value in kwargs.items() if key != first}
        if kwargs.get("training") is True:
            layer.refuse("it is called with training=True; build the model for inference without it")
        with self._inside(layer):
            given = _masked(args, kwargs.get("mask"))
            if layer.network is not None:
                return self.network(layer, list(_tensors(given)))
            entry = self._entry(layer, kwargs)
            check_policy(layer)
            if not list(_tensors(given)):
                raise layer.wrong("it is called without a tensor")
            results = entry.rule(Inputs(layer, given, kwargs), self)
            results = results if isinstance(results, list) else [results]
            if entry.masks == "own":
                return results
            mask = next(_tensors(given)).mask if entry.masks == "kept" else None
            return [replace(r, mask=mask) for r in results]

    def _entry(self, layer: Layer, kwargs: dict[str, Any]) -> Entry:
        """The rule of a layer. Raises Untranslatable where there is none."""
        entry = (operations() if layer.operation else layers()).get(layer.kind)
        entry = entry or layers().get(layer.kind)  # one that saves less of itself than others do
        if entry is None:
            what = "function" if layer.operation else "class"
            remedy = (
                "replace it by layers of docs/keras.md, or give from_keras the loaded model on the PyTorch back end"
            )
            if layer.kind == "Lambda":
                what, remedy = "class", f"the code of a Lambda is not run: {remedy}"
            layer.refuse(f"this {what} has no translation; {remedy}")
        for name, value in kwargs.items():
            if name not in IGNORED and name not in entry.arguments and value is not None and value is not False:
                layer.refuse(f"it is called with {printable(name, 40)}, which is not supported")
        return entry

    @contextmanager
    def _inside(self, layer: Layer) -> Iterator[None]:
        """The scope of a layer: its name before those of its nodes, and before its errors."""
        outer, self.build.scope = self.build.scope, f"{layer.scope}{layer.name}"
        try:
            yield
        except SofieError:
            raise
        except onnx.shape_inference.InferenceError as error:
            text = printable(str(error).rpartition("] ")[2] or str(error), 200)
            raise layer.wrong(f"its inputs and its configuration do not fit: {text}") from error
        except DAMAGED as error:
            raise layer.wrong(f"its configuration is damaged: {printable(str(error), 200)}") from error
        finally:
            self.build.scope = outer

    def weight(self, layer: Layer, name: str, *shape: int) -> Array:
        """A weight of this shape, as float32. Raises SofieError where the file has another."""
        found = layer.weights.get(name)
        if found is None:
            raise layer.wrong(f"the file has no weight {name} of it")
        if found.shape != shape:
            raise layer.wrong(f"its weight {name} has shape {list(found.shape)}, its configuration {list(shape)}")
        self._bytes += 4 * int(np.prod(shape, dtype=object))
        if self._bytes > MOST_WEIGHTS:
            raise layer.wrong("with its weights, the model is larger than the 2 GiB that ONNX holds")
        try:
            return found.read()
        except (ValueError, OSError, TypeError) as error:
            raise layer.wrong(f"its weight {name} cannot be read: {printable(str(error), 200)}") from error

    def known(self, layer: Layer, tensor: Tensor, axis: int) -> int:
        """The size of an axis, which has to be known. Raises SofieError."""
        size = tensor.shape[axis]
        if not isinstance(size, int):
            raise layer.wrong(f"the size of axis {axis} of its input is not known; give the model's Input a full shape")
        return size


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _tensors(inner)


def _masked(args: list[Any], mask: Any) -> list[Any]:
    """The arguments with the masks that a call gives explicitly."""
    if mask is None or not args:
        return args
    first = args[0]
    if isinstance(mask, Tensor) and isinstance(first, Tensor):
        return [replace(first, mask=mask.value), *args[1:]]
    if isinstance(mask, list) and isinstance(first, list):
        pairs = zip(first, [*mask, *[None] * len(first)], strict=False)
        given = [replace(t, mask=m.value) if isinstance(m, Tensor) else t for t, m in pairs]
        return [given, *args[1:]]
    return args

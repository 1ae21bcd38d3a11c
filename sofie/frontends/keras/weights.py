"""Which array of a file belongs to which layer.

A .h5 has a list a layer, trained weights first, those of nested models joined. A .keras has a tree of objects, where a
layer in a list is found by its class and a number, and its own weights are numbered.
"""

from __future__ import annotations

from collections.abc import Iterator

from sofie.errors import printable
from sofie.frontends.keras.config import Layer, snake_case
from sofie.frontends.keras.reading import Document, Stored, lookup, names, stored
from sofie.frontends.keras.registry import Weight, layers

ROOTS = ("layers", "_layer_checkpoint_dependencies")
"""Where a model in a .keras has its layers: Keras 3, and tf.keras 2.12 to 2.15."""


def assign(document: Document, model: Layer) -> None:
    """Fills `weights` of every layer of a model. Raises SofieError where the file has other weights."""
    if not document.flat:
        _from_tree(document, model, "", {})
        return
    assert model.network is not None
    for layer in model.network.layers:
        if not any(True for _ in _all(layer)):
            continue
        group = lookup(document.file, layer.label, document.weights, layer.name)
        if group is None:
            raise layer.wrong("the file has no weights of it")
        listed = names(document.file, layer.label, group, "weight_names")
        _from_list(layer, [stored(document.file, layer.label, group, name) for name in listed])


def own(layer: Layer) -> list[Weight]:
    """The weights that a layer has beside those of layers inside it."""
    entry = None if layer.operation else layers().get(layer.kind)
    return [] if entry is None or layer.network is not None else list(entry.weights(layer))


def inner(layer: Layer) -> dict[str, Layer]:
    """The layers inside a layer, by the attribute that holds them: as Keras names paths in a .keras."""
    if layer.network is not None:
        return dict(_numbered([la for la in layer.network.layers if not la.operation]))
    cells = {key: child for key, child in layer.children.items() if key.startswith("cells/")}
    numbered = {f"cells/{key}": child for key, child in _numbered(list(cells.values()))}
    renamed = {"layer": "forward_layer"} if layer.kind == "Bidirectional" else {}
    rest = {renamed.get(key, key): child for key, child in layer.children.items() if key not in cells}
    return {**rest, **numbered}


def _numbered(listed: list[Layer]) -> Iterator[tuple[str, Layer]]:
    used: dict[str, int] = {}
    for layer in listed:
        name = snake_case(layer.kind)
        used[name] = used.get(name, -1) + 1
        yield f"{name}_{used[name]}" if used[name] else name, layer


def _all(layer: Layer) -> Iterator[tuple[Layer, Weight]]:
    """Every weight of a layer and of those inside it, in the order of Keras' `weights`."""
    for weight in own(layer):
        yield layer, weight
    for child in inner(layer).values():
        yield from _all(child)


def _from_list(layer: Layer, listed: list[Stored]) -> None:
    """Gives a list of weights to a layer and to those inside it."""
    expected = list(_all(layer))
    if len(listed) != len(expected):
        raise layer.wrong(f"the file has {len(listed)} weights of it, and its configuration {len(expected)}")
    parts = _by_name(layer, listed)
    if parts is not None:
        for child, part in parts:
            _from_list(child, part)
        return
    ordered = [*(e for e in expected if e[1].trained), *(e for e in expected if not e[1].trained)]
    for (owner, weight), found in zip(ordered, listed, strict=True):
        owner.weights[weight.name] = found


def _by_name(layer: Layer, listed: list[Stored]) -> list[tuple[Layer, list[Stored]]] | None:
    """The list of a nested model by the layers inside it, where the names of the weights tell them apart."""
    if layer.network is None:
        return None
    children = [child for child in inner(layer).values() if any(True for _ in _all(child))]
    parts: dict[str, list[Stored]] = {child.name: [] for child in children}
    for found in listed:
        words = found.name.split("/")[:-1]
        owners = [word for word in words if word in parts]
        if not owners:
            return None
        parts[owners[0]].append(found)
    if any(len(parts[child.name]) != len(list(_all(child))) for child in children):
        return None
    return [(child, parts[child.name]) for child in children]


def _from_tree(document: Document, layer: Layer, path: str, seen: dict[int, str]) -> None:
    """Gives the weights below a path of a .keras to a layer and to those inside it.

    An object that stands in several places has its weights in the first.
    """
    if layer.shared is not None:
        path = seen.setdefault(layer.shared, path)
    counts: dict[tuple[str, ...], int] = {}
    for weight in own(layer):
        number = counts[weight.within] = counts.get(weight.within, -1) + 1
        places = [f"{path}{name}/vars/{number}" if name else f"{path}vars/{number}" for name in weight.within]
        place = next((p for p in places if lookup(document.file, layer.label, document.weights, p) is not None), None)
        if place is None:
            raise layer.wrong(f"the file has no weight {printable(places[0])!r}, its {weight.name}")
        layer.weights[weight.name] = stored(document.file, layer.label, document.weights, place)
    root = ""
    if layer.network is not None:
        held = [r for r in ROOTS if lookup(document.file, layer.label, document.weights, f"{path}{r}") is not None]
        root = f"{held[0] if held else ROOTS[0]}/"
    for name, child in inner(layer).items():
        _from_tree(document, child, f"{path}{root}{name}/", seen)

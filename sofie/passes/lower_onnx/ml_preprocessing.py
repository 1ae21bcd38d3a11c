"""Operators of ai.onnx.ml that prepare features: scaling, imputing, encoding, picking."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import IndexType, f32, i64
from xdsl.ir import Attribute, BlockArgument, SSAValue
from xdsl.ir.affine import AffineExpr

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, is_float, numpy_dtype, shape_of
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.gather import gather_at, position
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.structured import dims_map, identity
from sofie.weights import Array

ML = "ai.onnx.ml"

_INDEX = IndexType()
_FLOAT: np.dtype[np.generic] = np.dtype(np.float32)


def _as(build: Lowering, x: SSAValue, kind: Attribute) -> SSAValue:
    return x if element_of(x) == kind else build.elementwise(lambda s, v: s.cast(v, kind), x, element=kind)


def _each_feature(
    build: Lowering, name: str, values: Sequence[float], dtype: np.dtype[np.generic] = _FLOAT
) -> SSAValue:
    """One value, or one a feature, that broadcasts against operand 0; raises SofieError on another number of them."""
    shape = shape_of(build.operand(0))
    if len(values) != 1 and (len(values),) != shape[-1:]:
        raise SofieError(f"its attribute {name} has {len(values)} values; give one, or one for each feature")
    return build.weight(name, np.array(values, dtype))


@lowers("Scaler", domain=ML)
def scaler(op: OnnxOp, build: Lowering) -> SSAValue:
    """(x - offset) * scale, each one number or one a feature (Scaler 1)."""
    x, scale = _as(build, build.operand(0), f32), _each_feature(build, "scale", op.reals("scale") or (1.0,))
    offset = _each_feature(build, "offset", op.reals("offset") or (0.0,))
    return build.elementwise(lambda s, v, o, f: s.mul(s.sub(v, o), f), x, offset, scale)


@lowers("Binarizer", domain=ML)
def binarizer(op: OnnxOp, build: Lowering) -> SSAValue:
    """1 where x > threshold, else 0 (Binarizer 1)."""
    limit = op.real("threshold")

    def fn(s: Scalars, v: SSAValue) -> SSAValue:
        bound = s.constant(limit, v.type) if is_float(v.type) else s.constant(math.floor(limit), v.type)
        return s.select(s.compare("gt", v, bound), s.constant(1, v.type), s.constant(0, v.type))

    return build.elementwise(fn, build.operand(0))


Norm = tuple[float, Callable[[Scalars, SSAValue, SSAValue], SSAValue]]

NORMS: dict[str, Norm] = {
    "MAX": (-math.inf, lambda s, v, acc: s.max(acc, v)),
    "L1": (0.0, lambda s, v, acc: s.add(acc, s.abs(v))),
    "L2": (0.0, lambda s, v, acc: s.add(acc, s.mul(v, v))),
}


@lowers("Normalizer", domain=ML)
def normalizer(op: OnnxOp, build: Lowering) -> SSAValue:
    """x over the norm of its row, as it is where that is 0; MAX is the largest element with its sign (Normalizer 1)."""
    name, x = op.string("norm"), _as(build, build.operand(0), f32)
    if name not in NORMS:
        raise UnsupportedError(f"norm {printable(name)!r} is not one of {', '.join(NORMS)}")
    if len(shape_of(x)) > 2:
        raise UnsupportedError(f"its input has rank {len(shape_of(x))}; reshape it to (events, features)")
    start, fold = NORMS[name]
    total = build.reduce(lambda s, v, acc: fold(s, v, acc), start, x, [len(shape_of(x)) - 1], keep=True)

    def fn(s: Scalars, v: SSAValue, t: SSAValue) -> SSAValue:
        norm = s.unary("sqrt", t) if name == "L2" else t
        is_zero = s.compare("eq", norm, s.constant(0, norm.type))
        return s.select(is_zero, v, s.div(v, norm))

    return build.elementwise(fn, x, total)


@lowers("Imputer", domain=ML)
def imputer(op: OnnxOp, build: Lowering) -> SSAValue:
    """x with `replaced_value`, which may be NaN, replaced by one value or by one a feature (Imputer 1)."""
    x = build.operand(0)
    kind = element_of(x)
    given: Sequence[float] = (
        op.reals("imputed_value_floats") if is_float(kind) else op.ints("imputed_value_int64s") or ()
    )
    name = "imputed_value_floats" if is_float(kind) else "imputed_value_int64s"
    if not given:
        raise SofieError(f"its attribute {name} is missing")
    wanted = op.real("replaced_value_float") if is_float(kind) else op.integer("replaced_value_int64")
    values = _each_feature(build, name, given, numpy_dtype(kind))

    def fn(s: Scalars, v: SSAValue, new: SSAValue) -> SSAValue:
        missing = s.compare("ne", v, v) if wanted != wanted else s.compare("eq", v, s.constant(wanted, kind))
        return s.select(missing, new, v)

    return build.elementwise(fn, x, values)


@lowers("OneHotEncoder", domain=ML, limits="categories that are integers")
def one_hot_encoder(op: OnnxOp, build: Lowering) -> SSAValue:
    """1 in the column of the category that x, cut to an integer, is; 0 elsewhere and for others (OneHotEncoder 1).

    With `zeros` = 0, where other values are an error, they give zeros too: compiled code has no errors.
    """
    categories, x = op.ints("cats_int64s"), build.operand(0)
    if not categories:
        raise UnsupportedError("its categories are strings; map them to integers before the model")
    table = build.weight("categories", np.array(categories, np.int64))
    rank = len(shape_of(x))

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        hit = s.compare("eq", s.cast(args[0], i64), args[1])
        return [s.select(hit, s.constant(1, f32), s.constant(0, f32))]

    maps = [dims_map(rank + 1, list(range(rank))), dims_map(rank + 1, [rank]), identity(rank + 1)]
    return build.generic([x, table], [build.empty(build.result_shape(), f32)], maps, fn)[0]


@lowers("FeatureVectorizer", domain=ML)
def feature_vectorizer(op: OnnxOp, build: Lowering) -> SSAValue:
    """All operands side by side as float, each cut or filled with 0 to its `inputdimensions` (FeatureVectorizer 1)."""
    widths, parts = op.ints("inputdimensions") or (), []
    values = [v for v in build.operands if v is not None]
    if len(widths) != len(values):
        raise SofieError(f"inputdimensions has {len(widths)} numbers for {len(values)} operands")
    for value, width in zip(values, widths, strict=True):
        shape = shape_of(value)
        row = build.reshape(value, [1, *shape]) if len(shape) == 1 else value
        if len(shape_of(row)) != 2:
            raise UnsupportedError(f"an operand has rank {len(shape)}; reshape it to (events, features)")
        parts.append(build.pad(_as(build, row, f32), [0, 0], [0, width - shape[-1]], 0))
    return build.concat(parts, 1)


@lowers("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(op: OnnxOp, build: Lowering) -> SSAValue:
    """The elements of the last axis at all positions in y, in their order (ArrayFeatureExtractor 1)."""
    x, places = build.operand(0), build.operand(1)
    shape, result = shape_of(x), build.result_shape()
    flat = build.reshape(places, [math.prod(shape_of(places))])
    rank = len(result)

    def where(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        before = [s.loop(d) for d in range(rank - 1)] if len(shape) > 1 else []
        return [*before, position(build, s, args[0], shape[-1])]

    return gather_at(build, x, result, [(flat, dims_map(rank, [AffineExpr.dimension(rank - 1)]))], where)


# -- label encoder -----------------------------------------------------------------------------------------------------


@lowers("LabelEncoder", domain=ML, limits="keys and values that are numbers")
def label_encoder(op: OnnxOp, build: Lowering) -> SSAValue:
    """The value of the key that x is, of the first of equal ones, NaN among them; else the default (LabelEncoder 4)."""
    keys, values = _pairs(op, "keys"), _pairs(op, "values")
    if len(keys) != len(values):
        raise SofieError(f"there are {len(keys)} keys and {len(values)} values")
    default = _default(op, values.dtype)
    x = build.operand(0)
    source, target = element_of(x), build.result_element()
    is_nan = keys != keys
    of_nan = values[is_nan][:1]
    ordered, first = np.unique(keys[~is_nan], return_index=True)
    chosen = values[~is_nan][first]
    if not len(ordered):
        ordered, chosen = np.zeros(1, keys.dtype), np.array([default], values.dtype)
    steps = max(len(ordered) - 1, 0).bit_length()
    fill = (1 << steps) - len(ordered)
    table = build.weight("keys", np.append(ordered, np.repeat(ordered[-1:], fill)))
    results = build.weight("values", np.append(chosen, np.repeat(chosen[-1:], fill)))

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        place = s.constant(0, _INDEX)
        for step in reversed(range(steps)):  # the last place whose key is not above x
            ahead = s.insert(arith.AddiOp(place, s.constant(1 << step, _INDEX)))
            key = s.insert(tensor.ExtractOp(table, [ahead], source))
            place = s.select(s.compare("le", key, args[0]), ahead, place)
        hit = s.compare("eq", s.insert(tensor.ExtractOp(table, [place], source)), args[0])
        other = s.constant(default, target)
        if len(of_nan):
            other = s.select(s.compare("ne", args[0], args[0]), s.constant(of_nan[0].item(), target), other)
        return [s.select(hit, s.insert(tensor.ExtractOp(results, [place], target)), other)]

    maps = [identity(len(shape_of(x)))] * 2
    return build.generic([x], [build.empty(shape_of(x), target)], maps, fn)[0]


def _pairs(op: OnnxOp, name: str) -> Array:
    """The keys or values, from whichever attribute holds them."""
    if op.strings(f"{name}_strings"):
        raise UnsupportedError(f"its {name} are strings; map them to numbers before or behind the model")
    given = op.tensor(f"{name}_tensor")
    if given is not None:
        if given.dtype.kind not in "fiu":
            raise UnsupportedError(f"its {name} are strings; map them to numbers before or behind the model")
        return np.asarray(given).reshape(-1)
    if numbers := op.ints(f"{name}_int64s"):
        return np.array(numbers, np.int64)
    return np.array(op.reals(f"{name}_floats"), np.float32)


def _default(op: OnnxOp, kind: np.dtype[np.generic]) -> float | int:
    given = op.tensor("default_tensor")
    if given is not None:
        value: float | int = np.asarray(given).reshape(-1)[0].item()
        return value
    return op.real("default_float") if kind.kind == "f" else op.integer("default_int64")

"""TfIdfVectorizer: how often each n-gram of a pool stands in a row of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import IndexType, f32, i1, i64
from xdsl.ir import BlockArgument, SSAValue
from xdsl.ir.affine import AffineExpr

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError, UnsupportedError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars

_INDEX = IndexType()


@lowers("TfIdfVectorizer", limits="pools of integers")
def tfidf_vectorizer(op: OnnxOp, build: Lowering) -> SSAValue:
    """Counts of the pool's n-grams among each row's tokens at distances 1 to max_skip_count + 1 (TfIdfVectorizer 9).

    Mode TF gives counts, IDF the weight of an n-gram that is there, TFIDF its count times its weight; n-grams of one
    column add up, and where IDF has no weights, any of them gives 1. Compares all tokens with all n-grams.
    """
    x, columns = build.operand(0), build.result_shape()[-1]
    rows = build.reshape(x, [1, *shape_of(x)]) if len(shape_of(x)) == 1 else x
    count, places = shape_of(rows)[0], op.ints("ngram_indexes") or ()
    parts, behind = [build.fill(0, [count, 1], f32)], 1
    grams_of: list[list[int]] = [[] for _ in range(columns)]
    for length, grams in _pool(op).items():
        if not grams or 0 in shape_of(rows):
            continue
        counts = _counts(build, rows, list(grams), 1 if length == 1 else op.integer("max_skip_count") + 1)
        parts.append(_weighted(op, build, counts, list(grams.values())))
        for k, number in enumerate(grams.values(), behind):
            grams_of[places[number]].append(k)
        behind += len(grams)
    is_idf = op.string("mode") == "IDF"
    if is_idf and op.reals("weights") and any(len(grams) > 1 for grams in grams_of):
        raise UnsupportedError("weighted n-grams share a column, which mode IDF leaves open; give each one of its own")
    return build.reshape(_joined(build, build.concat(parts, 1), grams_of, is_idf), build.result_shape())


def _pool(op: OnnxOp) -> dict[int, dict[tuple[int, ...], int]]:
    """By length, the n-grams that count and their numbers in the pool; of equal ones the last."""
    pool, starts = op.ints("pool_int64s"), op.ints("ngram_counts") or ()
    if not pool:
        raise UnsupportedError("only pools of integers are supported; map the strings to numbers before the model")
    found: dict[int, dict[tuple[int, ...], int]] = {}
    number = 0
    for length, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), 1):
        grams = [tuple(pool[k : k + length]) for k in range(start, end - length + 1, length)]
        if op.integer("min_gram_length") <= length <= op.integer("max_gram_length"):
            found[length] = {gram: number + k for k, gram in enumerate(grams)}
        number += len(grams)
    return found


def _counts(build: Lowering, rows: SSAValue, grams: Sequence[Sequence[int]], distances: int) -> SSAValue:
    """How often each n-gram stands in each row, its tokens `distance` apart: (rows, n-grams), as float32."""
    (count, tokens), kind, length = shape_of(rows), element_of(rows), len(grams[0])
    pool = build.weight("n-grams", np.array(grams, np.int64))
    steps, end = build.empty([tokens, distances], f32), build.number(tokens, _INDEX)

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        *wanted, _, before = args
        distance = s.insert(arith.AddiOp(s.loop(3), s.constant(1, _INDEX)))
        hit = s.constant(True, i1)
        for k, token in enumerate(wanted):
            shift = s.insert(arith.MuliOp(distance, s.constant(k, _INDEX)))
            place = s.insert(arith.AddiOp(s.loop(2), shift))
            inside = s.insert(arith.CmpiOp(place, end(s), "slt"))
            at = s.select(inside, place, s.constant(0, _INDEX))
            value = s.cast(s.insert(tensor.ExtractOp(rows, [s.loop(0), at], kind)), i64)
            same = s.insert(arith.AndIOp(inside, s.compare("eq", value, token)))
            hit = s.insert(arith.AndIOp(hit, same))
        return [s.select(hit, s.add(before, s.constant(1, f32)), before)]

    reads = [structured.dims_map(4, [1, AffineExpr.constant(k)]) for k in range(length)]
    maps = [*reads, structured.dims_map(4, [2, 3]), structured.dims_map(4, [0, 1])]
    start = build.fill(0, [count, len(grams)], f32)
    return build.generic([*[pool] * length, steps], [start], maps, fn, [2, 3])[0]


def _joined(build: Lowering, counts: SSAValue, grams_of: Sequence[Sequence[int]], largest: bool) -> SSAValue:
    """For each column the sum or the largest of its n-grams, which are columns of `counts`; its column 0 is zero."""
    most = max(1, *(len(grams) for grams in grams_of))
    table = build.weight("columns", np.array([[*grams, *[0] * (most - len(grams))] for grams in grams_of], np.int64))

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        column = s.insert(arith.IndexCastOp(args[0], _INDEX))
        value = s.insert(tensor.ExtractOp(counts, [s.loop(0), column], f32))
        return [s.max(args[1], value) if largest else s.add(args[1], value)]

    maps = [structured.dims_map(3, [1, 2]), structured.dims_map(3, [0, 1])]
    start = build.fill(0, [shape_of(counts)[0], len(grams_of)], f32)
    return build.generic([table], [start], maps, fn, [2])[0]


def _weighted(op: OnnxOp, build: Lowering, counts: SSAValue, numbers: Sequence[int]) -> SSAValue:
    """The counts of the n-grams with these numbers as `mode` wants them."""
    mode, given, total = op.string("mode"), op.reals("weights"), len(op.ints("ngram_indexes") or ())
    if mode not in ("TF", "IDF", "TFIDF"):
        raise SofieError(f"mode {mode!r} is not one of TF, IDF and TFIDF")
    if mode == "TF":
        return counts
    if given and len(given) != total:
        raise SofieError(f"there are {len(given)} weights for {total} n-grams; give one for each, or none")
    weights = build.weight("weights", np.array([given[k] if given else 1 for k in numbers], np.float32))

    def fn(s: Scalars, n: SSAValue, w: SSAValue) -> SSAValue:
        zero = s.constant(0, n.type)
        return s.mul(n, w) if mode == "TFIDF" else s.select(s.compare("gt", n, zero), w, zero)

    return build.elementwise(fn, counts, weights)

"""Fourier transforms, and the windows and filters that go with them.

Transforms are made in double precision on two planes, the real and the imaginary part, along the middle axis of
(before, n, after). A length that is not prime is taken apart: n = a * b is b transforms of length a, with their
twiddle factors in the same table, and then a transforms of length b. Each stage is a sum of products with a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import f64
from xdsl.ir import BlockArgument, SSAValue
from xdsl.ir.affine import AffineExpr

from sofie import structured
from sofie.dialects.onnx import DOMAINS, OnnxOp
from sofie.dialects.types import element_of, is_unsigned, shape_of
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.reference import evaluate_node

DIRECT = 16
"""Lengths up to this one, and primes, are transformed in one stage: n * n products."""

Reals = npt.NDArray[np.float64]
Planes = list[SSAValue]
"""The real part and, unless it is zero, the imaginary part: f64, (before, n, after)."""


# -- transforms --------------------------------------------------------------------------------------------------


def _factor(n: int) -> int:
    """The first stage of a transform of length n: its largest divisor up to DIRECT, or n itself."""
    if n <= DIRECT:
        return n
    return next((a for a in range(DIRECT, 1, -1) if n % a == 0), _least_divisor(n))


def _least_divisor(n: int) -> int:
    return next((a for a in range(2, math.isqrt(n) + 1) if n % a == 0), n)


def _waves(turns: npt.NDArray[np.int64], n: int) -> tuple[Reals, Reals]:
    """cos and sin of 2 pi turns / n, exact at quarter turns and equal, but for the sign, where symmetry says so."""
    quarter, rest = np.divmod(4 * turns, n)
    near, far = np.pi / 2 * rest / n, np.pi / 2 * (n - rest) / n  # to the axis behind and to the one ahead
    cosine = np.where(2 * rest <= n, np.cos(near), np.sin(far))
    sine = np.where(2 * rest < n, np.sin(near), np.cos(far))
    return (
        np.choose(quarter, [cosine, -sine, -cosine, sine]),
        np.choose(quarter, [sine, cosine, -sine, -cosine]),
    )


def transform(build: Lowering, planes: Planes, sign: int, keep: int) -> Planes:
    """The first `keep` sums over t of planes[:, t, :] * exp(sign * 2 pi i k t / n), or some more; both parts."""
    before, n, after = shape_of(planes[0])
    a = _factor(n)
    b = n // a
    rows = keep if b == 1 else a
    t, k, rest = np.arange(a)[:, None, None], np.arange(rows)[None, :, None], np.arange(b)[None, None, :]
    cosines, sines = _waves((sign * k * (t * b + rest)) % n, n)
    tables = [build.weight("twiddles", table) for table in (cosines, sines)]
    columns = [build.reshape(p, [before, a, b, after]) for p in planes]
    maps = [structured.dims_map(5, dims) for dims in ([0, 4, 2, 3], [4, 1, 2], [0, 1, 2, 3])]
    starts = [build.fill(0, [before, rows, b, after], f64) for _ in range(2)]

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        *parts, cosine, sine, real, imaginary = args
        sums = [s.add(real, s.mul(parts[0], cosine)), s.add(imaginary, s.mul(parts[0], sine))]
        if len(parts) == 1:
            return sums
        return [s.sub(sums[0], s.mul(parts[1], sine)), s.add(sums[1], s.mul(parts[1], cosine))]

    inputs = [*columns, *tables]
    done = build.generic(inputs, starts, [*[maps[0]] * len(planes), maps[1], maps[1], maps[2], maps[2]], fn, [4])
    if b == 1:
        return [build.reshape(p, [before, rows, after]) for p in done]
    inner = [build.reshape(p, [before * a, b, after]) for p in done]
    return [_interleave(build, p, a) for p in transform(build, inner, sign, -(-keep // a))]


def _interleave(build: Lowering, x: SSAValue, a: int) -> SSAValue:
    """(before * a, k, after) as (before, k * a, after)."""
    lead, k, after = shape_of(x)
    apart = build.reshape(x, [lead // a, a, k, after])
    return build.reshape(build.transpose(apart, [0, 2, 1, 3]), [lead // a, k * a, after])


@lowers("DFT", limits="dft_length and axis known when compiling")
def dft(op: OnnxOp, build: Lowering) -> SSAValue:
    """The discrete Fourier transform along an axis, or its inverse, cut or padded to a length (DFT 20).

    `onesided` keeps the first half of the frequencies, or takes the other half as its mirror image (inverse).
    """
    x = build.operand(0)
    *signal, parts = shape_of(x)
    axis = (build.known_ints(2) or [-2])[0] % (len(signal) + 1)
    inverse, onesided = op.integer("inverse") == 1, op.integer("onesided") == 1
    mirrored = inverse and onesided
    length = (build.known_ints(1) or [2 * (signal[axis] - 1) if mirrored else signal[axis]])[0]
    if 0 in shape_of(x) or 0 in build.result_shape():
        return build.fill(0, build.result_shape(), element_of(x))
    weights = np.ones(length)
    if mirrored:  # each frequency stands for its mirror image too, but for the first and the middle one
        weights[1 : (length + 1) // 2] = 2
        weights[length // 2 + 1 :] = 0
    shape = [math.prod(signal[:axis]), signal[axis], math.prod(signal[axis + 1 :])]
    count = min(length, signal[axis])
    cut = build.slice(build.reshape(x, [*shape, parts]), [0] * 4, [shape[0], count, shape[2], parts])
    planes = [
        build.pad(_plane(build, cut, part, weights[:count]), [0, 0, 0], [0, length - count, 0], 0)
        for part in range(parts)
    ]
    keep = length // 2 + 1 if onesided and not inverse else length
    done = transform(build, planes, 1 if inverse else -1, keep)
    return _joined(op, build, done[:1] if mirrored else done, keep, length if inverse else 1)


def _plane(build: Lowering, x: SSAValue, part: int, weights: Reals) -> SSAValue:
    """x[.., part] times weights along the middle axis, in double precision: (before, n, after)."""
    read = structured.dims_map(3, [0, 1, 2, AffineExpr.constant(part)])
    maps = [read, structured.dims_map(3, [1]), structured.identity(3)]
    inputs = [x, build.weight("weights", weights)]
    *shape, _ = shape_of(x)
    return build.generic(
        inputs, [build.empty(shape, f64)], maps, lambda s, args: [s.mul(s.cast(args[0], f64), args[1])]
    )[0]


def _joined(op: OnnxOp, build: Lowering, planes: Planes, keep: int, divisor: int) -> SSAValue:
    """The first `keep` elements of planes divided, as the last axis of the result and in its type."""
    kind = build.result_element()

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        return s.cast(x if divisor == 1 else s.div(x, s.constant(divisor, f64)), kind)

    parts = []
    for plane in planes:
        before, _, after = shape_of(plane)
        rounded = build.elementwise(fn, build.slice(plane, [0, 0, 0], [before, keep, after]), element=kind)
        parts.append(build.reshape(rounded, [before, keep, after, 1]))
    return build.reshape(parts[0] if len(parts) == 1 else build.concat(parts, 3), build.result_shape())


@lowers("STFT", limits="frame_step and frame_length known when compiling")
def stft(op: OnnxOp, build: Lowering) -> SSAValue:
    """Fourier transforms of the frames of a signal, each weighed by a window (STFT 17); a real one may have rank 2."""
    x, window = build.operand(0), build.optional(2)
    x = x if len(shape_of(x)) == 3 else build.reshape(x, [*shape_of(x), 1])
    (step,) = build.known_ints(1) or [1]
    batch, signal, parts = shape_of(x)
    (length,) = build.known_ints(3) or ([signal] if window is None else shape_of(window))
    _, count, keep, _ = build.result_shape()
    if 0 in build.result_shape():
        return build.empty(build.result_shape(), element_of(x))
    walk = AffineExpr.dimension(1) * step + AffineExpr.dimension(2)
    planes = []
    for part in range(parts):

        def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
            value, *weight = [s.cast(v, f64) for v in args[:-1]]
            return [s.mul(value, weight[0]) if weight else value]

        read = structured.dims_map(3, [0, walk, AffineExpr.constant(part)])
        inputs, maps = ([x], [read]) if window is None else ([x, window], [read, structured.dims_map(3, [2])])
        frames = build.empty([batch, count, length], f64)
        framed = build.generic(inputs, [frames], [*maps, structured.identity(3)], fn)[0]
        planes.append(build.reshape(framed, [batch * count, length, 1]))
    return _joined(op, build, transform(build, planes, -1, keep), keep, 1)


# -- windows and filters -----------------------------------------------------------------------------------------


def _window(op: OnnxOp, build: Lowering, shape: Callable[[Scalars, SSAValue], SSAValue]) -> SSAValue:
    """shape(s, phase) for phases from 0 to pi, in double precision, where the last one is left out if periodic."""
    (size,), kind = build.result_shape(), build.result_element()
    steps = size if op.integer("periodic") == 1 else size - 1
    unsigned = is_unsigned(build.result_elements[0])

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        place = s.cast(s.place(0), f64)
        phase = s.div(s.mul(place, s.constant(math.pi, f64)), build.number(steps, f64)(s))
        return [s.cast(shape(s, phase), kind, unsigned_target=unsigned)]

    return build.generic([], [build.empty([size], kind)], [structured.identity(1)], fn, unsigned=False)[0]


def _cosines(s: Scalars, phase: SSAValue, factors: Sequence[float]) -> SSAValue:
    """factors[0] + factors[1] * cos(2 phase) + factors[2] * cos(4 phase) + .."""
    total = s.constant(factors[0], f64)
    for k, factor in enumerate(factors[1:], 1):
        wave = s.unary("cos", s.mul(phase, s.constant(2.0 * k, f64)))
        total = s.add(total, s.mul(s.constant(factor, f64), wave))
    return total


@lowers("HannWindow", limits="size known when compiling, or a size of the run")
def hann_window(op: OnnxOp, build: Lowering) -> SSAValue:
    """sin(phase) squared (HannWindow 17); a small window whose size is known was folded before."""

    def shape(s: Scalars, phase: SSAValue) -> SSAValue:
        sine = s.unary("sin", phase)
        return s.mul(sine, sine)

    return _window(op, build, shape)


@lowers("HammingWindow", limits="size known when compiling, or a size of the run")
def hamming_window(op: OnnxOp, build: Lowering) -> SSAValue:
    """25/46 - 21/46 cos(2 phase) (HammingWindow 17)."""
    return _window(op, build, lambda s, phase: _cosines(s, phase, [25 / 46, -21 / 46]))


@lowers("BlackmanWindow", limits="size known when compiling, or a size of the run")
def blackman_window(op: OnnxOp, build: Lowering) -> SSAValue:
    """0.42 - 0.5 cos(2 phase) + 0.08 cos(4 phase) (BlackmanWindow 17)."""
    return _window(op, build, lambda s, phase: _cosines(s, phase, [0.42, -0.5, 0.08]))


@lowers("MelWeightMatrix", limits="operands known when compiling")
def mel_weight_matrix(op: OnnxOp, build: Lowering) -> SSAValue:
    """Triangular filters on the mel scale (MelWeightMatrix 17): a constant."""
    operands = [build.constant(k) for k in range(5)]
    return build.weight("mel filters", evaluate_node(op.node(), operands, DOMAINS)[0])

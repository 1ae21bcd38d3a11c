"""Convolutions read off structured ops: those of stride 1 with windows of 3 x 3 or 5 x 5, channels last (level 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import Float32Type, i8, i32
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr

from sofie import sizes, structured
from sofie.dialects.scalars import computes
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import element_of, shape_of
from sofie.rewrite import users
from sofie.weights import Array


@dataclass(frozen=True)
class Layer:
    """A convolution of stride 1: x (n, height + taps - 1, width + taps - 1, channels), result (n, height, width, k).

    Of floats, or of bytes whose products are summed as 32 bits.
    """

    op: GenericOp
    x: SSAValue
    of_bytes: bool
    """Those of x have no sign, those of the kernel have one."""
    kernel: Array
    """(outputs, channels, taps, taps)."""
    name: str
    epilogue: GenericOp | None
    """The elementwise op that alone reads the result."""

    @property
    def result(self) -> SSAValue:
        """What the layer computes, with its epilogue."""
        return (self.epilogue or self.op).results[0]

    @property
    def batch(self) -> int:
        """n."""
        return shape_of(self.op.results[0])[0]

    @property
    def height(self) -> int:
        """Rows of the result."""
        return shape_of(self.op.results[0])[1]

    @property
    def width(self) -> int:
        """Columns of the result."""
        return shape_of(self.op.results[0])[2]

    @property
    def outputs(self) -> int:
        """Channels of the result."""
        return shape_of(self.op.results[0])[3]

    @property
    def taps(self) -> int:
        """Rows and columns of the kernel."""
        return int(self.kernel.shape[2])

    @property
    def channels(self) -> int:
        """Channels of x."""
        return shape_of(self.x)[3]

    @property
    def most(self) -> int:
        """What no sum of products of bytes goes beyond, nor below its negative."""
        kernel = self.kernel.astype(np.int64).reshape(self.outputs, -1)
        up, down = (int(np.maximum(part, 0).sum(1).max()) for part in (kernel, -kernel))
        return 255 * max(up, down)


def layer_of(op: GenericOp) -> Layer | None:
    """The convolution that an op is; None where it is anything else, its kernel no constant or its sizes of the run."""
    if len(op.inputs) != 2 or len(op.results) != 1 or len(op.iterator_types) != 7:
        return None
    of_bytes = _is_of_bytes(op)
    if of_bytes is None:
        return None
    maps, extent = structured.maps_of(op), structured.extents(op)
    if structured.dims_of(maps[2]) != [0, 1, 2, 3] or not all(sizes.is_static(shape_of(v)) for v in op.operands):
        return None
    weight = next((k for k, v in enumerate(op.inputs) if isinstance(v.owner, WeightOp)), None)
    if weight is None or (of_bytes and weight == 0):
        return None
    x, dims = op.inputs[1 - weight], structured.dims_of(maps[weight])
    walked = maps[1 - weight].results
    if dims is None or len(walked) != 4 or not isinstance(walked[3], AffineDimExpr):
        return None
    channel = walked[3].position
    windows = [_window(walked[1], 1), _window(walked[2], 2)]
    ky, kx = windows
    if ky is None or kx is None or sorted(d for d in dims if d is not None) != sorted([3, channel, ky, kx]):
        return None
    if walked[0] != AffineDimExpr(0) or (extent[ky], extent[kx]) not in ((3, 3), (5, 5)) or len(dims) != 4:
        return None
    owner = op.inputs[weight].owner
    assert isinstance(owner, WeightOp)
    kernel = owner.blob.value.transpose([dims.index(d) for d in (3, channel, ky, kx)])
    return Layer(op, x, of_bytes, kernel, owner.weight_name.data, _epilogue(op))


def _is_of_bytes(op: GenericOp) -> bool | None:
    """Whether an op adds products of bytes, the first without a sign; None if it adds none, nor any of float32."""
    body = structured.body_ops(op)
    kinds = [type(o) for o in body]
    if kinds == [arith.MulfOp, arith.AddfOp]:
        return False if isinstance(element_of(op.results[0]), Float32Type) else None
    if kinds != [arith.ExtUIOp, arith.ExtSIOp, arith.MuliOp, arith.AddiOp] or element_of(op.results[0]) != i32:
        return None
    factors = [o.operands[0] for o in body[:2]]
    return True if factors == list(op.body.block.args[:2]) and all(f.type == i8 for f in factors) else None


def _window(expr: AffineExpr, loop: int) -> int | None:
    """The loop over the kernel in `loop + kernel`, None for any other expression."""
    others = expr.used_dims() - {loop}
    if len(others) != 1:
        return None
    (kernel,) = others
    return kernel if expr == AffineExpr.dimension(loop) + AffineExpr.dimension(kernel) else None


def _epilogue(op: GenericOp) -> GenericOp | None:
    """The elementwise op that alone reads the result, just where it is written, and nothing that windows or gathers."""
    readers = users(op.results[0])
    if len(readers) != 1 or not isinstance(readers[0], GenericOp) or not structured.is_parallel(readers[0]):
        return None
    reader = readers[0]
    maps = [structured.dims_of(m) for m in structured.maps_of(reader)]
    if len(reader.results) != 1 or maps[-1] != [0, 1, 2, 3] or None in maps or reader.body.block.args[-1].uses:
        return None
    if reader.parent_block() is not op.parent_block() or any(o.regions for o in reader.body.walk()):
        return None
    if any(v is op.results[0] and m != [0, 1, 2, 3] for v, m in zip(reader.inputs, maps, strict=False)):
        return None
    return reader if all(map(computes, structured.body_ops(reader))) else None

"""QONNX's quantisers against exact fractions: every width, every rounding, ties and both ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sofie
from sofie.errors import SofieError

DOMAIN = "qonnx.custom_op.general"

pytestmark = pytest.mark.usefixtures("needs_compiler")


def away(x: Fraction) -> int:
    return math.ceil(x) if x > 0 else math.floor(x)


ROUNDINGS = {
    "ROUND": round,
    "CEIL": math.ceil,
    "FLOOR": math.floor,
    "UP": away,
    "DOWN": math.trunc,
    "ROUND_TO_ZERO": math.trunc,
    "HALF_UP": lambda x: int(math.copysign(math.floor(abs(x) + Fraction(1, 2)), x)),
    "HALF_DOWN": lambda x: int(math.copysign(math.ceil(abs(x) - Fraction(1, 2)), x)),
}


def model(
    operator: str,
    constants: dict[str, object],
    shape: list[int],
    domain: str = DOMAIN,
    roundings: Sequence[str] = (),
    **attributes: object,
) -> onnx.ModelProto:
    """A model of quantisers of x, one for each way to round."""
    nodes, outputs = [], []
    for rounding in roundings or ("",):
        more = {"rounding_mode": rounding} if rounding else {}
        name = f"y{rounding}"
        nodes.append(
            helper.make_node(operator, ["x", *constants], [name], name="quantiser", domain=domain, **attributes, **more)
        )
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    weights = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    versions = [helper.make_opsetid("", 20), helper.make_opsetid(domain, 1)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], outputs, weights), opset_imports=versions, ir_version=9)


def bounds(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    if not signed:
        return 0, 2**bits - 1 - narrow
    return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1


@pytest.mark.parametrize(("signed", "narrow"), [(1, 0), (1, 1), (0, 0), (0, 1)])
@pytest.mark.parametrize(("bits", "zero"), [(2, 0), (4, 3), (8, 0), (11, -5)])
def test_quant_is_exact(bits: int, zero: int, signed: int, narrow: int) -> None:
    """A bound that is off by one, a tie that goes the wrong way, a zero point before the rounding."""
    scale = 0.25
    low, high = bounds(bits, bool(signed), bool(narrow))
    quarters = np.arange((low - 4) * 4, (high + 5) * 4, dtype=np.float64)[: 4 * 4096]
    x = ((quarters / 4 - zero) * scale).astype(np.float32)
    constants = {"scale": scale, "zeropt": zero, "bitwidth": bits}
    proto = model("Quant", constants, [x.size], roundings=list(ROUNDINGS), signed=signed, narrow=narrow)
    bounded = [min(max(Fraction(float(v)) / Fraction(scale) + zero, Fraction(low)), Fraction(high)) for v in x]
    for (name, rounding), got in zip(ROUNDINGS.items(), sofie.compile(proto)(x), strict=True):
        want = np.array([(rounding(v) - zero) * scale for v in bounded], np.float32)
        np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.parametrize("domain", [DOMAIN, "finn.custom_op.general", "onnx.brevitas"])
def test_bipolar_and_older_domains(domain: str) -> None:
    """Zero that is negative, or a domain of an older exporter that is not known."""
    x = np.array([-2, -0.25, 0, 0.25, 3], np.float32)
    got = sofie.compile(model("BipolarQuant", {"scale": 0.5}, [x.size], domain))(x)
    np.testing.assert_array_equal(got, [-0.5, -0.5, 0.5, 0.5, 0.5])


def test_trunc_drops_the_lowest_bits() -> None:
    """Bits that are kept, or a rounding that is another's."""
    whole = np.arange(-128, 128)
    x = (whole * 0.125).astype(np.float32)
    constants = {"scale": 0.125, "zeropt": 0, "in_bitwidth": 8, "out_bitwidth": 5}
    results = sofie.compile(model("Trunc", constants, [x.size], roundings=list(ROUNDINGS)))(x)
    for (name, rounding), got in zip(ROUNDINGS.items(), results, strict=True):
        want = [rounding(Fraction(int(v), 8)) * 0.125 for v in whole]
        np.testing.assert_array_equal(got, np.array(want, np.float32), err_msg=name)


def test_widths_by_channel() -> None:
    """A scale or width that holds for one channel and is taken for all."""
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(4, 3)
    scale, bits = np.array([0.5, 0.25, 0.125], np.float32), np.array([2, 3, 4], np.float32)
    proto = model("Quant", {"scale": scale, "zeropt": 0, "bitwidth": bits}, [4, 3])
    want = np.round(np.clip(x / scale, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)) * scale
    np.testing.assert_array_equal(sofie.compile(proto)(x), want)


def test_an_unknown_rounding_is_one_sentence() -> None:
    """A mode that is taken for another."""
    proto = model("Quant", {"scale": 1, "zeropt": 0, "bitwidth": 4}, [3], roundings=["SIDEWAYS"])
    with pytest.raises(SofieError, match="'quantiser'.*rounding mode 'SIDEWAYS' is not one of"):
        sofie.compile(proto)

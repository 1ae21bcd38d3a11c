"""The interpreter against onnx.reference at every level, and op by op against numbers worked out elsewhere."""

import math
import operator

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from xdsl.dialects.builtin import NameLoc, StringAttr, UnknownLoc
from xdsl.parser import Parser

from sofie import pipeline
from sofie.errors import SofieError
from sofie.frontends.onnx import load
from sofie.interpreter import run

LEVELS = {
    "onnx": "",
    "tensor": "lower-onnx",
    "destinations": "lower-onnx,assign-destinations",
    "alloc": "lower-onnx,assign-destinations,bufferize",
    "buffer": "lower-onnx,assign-destinations,bufferize,plan-memory",
    "loop": "lower-onnx,assign-destinations,bufferize,plan-memory,lower-loops,outline-kernels",
    "fused buffer": "fuse,assign-destinations,bufferize,plan-memory",
    "vectors": "fuse,lower",
}
RANDOM = np.random.default_rng(3)


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def model(nodes, inputs, outputs, **weights):
    """A ModelProto of opset 21; inputs and outputs are name=(dtype, shape), weights are arrays."""

    def info(values):
        return [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
            for name, (dtype, shape) in values.items()
        ]

    initialisers = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", info(inputs), info(outputs), initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


MODELS = {
    "gemm and relu": (
        model(
            [node("Gemm", "x w b", "t", transB=1, alpha=0.5), node("Relu", "t", "y")],
            {"x": ("f4", [4, 7])},
            {"y": ("f4", [4, 5])},
            w=floats(5, 7),
            b=floats(5),
        ),
        [floats(4, 7)],
    ),
    "strided, padded, grouped convolution": (
        model(
            [node("Conv", "x w b", "y", group=2, strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2])],
            {"x": ("f4", [2, 4, 7, 6])},
            {"y": ("f4", None)},
            w=floats(6, 2, 3, 2),
            b=floats(6),
        ),
        [floats(2, 4, 7, 6)],
    ),
    "max pooling with indices": (
        model(
            [node("MaxPool", "x", "y i", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])],
            {"x": ("f4", [1, 2, 5, 6])},
            {"y": ("f4", None), "i": ("i8", None)},
        ),
        [floats(1, 2, 5, 6)],
    ),
    "softmax": (
        model([node("Softmax", "x", "y", axis=1)], {"x": ("f4", [3, 6, 2])}, {"y": ("f4", [3, 6, 2])}),
        [floats(3, 6, 2)],
    ),
    "concat, slice, transpose and pad": (
        model(
            [
                node("Relu", "x", "r"),
                node("Concat", "r x", "c", axis=1),
                node("Slice", "c starts ends axes steps", "s"),
                node("Transpose", "s", "t", perm=[1, 0]),
                node("Pad", "t pads value", "y"),
            ],
            {"x": ("f4", [3, 4])},
            {"y": ("f4", None)},
            starts=np.array([1]),
            ends=np.array([8]),
            axes=np.array([1]),
            steps=np.array([3]),
            pads=np.array([1, 0, 0, 2]),
            value=np.float32(-7),
        ),
        [floats(3, 4)],
    ),
    "sums of uint8 that wrap": (
        model([node("Add", "x z", "y")], {"x": ("u1", [2, 3]), "z": ("u1", [3])}, {"y": ("u1", [2, 3])}),
        [np.array([[250, 3, 128], [0, 255, 127]], np.uint8), np.array([10, 255, 128], np.uint8)],
    ),
    "quotients of uint8 above 127": (
        model([node("Div", "x z", "y")], {"x": ("u1", [4]), "z": ("u1", [4])}, {"y": ("u1", [4])}),
        [np.array([250, 200, 128, 7], np.uint8), np.array([10, 3, 255, 2], np.uint8)],
    ),
    "reshape": (
        model(
            [node("Relu", "x", "r"), node("Reshape", "r shape", "y")],
            {"x": ("f4", [2, 6])},
            {"y": ("f4", [3, 4])},
            shape=np.array([3, 4]),
        ),
        [floats(2, 6)],
    ),
    "bools in and out": (
        model(
            [
                node("Cast", "x", "c", to=TensorProto.BOOL),
                node("Concat", "c m", "b", axis=0),
                node("Cast", "b", "y", to=TensorProto.DOUBLE),
            ],
            {"x": ("f8", [2, 3]), "m": ("?", [1, 3])},
            {"b": ("?", [3, 3]), "y": ("f8", [3, 3])},
        ),
        [np.array([[0, -0.5, np.nan], [2, 0, 0]]), np.array([[True, False, True]])],
    ),
}


def assert_close(got, wanted):
    """Integers exactly; floats within 16 units in the last place of the largest element."""
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(got, wanted)
    else:
        scale = np.abs(wanted).max() * np.finfo(wanted.dtype).eps
        np.testing.assert_allclose(got, wanted, rtol=0, atol=16 * scale)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_means_the_same_at_every_level(name, level):
    proto, inputs = MODELS[name]
    wanted = ReferenceEvaluator(proto).run(None, dict(zip([v.name for v in proto.graph.input], inputs, strict=True)))
    module = load(proto)
    if LEVELS[level]:
        pipeline.run(module, pipeline.parse(LEVELS[level]))
    for got, want in zip(run(module, inputs), wanted, strict=True):
        assert_close(got, want)


# -- ops, by hand ---------------------------------------------------------------------------------------------------


def parse(text):
    return Parser(pipeline.context(), text).parse_module()


def evaluate(text, *inputs):
    return run(parse(text), inputs)


def scalar(op, kinds, result, *values):
    """The result of `op`, or of ops that end in %y, on %0, %1, ...: on arrays at level 2, and on scalars at level 4."""
    body = op if "%y =" in op else f"%y = {op}"
    arguments = ", ".join(f"%{k}: {kind}" for k, kind in enumerate(kinds))
    tensors = ", ".join(f"%t{k}: tensor<2x{kind}>" for k, kind in enumerate(kinds))
    names = ", ".join(f"%t{k}" for k in range(len(kinds)))
    types = ", ".join(f"tensor<2x{kind}>" for kind in kinds)
    maps = ", ".join(["affine_map<(i) -> (i)>"] * (len(kinds) + 1))
    inputs = [np.array([v, v], dtype_of(kind)) for v, kind in zip(values, kinds, strict=True)]
    (on_arrays,) = evaluate(
        f"""func.func @infer({tensors}) -> tensor<2x{result}> {{
          %e = tensor.empty() : tensor<2x{result}>
          %r = linalg.generic {{indexing_maps = [{maps}], iterator_types = ["parallel"]}}
            ins({names} : {types}) outs(%e : tensor<2x{result}>) {{
            ^bb0({arguments}, %o: {result}):
              {body}
              linalg.yield %y : {result}
          }} -> tensor<2x{result}>
          func.return %r : tensor<2x{result}>
        }}""",
        *inputs,
    )
    buffers = ", ".join(f"%t{k}: memref<2x{stored(kind)}>" for k, kind in enumerate(kinds))
    loads = "\n".join(load_element(k, kind) for k, kind in enumerate(kinds))
    widen = "%s = arith.extui %y : i1 to i8 memref.store %s, %z[%c] : memref<2xi8>"
    store = widen if result == "i1" else f"memref.store %y, %z[%c] : memref<2x{result}>"
    dtype = dtype_of(result)
    (on_scalars,) = evaluate(
        f"""func.func @infer({buffers}, %z: memref<2x{stored(result)}> {{sofie.output, sofie.dtype = "{dtype}"}}) {{
          %c0 = arith.constant 0 : index
          %c2 = arith.constant 2 : index
          %one = arith.constant 1 : index
          scf.for %c = %c0 to %c2 step %one {{
            {loads}
            {body}
            {store}
          }}
          func.return
        }}""",
        *(i.view(np.int8) if i.dtype == bool else i for i in inputs),
    )
    assert on_arrays.dtype == on_scalars.dtype == dtype
    np.testing.assert_array_equal(on_arrays, on_scalars)
    return on_arrays[0]


def stored(kind):
    return "i8" if kind == "i1" else kind


def load_element(k, kind):
    if kind == "i1":
        return (
            f"%b{k} = memref.load %t{k}[%c] : memref<2xi8> %n{k} = arith.constant 0 : i8 "
            f"%{k} = arith.cmpi ne, %b{k}, %n{k} : i8"
        )
    return f"%{k} = memref.load %t{k}[%c] : memref<2x{kind}>"


def dtype_of(kind):
    names = {"f16": "float16", "f32": "float32", "f64": "float64", "i1": "bool", "index": "int64"}
    return np.dtype(names.get(kind) or f"int{kind[1:]}")


INTEGER_OPS = [
    # op, type, a, b, result
    ("addi", "i8", 127, 1, -128),
    ("subi", "i8", -128, 1, 127),
    ("muli", "i32", 1 << 30, 4, 0),
    ("addi", "i1", True, True, False),
    ("muli", "i1", True, True, True),
    ("andi", "i16", 0b1100, 0b1010, 0b1000),
    ("ori", "i16", 0b1100, 0b1010, 0b1110),
    ("xori", "i16", 0b1100, 0b1010, 0b0110),
    ("divsi", "i32", -7, 2, -3),
    ("divui", "i8", -56, 10, 20),
    ("floordivsi", "index", -7, 2, -4),
    ("ceildivsi", "i64", -7, 2, -3),
    ("ceildivsi", "i64", 7, 2, 4),
    ("ceildivui", "i8", -1, 2, -128),
    ("remsi", "i32", -7, 2, -1),
    ("remui", "i8", -1, 10, 5),
    ("maxsi", "i8", -1, 1, 1),
    ("maxui", "i8", -1, 1, -1),
    ("minsi", "i8", -1, 1, -1),
    ("minui", "i8", -1, 1, 1),
    ("maxsi", "i1", True, False, False),
    ("maxui", "i1", True, False, True),
    ("shli", "i8", 65, 1, -126),
    ("shrsi", "i8", -128, 3, -16),
    ("shrui", "i8", -128, 3, 16),
]


@pytest.mark.parametrize("name, kind, a, b, wanted", INTEGER_OPS)
def test_integer_arithmetic_wraps_and_keeps_signs_apart(name, kind, a, b, wanted):
    assert scalar(f"arith.{name} %0, %1 : {kind}", [kind, kind], kind, a, b) == wanted


NAN = math.nan
FLOAT_OPS = [
    ("arith.maximumf", 1.0, NAN, NAN),
    ("arith.minimumf", NAN, 1.0, NAN),
    ("arith.maxnumf", 1.0, NAN, 1.0),
    ("arith.minnumf", NAN, 1.0, 1.0),
    ("math.copysign", 3.0, -0.0, -3.0),
    ("math.atan2", 1.0, -1.0, 3 * math.pi / 4),
    ("math.powf", 2.0, -3.0, 0.125),
    ("arith.divf", 1.0, 0.0, math.inf),
]


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("op, a, b, wanted", FLOAT_OPS)
def test_float_arithmetic_carries_nan_as_its_op_says(op, a, b, wanted, kind):
    np.testing.assert_allclose(scalar(f"{op} %0, %1 : {kind}", [kind, kind], kind, a, b), wanted, rtol=3e-7)


FUNCTIONS = [
    ("absf", -1.5, 1.5),
    ("acos", 0.3, math.acos(0.3)),
    ("acosh", 1.3, math.acosh(1.3)),
    ("asin", 0.3, math.asin(0.3)),
    ("asinh", 0.3, math.asinh(0.3)),
    ("atan", 0.3, math.atan(0.3)),
    ("atanh", 0.3, math.atanh(0.3)),
    ("cbrt", -27.0, -3.0),
    ("ceil", -1.5, -1.0),
    ("cos", 0.3, math.cos(0.3)),
    ("cosh", 0.3, math.cosh(0.3)),
    ("erf", 0.3, math.erf(0.3)),
    ("exp", 0.3, math.exp(0.3)),
    ("exp2", 0.3, 2**0.3),
    ("expm1", 1e-5, math.expm1(1e-5)),
    ("floor", -1.5, -2.0),
    ("log", 0.3, math.log(0.3)),
    ("log10", 0.3, math.log10(0.3)),
    ("log1p", 1e-5, math.log1p(1e-5)),
    ("log2", 0.3, math.log2(0.3)),
    ("round", -2.5, -3.0),
    ("round", 0.49999997, 0.0),
    ("roundeven", 2.5, 2.0),
    ("rsqrt", 4.0, 0.5),
    ("sin", 0.3, math.sin(0.3)),
    ("sinh", 0.3, math.sinh(0.3)),
    ("sqrt", 0.3, math.sqrt(0.3)),
    ("tan", 0.3, math.tan(0.3)),
    ("tanh", 0.3, math.tanh(0.3)),
    ("trunc", -1.5, -1.0),
]


@pytest.mark.parametrize("name, x, wanted", FUNCTIONS)
def test_a_function_of_the_math_dialect_is_the_function_of_that_name(name, x, wanted):
    assert scalar(f"math.{name} %0 : f32", ["f32"], "f32", x) == pytest.approx(wanted, rel=2e-7)


CASTS = [
    ("arith.extsi %0 : i8 to i32", "i8", "i32", -1, -1),
    ("arith.extui %0 : i8 to i32", "i8", "i32", -1, 255),
    ("arith.extui %0 : i1 to i8", "i1", "i8", True, 1),
    ("arith.extsi %0 : i1 to i8", "i1", "i8", True, -1),
    ("arith.trunci %0 : i32 to i8", "i32", "i8", 0x1FF, -1),
    ("arith.trunci %0 : i8 to i1", "i8", "i1", 2, False),
    ("arith.index_cast %0 : i8 to index", "i8", "index", -3, -3),
    ("arith.sitofp %0 : i8 to f32", "i8", "f32", -1, -1.0),
    ("arith.uitofp %0 : i8 to f32", "i8", "f32", -1, 255.0),
    ("arith.uitofp %0 : i1 to f32", "i1", "f32", True, 1.0),
    ("arith.fptosi %0 : f32 to i32", "f32", "i32", -2.7, -2),
    ("arith.fptoui %0 : f32 to i8", "f32", "i8", 200.9, -56),
    ("arith.extf %0 : f32 to f64", "f32", "f64", np.float32(0.1), float(np.float32(0.1))),
    ("arith.truncf %0 : f64 to f32", "f64", "f32", 0.1, np.float32(0.1)),
    ("arith.bitcast %0 : f32 to i32", "f32", "i32", 1.0, 0x3F800000),
    ("arith.negf %0 : f32", "f32", "f32", 2.0, -2.0),
    ("math.absi %0 : i8", "i8", "i8", -5, 5),
]


@pytest.mark.parametrize("op, source, target, x, wanted", CASTS)
def test_a_cast_reads_the_sign_that_its_name_says(op, source, target, x, wanted):
    assert scalar(op, [source], target, x) == wanted


RELATIONS = {
    "eq": operator.eq,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "ne": operator.ne,
    "rd": lambda a, b: True,
    "no": lambda a, b: False,
}
ORDERED = ["oeq", "ogt", "oge", "olt", "ole", "one", "ord"]
UNORDERED = ["ueq", "ugt", "uge", "ult", "ule", "une", "uno"]


@pytest.mark.parametrize("predicate", [*ORDERED, *UNORDERED])
def test_a_float_comparison_with_nan_is_false_if_ordered_and_true_if_not(predicate):
    for a in (1.0, 2.0, NAN):
        for b in (1.0, 2.0, NAN):
            wanted = predicate in UNORDERED if NAN in (a, b) else RELATIONS[predicate[1:]](a, b)
            assert scalar(f"arith.cmpf {predicate}, %0, %1 : f32", ["f32", "f32"], "i1", a, b) == wanted, (a, b)


@pytest.mark.parametrize(
    "predicate, wanted", [("slt", True), ("sge", False), ("ult", False), ("ugt", True), ("ne", True), ("eq", False)]
)
def test_an_integer_comparison_reads_the_sign_that_its_predicate_says(predicate, wanted):
    assert scalar(f"arith.cmpi {predicate}, %0, %1 : i8", ["i8", "i8"], "i1", -1, 1) == wanted


def test_i1_compares_as_minus_one_when_signed_and_one_when_not():
    assert scalar("arith.cmpi slt, %0, %1 : i1", ["i1", "i1"], "i1", True, False)
    assert not scalar("arith.cmpi ult, %0, %1 : i1", ["i1", "i1"], "i1", True, False)


def test_float32_arithmetic_is_not_done_in_double():
    one, tiny = np.float32(1), np.float32(2**-25)
    body = "%s = arith.addf %0, %1 : f32 %y = arith.subf %s, %0 : f32"
    assert scalar(body, ["f32", "f32"], "f32", one, tiny) == 0


def test_select_picks_by_element():
    kinds = ["i1", "f32", "f32"]
    assert scalar("arith.select %0, %1, %2 : f32", kinds, "f32", False, 1.0, 2.0) == 2.0
    assert scalar("arith.select %0, %1, %2 : f32", kinds, "f32", True, 1.0, 2.0) == 1.0


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_fma_rounds_once(kind):
    dtype, bits = dtype_of(kind), np.finfo(dtype_of(kind)).nmant
    x = dtype.type(1 + 2.0**-bits)
    error = scalar("math.fma %0, %1, %2 : " + kind, [kind] * 3, kind, x, x, -(x * x))
    assert error == dtype.type(2.0 ** (-2 * bits)), "the product's low half was rounded away"


def test_fma_of_float32_is_not_rounded_to_double_first():
    a, b, c = np.float32(1 + 2**-12), np.float32(1 + 2**-12), np.float32(2.0**-80)
    # a * b = 1 + 2**-11 + 2**-24 is halfway between two floats; only the tiny addend says which is nearer
    wanted = np.float32(1 + 2**-11 + 2**-23)
    assert scalar("math.fma %0, %1, %2 : f32", ["f32"] * 3, "f32", a, b, c) == wanted


# -- structured ops -------------------------------------------------------------------------------------------------


def test_a_reduction_is_added_in_order_and_in_its_own_precision():
    x = RANDOM.standard_normal((3, 500)).astype(np.float32) * 1000
    (y,) = evaluate(
        """func.func @infer(%x: tensor<3x500xf32>, %z: tensor<3xf32>) -> tensor<3xf32> {
          %r = linalg.generic {indexing_maps = [affine_map<(i, k) -> (i, k)>, affine_map<(i, k) -> (i)>],
            iterator_types = ["parallel", "reduction"]} ins(%x : tensor<3x500xf32>) outs(%z : tensor<3xf32>) {
            ^bb0(%a: f32, %s: f32):
              %n = arith.addf %s, %a : f32
              linalg.yield %n : f32
          } -> tensor<3xf32>
          func.return %r : tensor<3xf32>
        }""",
        x,
        np.zeros(3, np.float32),
    )
    np.testing.assert_array_equal(y, np.cumsum(x, axis=1, dtype=np.float32)[:, -1])


@pytest.mark.parametrize(
    "expression, picked",
    [
        ("5 - i * 2 - j", lambda i, j: 5 - 2 * i - j),
        ("(i * 3 + j) floordiv 2", lambda i, j: (3 * i + j) // 2),
        ("(i + j * 4) mod 3", lambda i, j: (i + 4 * j) % 3),
        ("i ceildiv 2 + j", lambda i, j: -(-i // 2) + j),
    ],
)
def test_any_affine_map_reads_the_element_it_names(expression, picked):
    x = np.arange(6, dtype=np.float32)
    (y,) = evaluate(
        f"""func.func @infer(%x: tensor<6xf32>) -> tensor<2x3xf32> {{
          %e = tensor.empty() : tensor<2x3xf32>
          %r = linalg.generic {{indexing_maps = [affine_map<(i, j) -> ({expression})>, affine_map<(i, j) -> (i, j)>],
            iterator_types = ["parallel", "parallel"]}} ins(%x : tensor<6xf32>) outs(%e : tensor<2x3xf32>) {{
            ^bb0(%a: f32, %o: f32):
              linalg.yield %a : f32
          }} -> tensor<2x3xf32>
          func.return %r : tensor<2x3xf32>
        }}""",
        x,
    )
    np.testing.assert_array_equal(y, [[x[picked(i, j)] for j in range(3)] for i in range(2)])


GATHER = """func.func @infer(%x: tensor<5xf32>, %at: tensor<2x3xi64>) -> tensor<2x3xf32> {
  %e = tensor.empty() : tensor<2x3xf32>
  %r = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
    iterator_types = ["parallel", "parallel"]} ins(%at : tensor<2x3xi64>) outs(%e : tensor<2x3xf32>) {
    ^bb0(%k: i64, %o: f32):
      %i = arith.index_cast %k : i64 to index
      %v = tensor.extract %x[%i] : tensor<5xf32>
      %row = linalg.index 0 : index
      %n = arith.index_cast %row : index to i64
      %f = arith.sitofp %n : i64 to f32
      %s = arith.addf %v, %f : f32
      linalg.yield %s : f32
  } -> tensor<2x3xf32>
  func.return %r : tensor<2x3xf32>
}"""


def test_a_body_gathers_by_computed_indices_and_knows_its_loops():
    x, at = np.arange(5, dtype=np.float32) * 10, np.array([[4, 0, 2], [1, 1, 3]])
    (y,) = evaluate(GATHER, x, at)
    np.testing.assert_array_equal(y, x[at] + [[0], [1]])


def test_a_gather_below_zero_does_not_wrap_around():
    with pytest.raises(SofieError, match=r"tensor.extract reaches index -1 of axis 0, which has 5 elements"):
        evaluate(GATHER, np.zeros(5, np.float32), np.array([[0, 1, 2], [3, -1, 4]]))


@pytest.mark.parametrize("expression, index", [("i * 2 + j", 6), ("3 - i * 2 - j", -3), ("i floordiv 2 + j * 3", 7)])
def test_a_map_that_leaves_its_operand_is_an_error(expression, index):
    text = f"""func.func @infer(%x: tensor<5xf32>) -> tensor<3x3xf32> {{
      %e = tensor.empty() : tensor<3x3xf32>
      %r = linalg.generic {{indexing_maps = [affine_map<(i, j) -> ({expression})>, affine_map<(i, j) -> (i, j)>],
        iterator_types = ["parallel", "parallel"]}} ins(%x : tensor<5xf32>) outs(%e : tensor<3x3xf32>) {{
        ^bb0(%a: f32, %o: f32):
          linalg.yield %a : f32
      }} -> tensor<3x3xf32>
      func.return %r : tensor<3x3xf32>
    }}"""
    with pytest.raises(SofieError, match=f"linalg.generic reaches index {index} of axis 0, which has 5 elements"):
        evaluate(text, np.zeros(5, np.float32))


def test_a_body_may_branch():
    (y,) = evaluate(
        """func.func @infer(%x: tensor<3xf32>) -> tensor<3xf32> {
          %e = tensor.empty() : tensor<3xf32>
          %r = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
            iterator_types = ["parallel"]} ins(%x : tensor<3xf32>) outs(%e : tensor<3xf32>) {
            ^bb0(%a: f32, %o: f32):
              %z = arith.constant 0.0 : f32
              %c = arith.cmpf olt, %a, %z : f32
              %v = scf.if %c -> (f32) { scf.yield %z : f32 } else { scf.yield %a : f32 }
              linalg.yield %v : f32
          } -> tensor<3xf32>
          func.return %r : tensor<3xf32>
        }""",
        np.array([-1, 2, -3], np.float32),
    )
    np.testing.assert_array_equal(y, [0, 2, 0])


def test_two_outputs_may_hand_their_values_to_each_other():
    (a, b) = evaluate(
        """func.func @infer(%x: tensor<2xf32>, %y: tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>) {
          %r, %s = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
            iterator_types = ["parallel"]} outs(%x, %y : tensor<2xf32>, tensor<2xf32>) {
            ^bb0(%a: f32, %b: f32):
              linalg.yield %b, %a : f32, f32
          } -> tensor<2xf32>, tensor<2xf32>
          func.return %r, %s : tensor<2xf32>, tensor<2xf32>
        }""",
        np.array([1, 2], np.float32),
        np.array([3, 4], np.float32),
    )
    np.testing.assert_array_equal([a, b], [[3, 4], [1, 2]])


def test_a_tensor_is_a_value_that_no_op_changes():
    (y, z) = evaluate(
        """func.func @infer(%x: tensor<2x4xf32>, %p: tensor<2x2xf32>) -> (tensor<2x4xf32>, tensor<2x4xf32>) {
          %r = tensor.insert_slice %p into %x[0, 1] [2, 2] [1, 2] : tensor<2x2xf32> into tensor<2x4xf32>
          func.return %x, %r : tensor<2x4xf32>, tensor<2x4xf32>
        }""",
        np.zeros((2, 4), np.float32),
        np.ones((2, 2), np.float32),
    )
    np.testing.assert_array_equal(y, np.zeros((2, 4)))
    np.testing.assert_array_equal(z, [[0, 1, 0, 1]] * 2)


# -- memory ---------------------------------------------------------------------------------------------------------


def test_memory_that_nobody_wrote_is_nan_in_every_kind_of_buffer():
    outputs = evaluate(
        """func.func @infer(%y: memref<2xf32> {sofie.output}, %z: memref<2xf32> {sofie.output},
                            %w: memref<2xf64> {sofie.output}, %arena: memref<64xi8> {sofie.arena}) {
          %c0 = arith.constant 0 : index
          %a = memref.alloc() : memref<2xf32>
          "memref.copy"(%a, %y) : (memref<2xf32>, memref<2xf32>) -> ()
          %v = memref.view %arena[%c0][] : memref<64xi8> to memref<2xf64>
          "memref.copy"(%v, %w) : (memref<2xf64>, memref<2xf64>) -> ()
          func.return
        }"""
    )
    assert all(np.isnan(out).all() for out in outputs) and len(outputs) == 3


def test_an_empty_tensor_is_nan():
    (y,) = evaluate(
        """func.func @infer() -> tensor<3xf32> {
          %e = tensor.empty() : tensor<3xf32>
          func.return %e : tensor<3xf32>
        }"""
    )
    assert np.isnan(y).all()


def test_integers_that_nobody_wrote_are_not_zero():
    (y,) = evaluate('func.func @infer(%y: memref<2xi16> {sofie.output, sofie.dtype = "uint16"}) { func.return }')
    np.testing.assert_array_equal(y, [0xA5A5, 0xA5A5])


def test_a_bool_that_nobody_wrote_is_an_error():
    with pytest.raises(SofieError, match="nobody wrote"):
        evaluate('func.func @infer(%y: memref<2xi8> {sofie.output, sofie.dtype = "bool"}) { func.return }')


SHARED_BYTES = """func.func @infer(%x: memref<4xf32>, %y: memref<4xf32> {{sofie.output}},
                            %arena: memref<64xi8> {{sofie.arena}}) {{
  %c0 = arith.constant 0 : index
  %one = arith.constant 1.0 : f32
  %a = memref.view %arena[%c0][] : memref<64xi8> to memref<4xf32>
  "memref.copy"(%x, %a) : (memref<4xf32>, memref<4xf32>) -> ()
  %b = memref.view %arena[%c0][] : memref<64xi8> to memref<4xf32>
  {first}
  {second}
  func.return
}}"""
READ = '"memref.copy"(%a, %y) : (memref<4xf32>, memref<4xf32>) -> ()'
WRITE = "memref.store %one, %b[%c0] : memref<4xf32>"


def test_a_buffer_loses_its_value_when_the_life_of_another_begins_in_its_bytes():
    x = np.arange(4, dtype=np.float32)
    (early,) = evaluate(SHARED_BYTES.format(first=READ, second=WRITE), x)
    (late,) = evaluate(SHARED_BYTES.format(first=WRITE, second=READ), x)
    np.testing.assert_array_equal(early, x)
    np.testing.assert_array_equal(late, [1, np.nan, np.nan, np.nan])


def test_a_write_through_a_view_is_seen_through_every_other():
    (y,) = evaluate(
        """func.func @infer(%y: memref<4x6xf32> {sofie.output}) {
          %c0 = arith.constant 0 : index
          %c1 = arith.constant 1 : index
          %v = arith.constant 7.0 : f32
          %s = memref.subview %y[1, 2] [2, 3] [2, 1] : memref<4x6xf32> to memref<2x3xf32, strided<[12, 1], offset: 8>>
          %t = "memref.cast"(%s) : (memref<2x3xf32, strided<[12, 1], offset: 8>>)
            -> memref<2x3xf32, strided<[12, 1], offset: ?>>
          memref.store %v, %t[%c1, %c0] : memref<2x3xf32, strided<[12, 1], offset: ?>>
          %f = memref.collapse_shape %y [[0 : i64, 1 : i64]] : memref<4x6xf32> into memref<24xf32>
          %e = memref.expand_shape %f [[0 : i64, 1 : i64]] output_shape [12, 2] : memref<24xf32> into memref<12x2xf32>
          memref.store %v, %e[%c1, %c1] : memref<12x2xf32>
          func.return
        }"""
    )
    assert list(np.flatnonzero(y == 7)) == [3, 20] and np.isnan(y).sum() == 22


@pytest.mark.parametrize(
    "layout",
    ["memref<2x3xf32, strided<[6, 1], offset: 8>>", "memref<2x3xf32, strided<[12, 1], offset: 2>>"],
)
def test_a_view_that_does_not_lie_as_its_type_says_is_an_error(layout):
    with pytest.raises(SofieError, match=r"subview makes a buffer of strides \[12, 1\] at offset 8 and declares"):
        evaluate(
            f"""func.func @infer(%y: memref<4x6xf32> {{sofie.output}}) {{
              %s = memref.subview %y[1, 2] [2, 3] [2, 1] : memref<4x6xf32> to {layout}
              func.return
            }}"""
        )


BUFFERS = "%x: memref<4x6xf32>, %y: memref<4x6xf32> {sofie.output}, %arena: memref<64xi8> {sofie.arena}"
LOAD = "%v = memref.load %x[%c, %c] : memref<4x6xf32>"
OUTSIDE = {
    "load above": ("%v = memref.load %x[%c1, %c6] : memref<4x6xf32>", "index 6 of axis 1, which has 6"),
    "load below": ("%v = memref.load %x[%neg, %c1] : memref<4x6xf32>", "index -1 of axis 0, which has 4"),
    "store": ("memref.store %f, %y[%c6, %c1] : memref<4x6xf32>", "index 6 of axis 0, which has 4"),
    "subview": (
        "%v = memref.subview %x[2, 0] [2, 6] [2, 1] : memref<4x6xf32> to memref<2x6xf32, strided<[12, 1], offset: 12>>",
        "takes 2:5:2 of axis 0, which has 4",
    ),
    "view": (
        "%v = memref.view %arena[%c6][] : memref<64xi8> to memref<16xf32> memref.store %f, %v[%c1] : memref<16xf32>",
        "takes bytes 6:70 of 64",
    ),
    "vector load": (
        "%v = vector.load %x[%c3, %c3] : memref<4x6xf32>, vector<4xf32>",
        "4 elements from element 21 of 24",
    ),
    "vector store": (
        "%v = vector.broadcast %f : f32 to vector<4xf32> "
        "vector.store %v, %y[%c3, %c3] : memref<4x6xf32>, vector<4xf32>",
        "4 elements from element 21 of 24",
    ),
}


@pytest.mark.parametrize("access", OUTSIDE)
def test_an_access_outside_its_buffer_is_an_error(access):
    text, message = OUTSIDE[access]
    constants = [f"%c{k} = arith.constant {k} : index" for k in (1, 3, 6)] + ["%neg = arith.constant -1 : index"]
    body = "\n".join([*constants, "%f = arith.constant 1.0 : f32", text])
    with pytest.raises(SofieError, match=message):
        evaluate(f"func.func @infer({BUFFERS}) {{ {body} func.return }}", np.zeros((4, 6), np.float32))


def test_an_input_cannot_be_written():
    with pytest.raises(SofieError, match="memref.store cannot be run: assignment destination is read-only"):
        evaluate(
            """func.func @infer(%x: memref<2xf32>) {
              %c = arith.constant 0 : index
              %f = arith.constant 1.0 : f32
              memref.store %f, %x[%c] : memref<2xf32>
              func.return
            }""",
            np.zeros(2, np.float32),
        )


IN_PLACE = """func.func @infer(%x: memref<6xf32>, %y: memref<6xf32> {{sofie.output}}) {{
  "memref.copy"(%x, %y) : (memref<6xf32>, memref<6xf32>) -> ()
  sofie.fused {{
    linalg.generic {{indexing_maps = [affine_map<(i) -> ({read})>, affine_map<(i) -> (i)>],
      iterator_types = ["parallel"]}} ins(%y : memref<6xf32>) outs(%y : memref<6xf32>) {{
      ^bb0(%a: f32, %o: f32):
        %n = arith.negf %a : f32
        linalg.yield %n : f32
    }}
    sofie.yield
  }}
  func.return
}}"""


def test_an_elementwise_op_may_overwrite_what_it_reads():
    x = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(evaluate(IN_PLACE.format(read="i"), x)[0], -x)


def test_an_op_that_overwrites_what_other_iterations_read_is_an_error():
    with pytest.raises(SofieError, match="writes elements of a buffer that other iterations read"):
        evaluate(IN_PLACE.format(read="5 - i"), np.arange(6, dtype=np.float32))


@pytest.mark.parametrize("transpose_a, transpose_b", [(False, False), (True, False), (False, True), (True, True)])
def test_blas_gemm_adds_the_product_of_what_its_flags_transpose(transpose_a, transpose_b):
    a, b = floats(*((3, 2) if transpose_a else (2, 3))), floats(*((4, 3) if transpose_b else (3, 4)))
    kinds = [f"memref<{x.shape[0]}x{x.shape[1]}xf32>" for x in (a, b)]
    flags = f"transpose_a = {str(transpose_a).lower()}, transpose_b = {str(transpose_b).lower()}"
    (y,) = evaluate(
        f"""func.func @infer(%a: {kinds[0]}, %b: {kinds[1]}, %c: memref<2x4xf32>,
                             %y: memref<2x4xf32> {{sofie.output}}) {{
          "memref.copy"(%c, %y) : (memref<2x4xf32>, memref<2x4xf32>) -> ()
          blas.gemm %a, %b, %y {{{flags}}} : {kinds[0]}, {kinds[1]}, memref<2x4xf32>
          func.return
        }}""",
        a,
        b,
        np.ones((2, 4), np.float32),
    )
    np.testing.assert_allclose(y, 1 + (a.T if transpose_a else a) @ (b.T if transpose_b else b), rtol=1e-5)


# -- loops and vectors ----------------------------------------------------------------------------------------------


def test_a_parallel_loop_whose_iterations_need_each_other_goes_wrong():
    (y,) = evaluate(
        """func.func @infer(%y: memref<4xf32> {sofie.output}) {
          %c0 = arith.constant 0 : index
          %c1 = arith.constant 1 : index
          %c4 = arith.constant 4 : index
          %one = arith.constant 1.0 : f32
          memref.store %one, %y[%c0] : memref<4xf32>
          "scf.parallel"(%c1, %c4, %c1) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
          ^bb0(%i: index):
            %j = arith.subi %i, %c1 : index
            %v = memref.load %y[%j] : memref<4xf32>
            memref.store %v, %y[%i] : memref<4xf32>
            scf.reduce
          }) : (index, index, index) -> ()
          func.return
        }"""
    )
    assert np.isnan(y[2:]).all()


def test_a_loop_carries_its_values_and_counts_in_the_type_of_its_bounds():
    (y,) = evaluate(
        """func.func private @powers(%y: memref<2xi32>) {
          %c0 = arith.constant 0 : index
          %c1 = arith.constant 1 : index
          %from = arith.constant 1 : i32
          %to = arith.constant 8 : i32
          %by = arith.constant 3 : i32
          %big = arith.constant 1073741824 : i32
          %s, %p = scf.for %i = %from to %to step %by iter_args(%a = %from, %b = %from) -> (i32, i32) : i32 {
            %q = arith.muli %i, %big : i32
            %h = arith.divsi %q, %big : i32
            %n = arith.addi %a, %h : i32
            %m = arith.muli %b, %a : i32
            scf.yield %n, %m : i32, i32
          }
          memref.store %s, %y[%c0] : memref<2xi32>
          memref.store %p, %y[%c1] : memref<2xi32>
          func.return
        }
        func.func @infer(%y: memref<2xi32> {sofie.output}) {
          func.call @powers(%y) : (memref<2xi32>) -> ()
          func.return
        }"""
    )
    wrapped = [1, 0, -1]  # i * 2**30 / 2**30 of 1, 4 and 7 in 32 bits
    np.testing.assert_array_equal(y, [1 + sum(wrapped), 1 * 1 * 2 * 2])


def on_vectors(body, *lanes):
    """What `body` makes of %a and %b, two vectors, as %r of 4 lanes."""
    return evaluate(
        f"""func.func @infer(%x: memref<2x4xf32>, %y: memref<4xf32> {{sofie.output}}) {{
          %c0 = arith.constant 0 : index
          %c1 = arith.constant 1 : index
          %a = vector.load %x[%c0, %c0] : memref<2x4xf32>, vector<4xf32>
          %b = vector.load %x[%c1, %c0] : memref<2x4xf32>, vector<4xf32>
          {body}
          vector.store %r, %y[%c0] : memref<4xf32>, vector<4xf32>
          func.return
        }}""",
        np.array(lanes, np.float32),
    )[0]


V = "vector<4xf32>"
VECTOR_OPS = {
    "arithmetic": (f"%r = arith.mulf %a, %b : {V}", [10, 40, 90, 160]),
    "splat constant": (f"%d = arith.constant dense<0.5> : {V} %r = arith.addf %a, %d : {V}", [1.5, 2.5, 3.5, 4.5]),
    "dense constant": (f"%r = arith.constant dense<[4.0, 3.0, 2.0, 1.0]> : {V}", [4, 3, 2, 1]),
    "broadcast": (f"%e = vector.extract %b[2] : f32 from {V} %r = vector.broadcast %e : f32 to {V}", [30] * 4),
    "dynamic extract": (f"%e = vector.extract %b[%c1] : f32 from {V} %r = vector.broadcast %e : f32 to {V}", [20] * 4),
    "insert": (
        f"%e = vector.extract %b[3] : f32 from {V} %n = vector.insert %e, %a [1] : f32 into {V} "
        f"%r = arith.addf %n, %a : {V}",
        [2, 42, 6, 8],
    ),
    "fma": (f"%r = vector.fma %a, %b, %b : {V}", [20, 60, 120, 200]),
    "shuffle": (f"%r = vector.shuffle %a, %b [0, 4, 3, 7] : {V}, {V}", [1, 10, 4, 40]),
    "reduction": (
        f"%e = vector.reduction <add>, %b : {V} into f32 %r = vector.broadcast %e : f32 to {V}",
        [100] * 4,
    ),
    "reduction on top": (
        f"%n = vector.extract %a[3] : f32 from {V} %e = vector.reduction <minimumf>, %b, %n : {V} into f32 "
        f"%r = vector.broadcast %e : f32 to {V}",
        [4] * 4,
    ),
    "function": (f"%r = math.sqrt %a : {V}", [1, math.sqrt(2), math.sqrt(3), 2]),
}


@pytest.mark.parametrize("name", VECTOR_OPS)
def test_a_vector_op_does_to_lanes_what_its_name_says(name):
    body, wanted = VECTOR_OPS[name]
    np.testing.assert_allclose(on_vectors(body, [1, 2, 3, 4], [10, 20, 30, 40]), wanted, rtol=1e-7)


def test_a_vector_keeps_its_lanes_when_memory_changes():
    (y,) = evaluate(
        """func.func @infer(%y: memref<4xf32> {sofie.output}, %z: memref<4xf32> {sofie.output}) {
          %c0 = arith.constant 0 : index
          %one = arith.constant dense<1.0> : vector<4xf32>
          %two = arith.constant dense<2.0> : vector<4xf32>
          vector.store %one, %y[%c0] : memref<4xf32>, vector<4xf32>
          %v = vector.load %y[%c0] : memref<4xf32>, vector<4xf32>
          vector.store %two, %y[%c0] : memref<4xf32>, vector<4xf32>
          vector.store %v, %z[%c0] : memref<4xf32>, vector<4xf32>
          func.return
        }"""
    )[1:]
    np.testing.assert_array_equal(y, [1, 1, 1, 1])


def test_a_vector_goes_on_in_the_next_row_only_where_memory_does():
    text = """func.func @infer(%x: memref<4x6xf32>, %y: memref<4xf32> {{sofie.output}}) {{
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %s = memref.subview %x[0, 0] [4, {width}] [1, 1] : memref<4x6xf32> to memref<4x{width}xf32, strided<[6, 1]>>
      %v = vector.load %s[%c0, %c1] : memref<4x{width}xf32, strided<[6, 1]>>, vector<4xf32>
      vector.store %v, %y[%c0] : memref<4xf32>, vector<4xf32>
      func.return
    }}"""
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(evaluate(text.format(width=6), x)[0], [1, 2, 3, 4])
    with pytest.raises(SofieError, match="do not follow one another in memory"):
        evaluate(text.format(width=3), x)


# -- what is refused ------------------------------------------------------------------------------------------------


def test_an_op_without_a_meaning_is_named():
    with pytest.raises(SofieError, match="operation math.ctpop: math.ctpop has no meaning in the interpreter"):
        scalar("math.ctpop %0 : i32", ["i32"], "i32", 1)


def test_an_error_names_the_onnx_node():
    module = parse(f"func.func @infer({BUFFERS}) {{ %c = arith.constant 9 : index {LOAD} func.return }}")
    load_op = next(op for op in module.walk() if op.name == "memref.load")
    load_op.location = NameLoc(StringAttr("Gemm dense"), UnknownLoc())
    with pytest.raises(SofieError, match=r"^node 'dense' \(Gemm\): memref.load reaches index 9"):
        run(module, [np.zeros((4, 6), np.float32)])


@pytest.mark.parametrize(
    "inputs, message",
    [
        ([floats(4, 8)], r"input 'x' is float32\[4, 8\], the model takes float32\[4, 7\]"),
        ([floats(4, 7).astype(np.float64)], r"input 'x' is float64\[4, 7\], the model takes float32\[4, 7\]"),
        ([], "takes 1 inputs, not 0"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(SofieError, match=message):
        run(load(MODELS["gemm and relu"][0]), inputs)


def test_no_onnx_model_is_changed_by_running_it():
    proto, inputs = MODELS["gemm and relu"]
    module, before = load(proto), [x.copy() for x in inputs]
    text = str(module)
    run(module, inputs)
    np.testing.assert_array_equal(inputs, before)
    assert str(module) == text

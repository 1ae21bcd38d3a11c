// RUN: sofie-opt -p decompose %s | filecheck %s

// A function operator without a lowering becomes its official body; one with a lowering stays.
// CHECK: %[[S:.*]] = onnx.Mul(%x, %x)
// CHECK: onnx.ReduceSum(%[[S]],
// CHECK: onnx.Relu
// CHECK-NOT: ReduceSumSquare
func.func @infer(%x : tensor<4x3xf32>) -> tensor<4x1xf32> {
  %axes = sofie.weight "axes" <dense<1> : tensor<1xi64>> : tensor<1xi64>
  %s = onnx.ReduceSumSquare(%x, %axes) {keepdims = 1 : i64} : (tensor<4x3xf32>, tensor<1xi64>) -> tensor<4x1xf32>
  %y = onnx.Relu(%s) : (tensor<4x1xf32>) -> tensor<4x1xf32>
  func.return %y : tensor<4x1xf32>
}

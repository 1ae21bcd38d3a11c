// RUN: sofie-opt -p lower-onnx,fold-reshape,fuse-elementwise,fuse-reduction %s | filecheck %s

// A softmax is one group: largest, exponentials, sum, quotient.
// CHECK: %y = sofie.fused {
// CHECK: arith.maximumf
// CHECK: math.exp
// CHECK: arith.addf
// CHECK: arith.divf
// CHECK: sofie.yield
// CHECK-NEXT: } -> (tensor<4x3xf32>)
// CHECK-NEXT: func.return %y
func.func @infer(%x : tensor<4x3xf32>) -> tensor<4x3xf32> {
  %y = onnx.Softmax(%x) {axis = 1 : i64} : (tensor<4x3xf32>) -> tensor<4x3xf32>
  func.return %y : tensor<4x3xf32>
}

// RUN: sofie-opt -p lower-onnx,fuse-elementwise %s | filecheck %s

// The chain is one op, read through the transposing map; the value with two readers stays.
// CHECK: %twice = linalg.generic
// CHECK: %y = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d1, d0)>, affine_map<(d0, d1) -> (d0, d1)>]
// CHECK: math.exp
// CHECK-NEXT: arith.negf
// CHECK-NOT: linalg.generic
// CHECK: func.return
func.func @infer(%x : tensor<4x3xf32>) -> (tensor<3x4xf32>, tensor<4x3xf32>) {
  %twice = onnx.Add(%x, %x) : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>
  %e = onnx.Exp(%twice) : (tensor<4x3xf32>) -> tensor<4x3xf32>
  %t = onnx.Transpose(%e) : (tensor<4x3xf32>) -> tensor<3x4xf32>
  %y = onnx.Neg(%t) : (tensor<3x4xf32>) -> tensor<3x4xf32>
  func.return %y, %twice : tensor<3x4xf32>, tensor<4x3xf32>
}

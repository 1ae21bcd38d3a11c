// RUN: sofie-opt -p lower-onnx,fold-reshape %s | filecheck %s

// keepdims leaves an expand_shape; the reader takes the sum as it is.
// CHECK: %[[SUM:.*]] = linalg.generic {{.*}}"reduction"
// CHECK-NOT: tensor.expand_shape
// CHECK: linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0)>, {{.*}} ins(%x, %[[SUM]]
func.func @infer(%x : tensor<4x3xf32>) -> tensor<4x3xf32> {
  %axes = sofie.weight "axes" <dense<1> : tensor<1xi64>> : tensor<1xi64>
  %s = onnx.ReduceSum(%x, %axes) {keepdims = 1 : i64} : (tensor<4x3xf32>, tensor<1xi64>) -> tensor<4x1xf32>
  %y = onnx.Div(%x, %s) : (tensor<4x3xf32>, tensor<4x1xf32>) -> tensor<4x3xf32>
  func.return %y : tensor<4x3xf32>
}

// RUN: sofie-opt -p lower-onnx,split-reductions %s | filecheck %s

// A row of 64 is summed in 16 places at once; then halves are joined: 8, 4, 2, 1.
// CHECK: affine_map<(d0, d1, d2) -> (d0, ((d2 * 16) + d1))>
// CHECK: ins(%{{.*}}, %{{.*}} : tensor<3x16xf32>, tensor<3x16xf32>) outs(%{{.*}} : tensor<3x2x4xf32>)
// CHECK: outs(%{{.*}} : tensor<3x2x2xf32>)
// CHECK: outs(%{{.*}} : tensor<3x2x1xf32>)
// CHECK: outs(%{{.*}} : tensor<3xf32>)
func.func @infer(%x : tensor<3x64xf32>) -> tensor<3x1xf32> {
  %axes = sofie.weight "axes" <dense<[1]> : tensor<1xi64>> : tensor<1xi64>
  %y = onnx.ReduceMax(%x, %axes) {keepdims = 1 : i64} : (tensor<3x64xf32>, tensor<1xi64>) -> tensor<3x1xf32>
  func.return %y : tensor<3x1xf32>
}

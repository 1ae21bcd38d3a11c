// RUN: sofie-opt -p lower-onnx,pack-weights %s | filecheck %s

// The weights of a transposed product are laid out with the outputs innermost.
// CHECK: sofie.weight "w" <dense<{{\[\[}}1.000000e+00, 3.000000e+00, 5.000000e+00, 7.000000e+00], [2.000000e+00, 4.000000e+00, 6.000000e+00, 8.000000e+00]]> : tensor<2x4xf32>>
// CHECK: affine_map<(d0, d1, d2) -> (d2, d1)>
func.func @infer(%x : tensor<3x2xf32>) -> tensor<3x4xf32> {
  %w = sofie.weight "w" <dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]> : tensor<4x2xf32>> : tensor<4x2xf32>
  %y = onnx.Gemm(%x, %w) {transB = 1 : i64} : (tensor<3x2xf32>, tensor<4x2xf32>) -> tensor<3x4xf32>
  func.return %y : tensor<3x4xf32>
}

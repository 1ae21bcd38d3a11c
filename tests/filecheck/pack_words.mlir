// RUN: sofie-opt -p lower-onnx,pack-words,pack-weights %s | filecheck %s

// The four terms of a word lie behind the output: 1, 2, 3, 4 are what output 0 has.
// CHECK: sofie.weight "weights" <dense<{{\[\[\[}}1, 2, 3, 4], [-1, -2, -3, -4], [5, 6, 7, 8], [-5, -6, -7, -8]]]> : tensor<1x4x4xi8>>
// CHECK: tensor.expand_shape %x {{.*}} : tensor<3x4xi8> into tensor<3x1x4xi8>
// CHECK: affine_map<(d0, d1, d2, d3) -> (d0, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d2, d1, d3)>
func.func @infer(%x : tensor<3x4xui8>) -> tensor<3x4xi32> {
  %w = sofie.weight "w" <dense<[[1, -1, 5, -5], [2, -2, 6, -6], [3, -3, 7, -7], [4, -4, 8, -8]]> : tensor<4x4xi8>> : tensor<4x4xi8>
  %y = onnx.MatMulInteger(%x, %w) : (tensor<3x4xui8>, tensor<4x4xi8>) -> tensor<3x4xi32>
  func.return %y : tensor<3x4xi32>
}

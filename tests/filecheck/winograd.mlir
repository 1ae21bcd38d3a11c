// RUN: sofie-opt -p 'lower-onnx,dce,assign-layouts,winograd{max="2"}' %s | filecheck %s

// 4 x 4 places of each tile of 2 x 2 results: 16 products of tiles with channels, and 4 results a tile.
// CHECK: sofie.weight "w" <"{{.*}}"> : tensor<16x32x32xf32>
// CHECK: tensor<9x32xf32>
// CHECK: linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d3, d2)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2)>]
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[0, 0, 0, 0] [1, 3, 3, 32] [1, 2, 2, 1]
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[0, 1, 1, 0] [1, 3, 3, 32] [1, 2, 2, 1]
func.func @infer(%x : tensor<1x32x6x6xf32>) -> tensor<1x32x6x6xf32> {
  %w = sofie.weight "w" <dense<1.0> : tensor<32x32x3x3xf32>> : tensor<32x32x3x3xf32>
  %y = onnx.Conv(%x, %w) {kernel_shape = array<i64: 3, 3>, pads = array<i64: 1, 1, 1, 1>} : (tensor<1x32x6x6xf32>, tensor<32x32x3x3xf32>) -> tensor<1x32x6x6xf32>
  func.return %y : tensor<1x32x6x6xf32>
}

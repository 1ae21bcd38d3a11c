// RUN: sofie-opt -p lower-onnx,dce,assign-layouts %s | filecheck %s

// Channels go last: the input by one copy into its padding, the result by one copy at the end; Relu follows.
// CHECK: %[[T:.*]] = linalg.generic {{.*}} ins(%x : tensor<1x16x6x6xf32>) outs(%{{.*}} : tensor<1x6x6x16xf32>)
// CHECK: tensor.insert_slice %[[T]] into %{{.*}}[0, 1, 1, 0] [1, 6, 6, 16] [1, 1, 1, 1] : tensor<1x6x6x16xf32> into tensor<1x8x8x16xf32>
// CHECK: linalg.generic {{.*}}iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]{{.*}} outs(%{{.*}} : tensor<1x6x6x8xf32>)
// CHECK: linalg.generic {{.*}} outs(%{{.*}} : tensor<1x6x6x8xf32>)
// CHECK: linalg.generic {{.*}} ins(%{{.*}} : tensor<1x6x6x8xf32>) outs(%{{.*}} : tensor<1x8x6x6xf32>)
// CHECK-NEXT: ^
func.func @infer(%x : tensor<1x16x6x6xf32>) -> tensor<1x8x6x6xf32> {
  %w = sofie.weight "w" <"aa"> : tensor<8x16x3x3xf32>
  %c = onnx.Conv(%x, %w) {kernel_shape = array<i64: 3, 3>, pads = array<i64: 1, 1, 1, 1>} : (tensor<1x16x6x6xf32>, tensor<8x16x3x3xf32>) -> tensor<1x8x6x6xf32>
  %y = onnx.Relu(%c) : (tensor<1x8x6x6xf32>) -> tensor<1x8x6x6xf32>
  func.return %y : tensor<1x8x6x6xf32>
}

// RUN: sofie-opt -p 'lower-onnx,fill-borders{min-bytes=0}' %s | filecheck %s

// Two rows above and below, one column at each side; the inside of the buffer is never filled.
// CHECK-NOT: outs(%{{.*}} : tensor<8x7xf32>)
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[0, 0] [2, 7] [1, 1]
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[6, 0] [2, 7] [1, 1]
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[2, 0] [4, 1] [1, 1]
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[2, 6] [4, 1] [1, 1]
// CHECK: tensor.insert_slice %x into %{{.*}}[2, 1] [4, 5] [1, 1]
func.func @infer(%x : tensor<4x5xf32>) -> tensor<8x7xf32> {
  %p = sofie.weight "pads" <dense<[2, 1, 2, 1]> : tensor<4xi64>> : tensor<4xi64>
  %y = onnx.Pad(%x, %p) : (tensor<4x5xf32>, tensor<4xi64>) -> tensor<8x7xf32>
  func.return %y : tensor<8x7xf32>
}

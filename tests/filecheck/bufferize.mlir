// RUN: sofie-opt -p lower-onnx,assign-destinations,bufferize %s | filecheck %s

// Slices are subviews, nothing is copied, no tensor is left.
// CHECK-LABEL: func.func @infer(%x: memref<2x3xf32>, %y: memref<2x6xf32> {sofie.output}) {
// CHECK: memref.subview %y[0, 0] [2, 3] [1, 1] : memref<2x6xf32> to memref<2x3xf32, strided<[6, 1]>>
// CHECK: sofie.fused {
// CHECK: memref.subview %y[0, 3] [2, 3] [1, 1] : memref<2x6xf32> to memref<2x3xf32, strided<[6, 1], offset: 3>>
// CHECK-NOT: tensor
// CHECK: func.return
func.func @infer(%x : tensor<2x3xf32>) -> tensor<2x6xf32> {
  %a = onnx.Exp(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %b = onnx.Neg(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %y = onnx.Concat(%a, %b) {axis = 1 : i64} : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x6xf32>
  func.return %y : tensor<2x6xf32>
}

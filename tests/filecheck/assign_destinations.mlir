// RUN: sofie-opt -p lower-onnx,assign-destinations %s | filecheck %s

// Both parts of the Concat are computed in their slices of the result, which is the caller's.
// CHECK-LABEL: func.func @infer(%x: tensor<2x3xf32>, %y: tensor<2x6xf32> {sofie.output})
// CHECK: %[[LEFT:.*]] = tensor.extract_slice %y[0, 0] [2, 3]
// CHECK: linalg.generic {{.*}} outs(%[[LEFT]]
// CHECK: %[[RIGHT:.*]] = tensor.extract_slice %y[0, 3] [2, 3]
// CHECK: linalg.generic {{.*}} outs(%[[RIGHT]]
// CHECK-NOT: tensor.empty
func.func @infer(%x : tensor<2x3xf32>) -> tensor<2x6xf32> {
  %a = onnx.Exp(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %b = onnx.Neg(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %y = onnx.Concat(%a, %b) {axis = 1 : i64} : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x6xf32>
  func.return %y : tensor<2x6xf32>
}

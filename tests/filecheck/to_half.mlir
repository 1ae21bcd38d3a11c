// RUN: sofie-opt -p 'to-half{leave=y}' %s | filecheck %s

// One cast at each end, none between; the node that is left computes in float32.
// CHECK-LABEL: func.func @infer
// CHECK: %w = sofie.weight "w" {{.*}} : tensor<2x2xf16>
// CHECK-NEXT: %[[X:.*]] = onnx.Cast(%x) {to = 10 : i64} : (tensor<3x2xf32>) -> tensor<3x2xf16>
// CHECK-NEXT: %[[H:.*]] = onnx.MatMul(%[[X]], %w) : (tensor<3x2xf16>, tensor<2x2xf16>) -> tensor<3x2xf16>
// CHECK-NEXT: %[[R:.*]] = onnx.Relu(%[[H]]) : (tensor<3x2xf16>) -> tensor<3x2xf16>
// CHECK-NEXT: %[[B:.*]] = onnx.Cast(%[[R]]) {to = 1 : i64} : (tensor<3x2xf16>) -> tensor<3x2xf32>
// CHECK-NEXT: onnx.Tanh(%[[B]]
func.func @infer(%x : tensor<3x2xf32>) -> tensor<3x2xf32> {
  %w = sofie.weight "w" <dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>> : tensor<2x2xf32>
  %h = onnx.MatMul(%x, %w) : (tensor<3x2xf32>, tensor<2x2xf32>) -> tensor<3x2xf32>
  %r = onnx.Relu(%h) : (tensor<3x2xf32>) -> tensor<3x2xf32>
  %y = onnx.Tanh(%r) : (tensor<3x2xf32>) -> tensor<3x2xf32>
  func.return %y : tensor<3x2xf32>
}

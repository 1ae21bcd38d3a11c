// RUN: sofie-opt -p widen-floats %s | filecheck %s

// What computes does so on float32 and rounds; what moves elements, and what decodes 8 bits, takes them as they are.
// CHECK-LABEL: func.func @infer
// CHECK-NEXT: %[[X:.*]] = onnx.Cast(%x) {to = 1 : i64} : (tensor<2x3xf16>) -> tensor<2x3xf32>
// CHECK-NEXT: %[[R:.*]] = onnx.Relu(%[[X]]) : (tensor<2x3xf32>) -> tensor<2x3xf32>
// CHECK-NEXT: %[[N:.*]] = onnx.Cast(%[[R]]) {to = 10 : i64} : (tensor<2x3xf32>) -> tensor<2x3xf16>
// CHECK-NEXT: %[[T:.*]] = onnx.Transpose(%[[N]]) {perm = array<i64: 1, 0>} : (tensor<2x3xf16>) -> tensor<3x2xf16>
// CHECK-NEXT: %[[S:.*]] = onnx.Cast(%s) {to = 1 : i64} : (tensor<f16>) -> tensor<f32>
// CHECK-NEXT: %[[D:.*]] = onnx.DequantizeLinear(%q, %[[S]])
// CHECK-SAME: -> tensor<3x2xf32>
// CHECK-NEXT: %[[M:.*]] = onnx.Cast(%[[D]]) {to = 10 : i64} : (tensor<3x2xf32>) -> tensor<3x2xf16>
// CHECK-NEXT: func.return %[[T]], %[[M]]
func.func @infer(%x : tensor<2x3xf16>, %q : tensor<3x2x!sofie.float<"f8E4M3FN">>, %s : tensor<f16>)
    -> (tensor<3x2xf16>, tensor<3x2xf16>) {
  %r = onnx.Relu(%x) : (tensor<2x3xf16>) -> tensor<2x3xf16>
  %t = onnx.Transpose(%r) {perm = array<i64: 1, 0>} : (tensor<2x3xf16>) -> tensor<3x2xf16>
  %d = onnx.DequantizeLinear(%q, %s) : (tensor<3x2x!sofie.float<"f8E4M3FN">>, tensor<f16>) -> tensor<3x2xf16>
  func.return %t, %d : tensor<3x2xf16>, tensor<3x2xf16>
}

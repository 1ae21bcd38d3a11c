// RUN: sofie-opt -p 'quantize{activations=none leave=kept}' %s | filecheck %s

// Each row of w is divided by its largest over 127: 2 and 0.5; the bias and the layer that is left stay as they are.
// CHECK-LABEL: func.func @infer
// CHECK-DAG: %[[Q:.*]] = sofie.weight "w_quantized" <dense<{{\[\[}}64, -127], [127, 0]]> : tensor<2x2xi8>>
// CHECK-DAG: %[[S:.*]] = sofie.weight "w_scale" <dense<[2.000000e+00, 5.000000e-01]> : tensor<2xf32>>
// CHECK-DAG: %[[Z:.*]] = sofie.weight "w_zero_point" <dense<0> : tensor<2xi8>>
// CHECK: %[[W:.*]] = onnx.DequantizeLinear(%[[Q]], %[[S]], %[[Z]]) {axis = 0 : i64}
// CHECK-NEXT: %{{.*}} = onnx.Gemm(%x, %[[W]], %b) {transB = 1 : i64}
// CHECK: onnx.Gemm(%{{.*}}, %v)
func.func @infer(%x : tensor<3x2xf32>) -> tensor<3x1xf32> {
  %w = sofie.weight "w" <dense<[[128.0, -254.0], [63.5, 0.0]]> : tensor<2x2xf32>> : tensor<2x2xf32>
  %b = sofie.weight "b" <dense<[1.0, 2.0]> : tensor<2xf32>> : tensor<2xf32>
  %v = sofie.weight "v" <dense<[[1.0], [2.0]]> : tensor<2x1xf32>> : tensor<2x1xf32>
  %h = onnx.Gemm(%x, %w, %b) {transB = 1 : i64} : (tensor<3x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<3x2xf32>
  %kept = onnx.Gemm(%h, %v) : (tensor<3x2xf32>, tensor<2x1xf32>) -> tensor<3x1xf32>
  func.return %kept : tensor<3x1xf32>
}

// RUN: sofie-opt -p fuse-qdq,dce %s | filecheck %s

// One factor, 0.5 * 0.25 / 2, behind an exact sum; relu and the type's ends are bounds on integers.
// CHECK-LABEL: func.func @infer
// CHECK: %[[SUM:.*]] = onnx.MatMulInteger(%x, %{{.*}}, %{{.*}}) : (tensor<3x4xui8>, tensor<4x2xi8>, tensor<ui8>) -> tensor<3x2xi32>
// CHECK: %[[REAL:.*]] = onnx.Cast(%[[SUM]]) {to = 11 : i64}
// CHECK: sofie.weight "factor" <dense<6.250000e-02> : tensor<f64>>
// CHECK: onnx.Mul(%[[REAL]], %{{.*}})
// CHECK: onnx.Round
// CHECK: sofie.weight "low" <dense<0> : tensor<i32>>
// CHECK: sofie.weight "high" <dense<255> : tensor<i32>>
// CHECK: onnx.Clip
// CHECK: onnx.Cast(%{{.*}}) {to = 2 : i64}
// CHECK-NOT: Linear
func.func @infer(%x : tensor<3x4xui8>) -> tensor<3x2xui8> {
  %w = sofie.weight "w" <dense<[[1, 2], [3, 4], [5, 6], [7, 8]]> : tensor<4x2xi8>> : tensor<4x2xi8>
  %xs = sofie.weight "xs" <dense<0.5> : tensor<f32>> : tensor<f32>
  %ws = sofie.weight "ws" <dense<0.25> : tensor<f32>> : tensor<f32>
  %ys = sofie.weight "ys" <dense<2.0> : tensor<f32>> : tensor<f32>
  %z = sofie.weight "z" <dense<0> : tensor<ui8>> : tensor<ui8>
  %a = onnx.DequantizeLinear(%x, %xs, %z) : (tensor<3x4xui8>, tensor<f32>, tensor<ui8>) -> tensor<3x4xf32>
  %b = onnx.DequantizeLinear(%w, %ws) : (tensor<4x2xi8>, tensor<f32>) -> tensor<4x2xf32>
  %p = onnx.MatMul(%a, %b) : (tensor<3x4xf32>, tensor<4x2xf32>) -> tensor<3x2xf32>
  %r = onnx.Relu(%p) : (tensor<3x2xf32>) -> tensor<3x2xf32>
  %y = onnx.QuantizeLinear(%r, %ys, %z) : (tensor<3x2xf32>, tensor<f32>, tensor<ui8>) -> tensor<3x2xui8>
  func.return %y : tensor<3x2xui8>
}

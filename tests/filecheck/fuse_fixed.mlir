// RUN: sofie-opt -p fuse-fixed,dce %s | filecheck %s

// A Quant of scale 2^-5 and 8 bits is a conversion, one of weights a constant of raw numbers: 0.75 is 3 steps of 2^-2.
// The product has 5 + 2 bits behind the binary point; 127 * 3 + 128 * 2 fits into 11 bits. ReduceMean is not known: it
// reads a float.
// CHECK-LABEL: func.func @infer
// CHECK-NEXT: %q = sofie.convert %x : tensor<1x2xf32> -> tensor<1x2x!sofie.fixed<8, 3, signed, AP_RND_CONV, AP_SAT>>
// CHECK-NEXT: %{{.*}} = sofie.weight "w" <dense<{{\[\[}}3], [-2]]> : tensor<2x1xi8>> : tensor<2x1x!sofie.fixed<3, 1, signed, AP_TRN, AP_WRAP>>
// CHECK-NEXT: %m = onnx.MatMul(%q, %{{.*}}) {{.*}} -> tensor<1x1x!sofie.fixed<11, 4, signed, AP_TRN, AP_WRAP>>
// CHECK-NEXT: %p = sofie.convert %m {{.*}} -> tensor<1x1x!sofie.fixed<4, 4, unsigned, AP_TRN, AP_SAT>>
// CHECK-NEXT: %p_1 = sofie.convert %p : {{.*}} -> tensor<1x1xf32>
// CHECK-NEXT: %y = onnx.ReduceMean(%p_1) : (tensor<1x1xf32>) -> tensor<1x1xf32>
func.func @infer(%x : tensor<1x2xf32>) -> tensor<1x1xf32> {
  %s = sofie.weight "s" <dense<0.03125> : tensor<f32>> : tensor<f32>
  %one = sofie.weight "one" <dense<1.0> : tensor<f32>> : tensor<f32>
  %quarter = sofie.weight "quarter" <dense<0.25> : tensor<f32>> : tensor<f32>
  %z = sofie.weight "z" <dense<0.0> : tensor<f32>> : tensor<f32>
  %b = sofie.weight "b" <dense<8.0> : tensor<f32>> : tensor<f32>
  %four = sofie.weight "four" <dense<4.0> : tensor<f32>> : tensor<f32>
  %w = sofie.weight "w" <dense<[[0.7], [-0.5]]> : tensor<2x1xf32>> : tensor<2x1xf32>
  %q = onnx.qonnx.custom_op.general.Quant(%x, %s, %z, %b) : (tensor<1x2xf32>, tensor<f32>, tensor<f32>, tensor<f32>) -> tensor<1x2xf32>
  %v = onnx.qonnx.custom_op.general.Quant(%w, %quarter, %z, %b) : (tensor<2x1xf32>, tensor<f32>, tensor<f32>, tensor<f32>) -> tensor<2x1xf32>
  %m = onnx.MatMul(%q, %v) : (tensor<1x2xf32>, tensor<2x1xf32>) -> tensor<1x1xf32>
  %p = onnx.qonnx.custom_op.general.Quant(%m, %one, %z, %four) {signed = 0 : i64, rounding_mode = "FLOOR"} : (tensor<1x1xf32>, tensor<f32>, tensor<f32>, tensor<f32>) -> tensor<1x1xf32>
  %y = onnx.ReduceMean(%p) : (tensor<1x1xf32>) -> tensor<1x1xf32>
  func.return %y : tensor<1x1xf32>
}

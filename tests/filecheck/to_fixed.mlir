// RUN: sofie-opt -p 'to-fixed{precision="fixed<8,4>" accum="fixed<12,6>"},dce' %s | filecheck %s

// Weights are truncated to steps of 2^-4: 0.7 is 11 of them, -0.7 is -12. MatMul and the Add behind it are one layer.
// CHECK-LABEL: func.func @infer
// CHECK-NEXT: %[[X:.*]] = sofie.convert %x : tensor<1x2xf32> -> tensor<1x2x!sofie.fixed<8, 4, signed, AP_TRN, AP_WRAP>>
// CHECK-NEXT: %[[W:.*]] = sofie.weight "w" <dense<{{\[\[}}11], [-12]]> : tensor<2x1xi8>> : tensor<2x1x!sofie.fixed<8, 4, signed, AP_TRN, AP_WRAP>>
// CHECK-NEXT: %[[B:.*]] = sofie.weight "b" <dense<4> : tensor<1xi8>> : tensor<1x!sofie.fixed<8, 4, signed, AP_TRN, AP_WRAP>>
// CHECK-NEXT: %[[M:.*]] = onnx.Gemm(%[[X]], %[[W]], %[[B]]) {{.*}} -> tensor<1x1x!sofie.fixed<12, 6, signed, AP_TRN, AP_WRAP>>
// CHECK-NEXT: %[[N:.*]] = sofie.convert %[[M]] : {{.*}} -> tensor<1x1x!sofie.fixed<8, 4, signed, AP_TRN, AP_WRAP>>
// CHECK-NEXT: %[[R:.*]] = onnx.Relu(%[[N]]) {{.*}} -> tensor<1x1x!sofie.fixed<8, 4, signed, AP_TRN, AP_WRAP>>
// CHECK-NEXT: %[[Y:.*]] = sofie.convert %[[R]] : {{.*}} -> tensor<1x1xf32>
// CHECK-NEXT: func.return %[[Y]]
func.func @infer(%x : tensor<1x2xf32>) -> tensor<1x1xf32> {
  %w = sofie.weight "w" <dense<[[0.7], [-0.7]]> : tensor<2x1xf32>> : tensor<2x1xf32>
  %b = sofie.weight "b" <dense<0.25> : tensor<1xf32>> : tensor<1xf32>
  %m = onnx.MatMul(%x, %w) : (tensor<1x2xf32>, tensor<2x1xf32>) -> tensor<1x1xf32>
  %n = onnx.Add(%m, %b) : (tensor<1x1xf32>, tensor<1xf32>) -> tensor<1x1xf32>
  %y = onnx.Relu(%n) : (tensor<1x1xf32>) -> tensor<1x1xf32>
  func.return %y : tensor<1x1xf32>
}

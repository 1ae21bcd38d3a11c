// RUN: sofie-opt -p fold-constants,dce %s | filecheck %s

// A chain of weights is computed; what depends on an input stays.
// CHECK-LABEL: func.func @infer
// CHECK-NEXT: %[[B:.*]] = sofie.weight "b" <dense<[4.000000e+00, 9.000000e+00]> : tensor<2xf32>>
// CHECK-NEXT: %[[Y:.*]] = onnx.Add(%x, %[[B]])
// CHECK-NEXT: func.return %[[Y]]
func.func @infer(%x : tensor<2xf32>) -> tensor<2xf32> {
  %a = sofie.weight "a" <dense<[2.0, 3.0]> : tensor<2xf32>> : tensor<2xf32>
  %b = onnx.Mul(%a, %a) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  %y = onnx.Add(%x, %b) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  func.return %y : tensor<2xf32>
}

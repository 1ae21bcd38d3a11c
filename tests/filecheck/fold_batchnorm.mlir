// RUN: sofie-opt -p fold-batchnorm,dce %s | filecheck %s

// scale / sqrt(var + 0) = 2, offset = 1 - 2 * 3 = -5: weights times 2, bias -5.
// CHECK-LABEL: func.func @infer
// CHECK-NEXT: %w = sofie.weight "w folded" <dense<{{\[\[}}2.000000e+00, 4.000000e+00]]> : tensor<1x2xf32>>
// CHECK-NEXT: %w_bias = sofie.weight "w folded bias" <dense<-5.000000e+00> : tensor<1xf32>>
// CHECK-NEXT: %{{.*}} = onnx.Gemm(%x, %w, %w_bias) {transB = 1 : i64}
// CHECK-NOT: BatchNormalization
func.func @infer(%x : tensor<3x2xf32>) -> tensor<3x1xf32> {
  %w = sofie.weight "w" <dense<[[1.0, 2.0]]> : tensor<1x2xf32>> : tensor<1x2xf32>
  %s = sofie.weight "s" <dense<4.0> : tensor<1xf32>> : tensor<1xf32>
  %b = sofie.weight "b" <dense<1.0> : tensor<1xf32>> : tensor<1xf32>
  %m = sofie.weight "m" <dense<3.0> : tensor<1xf32>> : tensor<1xf32>
  %v = sofie.weight "v" <dense<4.0> : tensor<1xf32>> : tensor<1xf32>
  %h = onnx.Gemm(%x, %w) {transB = 1 : i64} : (tensor<3x2xf32>, tensor<1x2xf32>) -> tensor<3x1xf32>
  %y = onnx.BatchNormalization(%h, %s, %b, %m, %v) {epsilon = 0.0 : f32} : (tensor<3x1xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<3x1xf32>
  func.return %y : tensor<3x1xf32>
}

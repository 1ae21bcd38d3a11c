// RUN: sofie-opt -p fuse-dequantize %s | filecheck %s

// Two weights a byte, 4 bytes in all; one block an output has the one scale.
// CHECK-LABEL: func.func @infer
// CHECK: %[[W:.*]] = sofie.weight "weights" {{.*}} : tensor<2x1x2xui8>
// CHECK: sofie.weight "scales" <dense<2.500000e-01> : tensor<2x1xf32>>
// CHECK: onnx.com.microsoft.MatMulNBits(%x, %[[W]], %{{.*}}) {K = 4 : i64, N = 2 : i64, bits = 4 : i64, block_size = 4 : i64}
// CHECK-NOT: DequantizeLinear
func.func @infer(%x : tensor<3x4xf32>) -> tensor<3x2xf32> {
  %w = sofie.weight "w" <dense<[[1, -1], [2, -2], [3, -3], [4, -4]]> : tensor<4x2xi4>> : tensor<4x2xi4>
  %s = sofie.weight "s" <dense<0.25> : tensor<f32>> : tensor<f32>
  %b = onnx.DequantizeLinear(%w, %s) : (tensor<4x2xi4>, tensor<f32>) -> tensor<4x2xf32>
  %y = onnx.MatMul(%x, %b) : (tensor<3x4xf32>, tensor<4x2xf32>) -> tensor<3x2xf32>
  func.return %y : tensor<3x2xf32>
}

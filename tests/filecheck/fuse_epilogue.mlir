// RUN: sofie-opt -p lower-onnx,fuse-elementwise,fuse-epilogue %s | filecheck %s

// Start, product, bias and activation are one group; the product itself is not yielded.
// CHECK: %y = sofie.fused {
// CHECK: linalg.yield {{.*}} : f32
// CHECK: "reduction"
// CHECK: arith.maximumf
// CHECK: sofie.yield %{{.*}} : tensor<4x2xf32>
// CHECK-NEXT: } -> (tensor<4x2xf32>)
func.func @infer(%x : tensor<4x3xf32>) -> tensor<4x2xf32> {
  %w = sofie.weight "w" <"aa"> : tensor<3x2xf32>
  %b = sofie.weight "b" <"bb"> : tensor<2xf32>
  %h = onnx.MatMul(%x, %w) : (tensor<4x3xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
  %s = onnx.Add(%h, %b) : (tensor<4x2xf32>, tensor<2xf32>) -> tensor<4x2xf32>
  %y = onnx.Relu(%s) : (tensor<4x2xf32>) -> tensor<4x2xf32>
  func.return %y : tensor<4x2xf32>
}

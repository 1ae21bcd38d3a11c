// RUN: sofie-opt -p 'lower-onnx,fuse-epilogue,assign-destinations,bufferize,lower-to-blas{library=cblas}' %s | filecheck %s

// Before, call, behind: three groups.
// CHECK: sofie.fused
// CHECK: blas.gemm %x, %w, %{{.*}} {transpose_a = false, transpose_b = true}
// CHECK: arith.maximumf
func.func @infer(%x : tensor<4x3xf32>) -> tensor<4x2xf32> {
  %w = sofie.weight "w" <"aa"> : tensor<2x3xf32>
  %h = onnx.Gemm(%x, %w) {transB = 1 : i64} : (tensor<4x3xf32>, tensor<2x3xf32>) -> tensor<4x2xf32>
  %y = onnx.Relu(%h) : (tensor<4x2xf32>) -> tensor<4x2xf32>
  func.return %y : tensor<4x2xf32>
}

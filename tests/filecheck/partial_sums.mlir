// RUN: sofie-opt -p 'lower-onnx,fuse-epilogue,assign-destinations,bufferize,plan-memory,partial-sums{part=384},lower-loops' %s | filecheck %s

// 600 terms in two parts of 300, each from zero.
// CHECK: memref.expand_shape %x {{.*}} : memref<2x600xf32> into memref<2x2x300xf32>
// CHECK: memref.expand_shape %w {{.*}} : memref<600x4xf32> into memref<2x300x4xf32>
// CHECK: %[[ALL:.*]] = scf.for %k = {{.*}} iter_args(%[[BEFORE:.*]] = %{{.*}}) -> (f32) {
// CHECK: %[[ZERO:.*]] = arith.constant 0.000000e+00 : f32
// CHECK: %[[PART:.*]] = scf.for %k1 = {{.*}} iter_args(%{{.*}} = %[[ZERO]]) -> (f32) {
// CHECK: %[[SUM:.*]] = arith.addf %[[BEFORE]], %[[PART]] : f32
// CHECK-NEXT: scf.yield %[[SUM]] : f32
func.func @infer(%x : tensor<2x600xf32>) -> tensor<2x4xf32> {
  %w = sofie.weight "w" <dense<1.0> : tensor<600x4xf32>> : tensor<600x4xf32>
  %y = onnx.MatMul(%x, %w) : (tensor<2x600xf32>, tensor<600x4xf32>) -> tensor<2x4xf32>
  func.return %y : tensor<2x4xf32>
}

// RUN: sofie-opt -p lower-onnx,fuse-elementwise,fuse-epilogue,assign-destinations,bufferize,plan-memory,lower-loops %s | filecheck %s

// The sum is carried in a register from its start to the activation; only the result is stored.
// CHECK: "scf.parallel"
// CHECK: ^bb0(%i: index, %j: index):
// CHECK: %sum = scf.for %k = {{.*}} iter_args(%sum_1 = %{{.*}}) -> (f32)
// CHECK: arith.maximumf %sum
// CHECK-COUNT-1: memref.store
// CHECK-NOT: memref.store
func.func @infer(%x : tensor<4x3xf32>) -> tensor<4x2xf32> {
  %w = sofie.weight "w" <"aa"> : tensor<3x2xf32>
  %h = onnx.MatMul(%x, %w) : (tensor<4x3xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
  %y = onnx.Relu(%h) : (tensor<4x2xf32>) -> tensor<4x2xf32>
  func.return %y : tensor<4x2xf32>
}

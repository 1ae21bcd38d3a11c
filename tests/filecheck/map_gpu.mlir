// RUN: sofie-opt -p cuda %s | filecheck %s

// Twelve threads of one block: the number of each is that of a row and a column, and the sum is its own.
// CHECK: gpu.func
// CHECK: ^bb0(%x: memref<3x2xf32>, %w: memref<2x4xf32>, %y: memref<3x4xf32>):
// CHECK: %thread = "gpu.global_id"() <{dimension = #gpu<dim x>}> : () -> index
// CHECK: %[[INSIDE:.*]] = arith.cmpi slt, %thread, %{{.*}} : index
// CHECK: scf.if %[[INSIDE]] {
// CHECK: %j = arith.remui %thread, %{{.*}} : index
// CHECK: %i = arith.divui %thread, %{{.*}} : index
// CHECK: scf.for %k =
// CHECK: memref.store %{{.*}}, %y[%i, %j]
// CHECK: gpu.return
// CHECK: func.func @infer
// CHECK-DAG: %[[ONE:.*]] = arith.constant 1 : index
// CHECK-DAG: %[[THREADS:.*]] = arith.constant 256 : index
// CHECK: "gpu.launch_func"(%[[ONE]], %[[ONE]], %[[ONE]], %[[THREADS]], %[[ONE]], %[[ONE]], %x, %w, %y) <{kernel = @kernels::@
func.func @infer(%x : tensor<3x2xf32>) -> tensor<3x4xf32> {
  %w = sofie.weight "w" <dense<1.0> : tensor<2x4xf32>> : tensor<2x4xf32>
  %y = onnx.MatMul(%x, %w) : (tensor<3x2xf32>, tensor<2x4xf32>) -> tensor<3x4xf32>
  func.return %y : tensor<3x4xf32>
}

// RUN: sofie-opt -p 'lower-onnx,assign-destinations,bufferize,plan-memory,lower-loops,outline-kernels,vectorize{tile=3}' %s | filecheck %s

// Rows of a run-time extent: threes, then twos, then one by one; each starts where the last has ended.
// CHECK: func.func private @kernel_1(%n: index {sofie.size = #sofie.sizes<"n", "n=1..16">}
// CHECK: %[[LEFT:.*]] = arith.subi %n, %{{.*}} : index
// CHECK: %[[REST:.*]] = arith.remui %[[LEFT]], %{{.*}} : index
// CHECK: %[[THREES:.*]] = arith.subi %n, %[[REST]] : index
// CHECK: arith.subi %n, %[[THREES]] : index
// CHECK: %[[TWOS:.*]] = arith.subi %n, %{{.*}} : index
// CHECK: scf.for %{{.*}} = %{{.*}} to %[[THREES]] step
// CHECK: scf.for %{{.*}} = %[[THREES]] to %[[TWOS]] step
// CHECK: scf.for %{{.*}} = %[[TWOS]] to %n step
func.func @infer(%n : index {sofie.size = #sofie.sizes<"n", "n=1..16">}, %x : tensor<?x5xf32, #sofie.sizes<"n, 5", "n=1..16">>) -> tensor<?x8xf32, #sofie.sizes<"n, 8", "n=1..16">> {
  %w = sofie.weight "w" <"aa"> : tensor<5x8xf32>
  %y = onnx.MatMul(%x, %w) : (tensor<?x5xf32, #sofie.sizes<"n, 5", "n=1..16">>, tensor<5x8xf32>) -> tensor<?x8xf32, #sofie.sizes<"n, 8", "n=1..16">>
  func.return %y : tensor<?x8xf32, #sofie.sizes<"n, 8", "n=1..16">>
}

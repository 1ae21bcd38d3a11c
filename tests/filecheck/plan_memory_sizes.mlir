// RUN: sofie-opt -p 'lower-onnx,assign-destinations{in-place=false},bufferize,plan-memory' %s | filecheck %s

// A buffer of a run-time extent has room for the bound, and the extent of the run.
// CHECK: %arena: memref<512xi8> {sofie.arena, sofie.lower_bound = 512 : i64}
// CHECK: %[[ROOM:.*]] = memref.view %arena[%{{.*}}][] : memref<512xi8> to memref<16x8xf32>
// CHECK: memref.reinterpret_cast %[[ROOM]] to offset: [0], sizes: [%n, 8], strides: [8, 1]
// CHECK-SAME: to memref<?x8xf32, #sofie.layout<"n, 8", "8, 1", "0", "n=1..16">>
func.func @infer(%n : index {sofie.size = #sofie.sizes<"n", "n=1..16">}, %x : tensor<?x8xf32, #sofie.sizes<"n, 8", "n=1..16">>) -> tensor<8x?xf32, #sofie.sizes<"8, n", "n=1..16">> {
  %a = onnx.Exp(%x) : (tensor<?x8xf32, #sofie.sizes<"n, 8", "n=1..16">>) -> tensor<?x8xf32, #sofie.sizes<"n, 8", "n=1..16">>
  %y = onnx.Transpose(%a) : (tensor<?x8xf32, #sofie.sizes<"n, 8", "n=1..16">>) -> tensor<8x?xf32, #sofie.sizes<"8, n", "n=1..16">>
  func.return %y : tensor<8x?xf32, #sofie.sizes<"8, n", "n=1..16">>
}

// RUN: sofie-opt -p 'lower-onnx,assign-destinations{in-place=false},bufferize,plan-memory' %s | filecheck %s

// %p stands outside of the loop and is read in each iteration: it shares with nothing. What an iteration makes, and needs
// no longer, makes room for what it makes next: %a and %c.
// CHECK: %arena: memref<1024xi8> {sofie.arena, sofie.lower_bound = 1024 : i64}
// CHECK: %p = memref.view %arena[%{{.*}}]
// CHECK: scf.for
// CHECK: %[[A:.*]] = arith.constant 512 : index
// CHECK-NEXT: %a = memref.view %arena[%[[A]]]
// CHECK: %b = memref.view %arena
// CHECK: %[[C:.*]] = arith.constant 512 : index
// CHECK-NEXT: %c = memref.view %arena[%[[C]]]
func.func @infer(%x : tensor<8x8xf32>) -> tensor<8x8xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c5 = arith.constant 5 : index
  %p = onnx.Exp(%x) : (tensor<8x8xf32>) -> tensor<8x8xf32>
  %y = scf.for %t = %c0 to %c5 step %c1 iter_args(%state = %x) -> (tensor<8x8xf32>) {
    %a = onnx.Add(%state, %p) : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
    %b = onnx.Transpose(%a) : (tensor<8x8xf32>) -> tensor<8x8xf32>
    %c = onnx.Transpose(%b) : (tensor<8x8xf32>) -> tensor<8x8xf32>
    scf.yield %c : tensor<8x8xf32>
  }
  func.return %y : tensor<8x8xf32>
}

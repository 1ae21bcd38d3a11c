// RUN: sofie-opt -p 'lower-onnx,assign-destinations{in-place=false},bufferize,plan-memory' %s | filecheck %s

// Three values, never more than two alive: the third takes the place of the first.
// CHECK: %arena: memref<512xi8> {sofie.arena, sofie.lower_bound = 512 : i64}
// CHECK: memref.view %arena[%{{.*}}][] : memref<512xi8> to memref<8x8xf32>
// CHECK: arith.constant 256 : index
// CHECK: arith.constant 0 : index
// CHECK-NOT: memref.alloc
func.func @infer(%x : tensor<8x8xf32>) -> tensor<8x8xf32> {
  %a = onnx.Exp(%x) : (tensor<8x8xf32>) -> tensor<8x8xf32>
  %b = onnx.Transpose(%a) : (tensor<8x8xf32>) -> tensor<8x8xf32>
  %c = onnx.Exp(%b) : (tensor<8x8xf32>) -> tensor<8x8xf32>
  %y = onnx.Transpose(%c) : (tensor<8x8xf32>) -> tensor<8x8xf32>
  func.return %y : tensor<8x8xf32>
}

// RUN: sofie-opt -p lower-onnx,assign-destinations,bufferize %s | filecheck %s

// Both branches write into the caller's buffer; the condition is a byte that is not 0.
// CHECK: %[[BYTE:.*]] = memref.load %c[] : memref<i8>
// CHECK: %[[FLAG:.*]] = arith.cmpi ne, %[[BYTE]]
// CHECK: scf.if %[[FLAG]] {
// CHECK: linalg.generic {{.*}} ins(%x : {{.*}}) outs(%y :
// CHECK: math.exp
// CHECK: } else {
// CHECK: linalg.generic {{.*}} ins(%x : {{.*}}) outs(%y :
// CHECK-NOT: tensor
func.func @infer(%x : tensor<4xf32>, %c : tensor<i1>) -> tensor<4xf32> {
  %y = onnx.If(%c) then_branch {
    %a = onnx.Exp(%x) : (tensor<4xf32>) -> tensor<4xf32>
    onnx.yield %a : tensor<4xf32>
  } else_branch {
    onnx.yield %x : tensor<4xf32>
  } : (tensor<i1>) -> tensor<4xf32>
  func.return %y : tensor<4xf32>
}

// RUN: sofie-opt -p lower-onnx %s | filecheck %s

// The condition is read, the branches are lowered where they stand.
// CHECK: %[[FLAG:.*]] = tensor.extract %c[] : tensor<i1>
// CHECK-NEXT: %y = scf.if %[[FLAG]] -> (tensor<4xf32>) {
// CHECK: %a = linalg.generic {{.*}} ins(%x
// CHECK: scf.yield %a : tensor<4xf32>
// CHECK-NEXT: } else {
// CHECK-NEXT: scf.yield %x : tensor<4xf32>
// CHECK-NOT: onnx
func.func @infer(%x : tensor<4xf32>, %c : tensor<i1>) -> tensor<4xf32> {
  %y = onnx.If(%c) then_branch {
    %a = onnx.Exp(%x) : (tensor<4xf32>) -> tensor<4xf32>
    onnx.yield %a : tensor<4xf32>
  } else_branch {
    onnx.yield %x : tensor<4xf32>
  } : (tensor<i1>) -> tensor<4xf32>
  func.return %y : tensor<4xf32>
}

// RUN: sofie-opt -p fold-constants,dce %s | filecheck %s

// An If whose condition is a weight is its branch.
// CHECK-LABEL: func.func @infer
// CHECK-NEXT: %[[Y:.*]] = onnx.Neg(%x)
// CHECK-NEXT: func.return %[[Y]]
func.func @infer(%x : tensor<4xf32>) -> tensor<4xf32> {
  %c = sofie.weight "c" <dense<false> : tensor<i1>> : tensor<i1>
  %y = onnx.If(%c) then_branch {
    onnx.yield %x : tensor<4xf32>
  } else_branch {
    %b = onnx.Neg(%x) : (tensor<4xf32>) -> tensor<4xf32>
    onnx.yield %b : tensor<4xf32>
  } : (tensor<i1>) -> tensor<4xf32>
  func.return %y : tensor<4xf32>
}

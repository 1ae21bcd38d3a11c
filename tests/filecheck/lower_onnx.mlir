// RUN: sofie-opt -p lower-onnx %s | filecheck %s

// A product is a contraction from zero; unsigned integers become signless and their sign moves into the op.
// CHECK-LABEL: func.func @infer(%x: tensor<4x3xf32>, %u: tensor<5xi8>)
// CHECK: linalg.generic {{.*}}iterator_types = ["parallel", "parallel", "reduction"]
// CHECK: arith.mulf
// CHECK-NEXT: arith.addf
// CHECK: linalg.generic {{.*}}iterator_types = ["reduction"]
// CHECK: arith.maxui {{.*}} : i8
// CHECK-NOT: onnx
func.func @infer(%x : tensor<4x3xf32>, %u : tensor<5xui8>) -> (tensor<4x2xf32>, tensor<ui8>) {
  %w = sofie.weight "w" <"aa"> : tensor<3x2xf32>
  %y = onnx.MatMul(%x, %w) : (tensor<4x3xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
  %m = onnx.ReduceMax(%u) {keepdims = 0 : i64} : (tensor<5xui8>) -> tensor<ui8>
  func.return %y, %m : tensor<4x2xf32>, tensor<ui8>
}

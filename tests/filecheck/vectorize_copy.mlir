// RUN: sofie-opt -p 'lower-onnx,assign-destinations,bufferize,plan-memory,lower-loops,vectorize{cpu=x86-64-v3}' %s | filecheck %s

// Three colours side by side: stored one by one, in the order in which they lie.
// CHECK-LABEL: func.func @infer
// CHECK-NOT: vector.
// CHECK: memref.store %{{.*}}, %y[%i, %j, %l]
func.func @infer(%x : tensor<3x8x16xf32>) -> tensor<8x16x3xf32> {
  %y = onnx.Transpose(%x) {perm = array<i64: 1, 2, 0>} : (tensor<3x8x16xf32>) -> tensor<8x16x3xf32>
  func.return %y : tensor<8x16x3xf32>
}

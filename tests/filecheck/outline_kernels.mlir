// RUN: sofie-opt -p lower-onnx,assign-destinations,bufferize,plan-memory,lower-loops,outline-kernels %s | filecheck %s

// Two equal layers are one kernel, called twice.
// CHECK: func.func private @kernel(%{{.*}}: memref<4xf32>, %{{.*}}: memref<4xf32>)
// CHECK-NOT: func.func private
// CHECK: func.func @infer
// CHECK: func.call @kernel(%x, %
// CHECK: func.call @kernel(
func.func @infer(%x : tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %a = onnx.Exp(%x) : (tensor<4xf32>) -> tensor<4xf32>
  %b = onnx.Exp(%a) : (tensor<4xf32>) -> tensor<4xf32>
  func.return %a, %b : tensor<4xf32>, tensor<4xf32>
}

// RUN: sofie-opt -p 'lower-onnx,fuse-epilogue,assign-destinations,bufferize,plan-memory,lower-loops,outline-kernels,split-threads{threads=2 min-flops=1000}' %s | filecheck %s

// The product is large enough: 64 rows in two parts of 32. The sum is not, and is called as before.
// CHECK: func.func private @kernel({{.*}}, %part: index)
// CHECK: %[[SIZE:[0-9]+]] = arith.constant 32 : index
// CHECK: %[[START:[0-9]+]] = arith.muli %part, %[[SIZE]] : index
// CHECK: "scf.parallel"(%{{[0-9]+}}, %{{[0-9]+}}, %[[SIZE]],
// CHECK: arith.addi %[[START]], %i : index
// CHECK: func.func private @kernel_1(%b: memref<4xf32>, %z: memref<4xf32>)
// CHECK: func.func @infer
// CHECK: bb0(%part: index)
// CHECK-NEXT: func.call @kernel({{.*}}, %part)
// CHECK: {sofie.threads = 2 : index}
// CHECK-NEXT: func.call @kernel_1
func.func @infer(%x : tensor<64x8xf32>, %b : tensor<4xf32>) -> (tensor<64x16xf32>, tensor<4xf32>) {
  %w = sofie.weight "w" <"aa"> : tensor<8x16xf32>
  %y = onnx.MatMul(%x, %w) : (tensor<64x8xf32>, tensor<8x16xf32>) -> tensor<64x16xf32>
  %z = onnx.Add(%b, %b) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  func.return %y, %z : tensor<64x16xf32>, tensor<4xf32>
}

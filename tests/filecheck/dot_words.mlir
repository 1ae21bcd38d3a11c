// RUN: sofie-opt -p 'lower-onnx,fuse-epilogue,pack-words,pack-weights,assign-destinations,bufferize,plan-memory,lower-loops,dot-words,vectorize{cpu=portable}' %s | filecheck %s

// A word of x for four words of weights, one an output, and no byte alone.
// CHECK-COUNT-3: "sofie.load_word"({{.*}}) : (memref<3x2x4xi8>, index, index, index) -> i32
// CHECK: "sofie.load_word"({{.*}}) : (memref<2x4x4xi8>, index, index, index) -> vector<4xi32>
// CHECK-COUNT-3: "sofie.dot"
// CHECK-NOT: memref.load
func.func @infer(%x : tensor<3x8xui8>) -> tensor<3x4xi32> {
  %w = sofie.weight "w" <dense<1> : tensor<8x4xi8>> : tensor<8x4xi8>
  %y = onnx.MatMulInteger(%x, %w) : (tensor<3x8xui8>, tensor<8x4xi8>) -> tensor<3x4xi32>
  func.return %y : tensor<3x4xi32>
}

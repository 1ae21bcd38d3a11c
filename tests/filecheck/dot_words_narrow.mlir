// RUN: sofie-opt -p 'lower-onnx,fuse-epilogue,pack-words,pack-weights,assign-destinations,bufferize,plan-memory,lower-loops,outline-kernels,dot-words' %s | filecheck %s

// Neighbours of 64 and 64 have 16 bits together whatever x is, those of 65 and 64 have not.
// CHECK: "sofie.dot"({{.*}}) <{narrow}>
// CHECK: "sofie.dot"({{.*}}) :
func.func @infer(%x : tensor<3x8xui8>) -> (tensor<3x4xi32>, tensor<3x5xi32>) {
  %w = sofie.weight "w" <dense<64> : tensor<8x4xi8>> : tensor<8x4xi8>
  %v = sofie.weight "v" <dense<65> : tensor<8x5xi8>> : tensor<8x5xi8>
  %y = onnx.MatMulInteger(%x, %w) : (tensor<3x8xui8>, tensor<8x4xi8>) -> tensor<3x4xi32>
  %z = onnx.MatMulInteger(%x, %v) : (tensor<3x8xui8>, tensor<8x5xi8>) -> tensor<3x5xi32>
  func.return %y, %z : tensor<3x4xi32>, tensor<3x5xi32>
}

// RUN: sofie-opt -p 'lower-onnx,fuse-epilogue,pack-words,pack-weights,assign-destinations,bufferize,plan-memory,lower-loops,dot-words,vectorize{cpu=x86-64-v2},widen-words{cpu=x86-64-v2}' %s | filecheck %s

// 6 words a row: a vector of 4, and one across it; then two sums of pairs for each sum of words.
// CHECK: %wide = memref.alloca() {{.*}} : memref<2x3x6xi32>
// CHECK-NEXT: %[[X:.*]] = "sofie.load_word"({{.*}}) : (memref<3x6x4xi8>, index, index, index) -> vector<4xi32>
// CHECK-NEXT: %[[EVEN:.*]] = "sofie.widen_bytes"(%[[X]]) <{places = "even"}>
// CHECK-NEXT: vector.store %[[EVEN]], %wide[
// CHECK-NEXT: %[[ODD:.*]] = "sofie.widen_bytes"(%[[X]]) <{places = "odd"}>
// CHECK-NEXT: vector.store %[[ODD]], %wide[
// CHECK-COUNT-5: -> vector<4xi32>{{$}}
// CHECK: scf.for %k =
// CHECK-NEXT: %[[A:.*]] = memref.load %wide[
// CHECK-NEXT: %[[W:.*]] = "sofie.load_word"({{.*}}) : (memref<6x8x4xi8>, index, index, index) -> vector<4xi32>
// CHECK-NEXT: %[[HALF:.*]] = "sofie.widen_bytes"(%[[W]]) <{places = "even", signed}>
// CHECK-NEXT: %[[ALL:.*]] = vector.broadcast %[[A]]
// CHECK-NEXT: "sofie.dot_pairs"(%sum0a, %[[ALL]], %[[HALF]])
// CHECK-COUNT-11: "sofie.dot_pairs"
// CHECK-NOT: sofie.dot"
func.func @infer(%x : tensor<3x24xui8>) -> tensor<3x8xi32> {
  %w = sofie.weight "w" <dense<1> : tensor<24x8xi8>> : tensor<24x8xi8>
  %y = onnx.MatMulInteger(%x, %w) : (tensor<3x24xui8>, tensor<24x8xi8>) -> tensor<3x8xi32>
  func.return %y : tensor<3x8xi32>
}

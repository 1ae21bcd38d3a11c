// RUN: sofie-opt -p 'lower-onnx,dce,assign-layouts,winograd,pack-words' %s | filecheck %s

// Of bytes, 6 x 6 places of each tile of 4 x 4 results have 16 bits; two channels side by side are a word.
// CHECK: sofie.weight "weights" <"{{.*}}"> : tensor<36x64x2x64xi16>
// CHECK: arith.extui %{{.*}} : i8 to i32
// CHECK: arith.trunci %{{.*}} : i32 to i16
// CHECK: tensor.expand_shape %{{.*}} : tensor<36x21x128xi16> into tensor<36x21x64x2xi16>
// CHECK: arith.extsi %{{.*}} : i16 to i32
// CHECK: arith.constant 954437177 : i32
// CHECK-NEXT: arith.muli
// CHECK: arith.constant 6 : i32
// CHECK-NEXT: arith.shrsi
func.func @infer(%x : tensor<1x128x28x28xui8>) -> tensor<1x64x28x28xi32> {
  %w = sofie.weight "w" <dense<3> : tensor<64x128x3x3xi8>> : tensor<64x128x3x3xi8>
  %y = onnx.ConvInteger(%x, %w) {kernel_shape = array<i64: 3, 3>, pads = array<i64: 1, 1, 1, 1>} : (tensor<1x128x28x28xui8>, tensor<64x128x3x3xi8>) -> tensor<1x64x28x28xi32>
  func.return %y : tensor<1x64x28x28xi32>
}

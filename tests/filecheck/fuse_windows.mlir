// RUN: sofie-opt -p 'lower-onnx,dce,assign-layouts,fuse-elementwise,fuse-epilogue,fuse-windows{min_bytes=0}' %s | filecheck %s

// Three panels of 16 channels: each is put into the zeros that all of them share, and its maxima into their place.
// CHECK: %[[ZEROS:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<1x6x6x16xf32>)
// CHECK: arith.constant 0xff800000
// CHECK: %w = sofie.weight "w" <"{{.*}}"> : tensor<3x1x1x4x16xf32>
// CHECK: scf.for %panel = {{.*}} iter_args(%[[Y:.*]] = %{{.*}}, %[[B:.*]] = %{{.*}}) -> (tensor<1x48x4x4xf32>, tensor<1x6x6x16xf32>)
// CHECK: %[[FIRST:.*]] = arith.muli %panel, %{{.*}} : index
// CHECK: tensor.extract_slice %w[%panel, 0, 0, 0, 0] [1, 1, 1, 4, 16]
// CHECK: %t = sofie.fused {
// CHECK: } -> (tensor<1x4x4x16xf32>)
// CHECK: %[[PADDED:.*]] = tensor.insert_slice %t into %[[B]][0, 1, 1, 0] [1, 4, 4, 16]
// CHECK: %[[MAXIMA:.*]] = sofie.fused {
// CHECK: linalg.generic {{.*}} ins(%[[PADDED]], %{{.*}}
// CHECK: } -> (tensor<1x16x4x4xf32>)
// CHECK: %[[ALL:.*]] = tensor.insert_slice %[[MAXIMA]] into %[[Y]][0, %[[FIRST]], 0, 0] [1, 16, 4, 4]
// CHECK: scf.yield %[[ALL]], %[[PADDED]]
func.func @infer(%x : tensor<1x4x4x4xf32>) -> tensor<1x48x4x4xf32> {
  %w = sofie.weight "w" <dense<1.0> : tensor<48x4x1x1xf32>> : tensor<48x4x1x1xf32>
  %t = onnx.Conv(%x, %w) : (tensor<1x4x4x4xf32>, tensor<48x4x1x1xf32>) -> tensor<1x48x4x4xf32>
  %y = onnx.MaxPool(%t) {kernel_shape = array<i64: 3, 3>, pads = array<i64: 1, 1, 1, 1>} : (tensor<1x48x4x4xf32>) -> tensor<1x48x4x4xf32>
  func.return %y : tensor<1x48x4x4xf32>
}

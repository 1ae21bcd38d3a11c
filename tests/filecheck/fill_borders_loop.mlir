// RUN: sofie-opt -p 'lower-onnx,dce,assign-layouts,fuse-elementwise,fuse-epilogue,fuse-windows{min_bytes=0},fill-borders{min_bytes=0}' %s | filecheck %s

// The padded buffer that a loop carries is filled around before the loop, and its inside by each step.
// CHECK: outs(%{{.*}} : tensor<1x1x6x16xf32>)
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[0, 0, 0, 0] [1, 1, 6, 16]
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[0, 5, 0, 0] [1, 1, 6, 16]
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[0, 1, 0, 0] [1, 4, 1, 16]
// CHECK: %[[AROUND:.*]] = tensor.insert_slice %{{.*}} into %{{.*}}[0, 1, 5, 0] [1, 4, 1, 16]
// CHECK-NOT: outs(%{{.*}} : tensor<1x6x6x16xf32>)
// CHECK: scf.for %panel = {{.*}} iter_args(%{{.*}} = %{{.*}}, %{{.*}} = %[[AROUND]])
func.func @infer(%x : tensor<1x4x4x4xf32>) -> tensor<1x48x4x4xf32> {
  %w = sofie.weight "w" <dense<1.0> : tensor<48x4x1x1xf32>> : tensor<48x4x1x1xf32>
  %t = onnx.Conv(%x, %w) : (tensor<1x4x4x4xf32>, tensor<48x4x1x1xf32>) -> tensor<1x48x4x4xf32>
  %y = onnx.MaxPool(%t) {kernel_shape = array<i64: 3, 3>, pads = array<i64: 1, 1, 1, 1>} : (tensor<1x48x4x4xf32>) -> tensor<1x48x4x4xf32>
  func.return %y : tensor<1x48x4x4xf32>
}

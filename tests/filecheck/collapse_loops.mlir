// RUN: sofie-opt -p 'lower-onnx,fuse-epilogue,assign-destinations,bufferize,plan-memory,collapse-loops' %s | filecheck %s

// The batch of one step goes; rows and columns of the result, which lie one after the other, become one loop of 12.
// CHECK: memref.collapse_shape %{{.*}} {{\[\[}}0 : i64, 1 : i64]
// CHECK: linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>]
func.func @infer(%x : tensor<3x4xf32>) -> tensor<3x4xf32> {
  %y = onnx.Relu(%x) : (tensor<3x4xf32>) -> tensor<3x4xf32>
  func.return %y : tensor<3x4xf32>
}

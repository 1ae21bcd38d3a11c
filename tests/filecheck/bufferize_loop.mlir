// RUN: sofie-opt -p assign-destinations,bufferize %s | filecheck %s

// The loop carries nothing any more: the state is one buffer, the rows are views at the step.
// CHECK: %[[STATE:.*]] = memref.alloc() : memref<4xf32>
// CHECK: scf.for %t = %c0 to %c5 step %c1 {
// CHECK: %row = memref.subview %x[%t, 0] [1, 4] [1, 1] : memref<5x4xf32> to memref<1x4xf32, strided<[4, 1], offset: ?>>
// CHECK: %[[PUT:.*]] = memref.subview %all[%t, 0]
// CHECK: linalg.generic {{.*}} ins(%row : {{.*}}) outs(%[[STATE]], %[[PUT]] :
// CHECK-NOT: tensor
func.func @infer(%x : tensor<5x4xf32>, %h : tensor<4xf32>) -> (tensor<4xf32>, tensor<5x4xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c5 = arith.constant 5 : index
  %room = tensor.empty() : tensor<5x4xf32>
  %end, %all = scf.for %t = %c0 to %c5 step %c1 iter_args(%state = %h, %y = %room) -> (tensor<4xf32>, tensor<5x4xf32>) {
    %row = tensor.extract_slice %x[%t, 0] [1, 4] [1, 1] : tensor<5x4xf32> to tensor<1x4xf32>
    %e = tensor.empty() : tensor<1x4xf32>
    %next, %out = linalg.generic {indexing_maps = [affine_map<(d0) -> (0, d0)>, affine_map<(d0) -> (d0)>, affine_map<(d0) -> (0, d0)>], iterator_types = ["parallel"]} ins(%row : tensor<1x4xf32>) outs(%state, %e : tensor<4xf32>, tensor<1x4xf32>) {
    ^bb0(%a: f32, %old: f32, %unread: f32):
      %s = arith.addf %a, %old : f32
      linalg.yield %s, %s : f32, f32
    } -> (tensor<4xf32>, tensor<1x4xf32>)
    %put = tensor.insert_slice %out into %y[%t, 0] [1, 4] [1, 1] : tensor<1x4xf32> into tensor<5x4xf32>
    scf.yield %next, %put : tensor<4xf32>, tensor<5x4xf32>
  }
  func.return %end, %all : tensor<4xf32>, tensor<5x4xf32>
}

// RUN: sofie-opt -p assign-destinations %s | filecheck %s

// The state starts as a copy, since the input is not ours; each row is computed in its place in the result.
// CHECK: %[[START:.*]] = linalg.generic {{.*}} ins(%h : {{.*}}) outs(
// CHECK: scf.for %t = {{.*}} iter_args(%state = %[[START]], %y = %all)
// CHECK: %[[ROW:.*]] = tensor.extract_slice %y[%t, 0] [1, 4] [1, 1] {sofie.destination}
// CHECK: linalg.generic {{.*}} outs(%state, %[[ROW]] :
// CHECK-NOT: linalg.generic
// CHECK: scf.yield
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

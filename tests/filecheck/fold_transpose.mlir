// RUN: sofie-opt -p fold-transpose %s | filecheck %s

// The product reads x itself, column by column; the transpose is gone.
// CHECK-DAG: affine_map<(d0, d1, d2) -> (d2, d0)>
// CHECK-NOT: linalg.yield %in :
// CHECK: ins(%x, %w : tensor<3x5xf32>, tensor<3x4xf32>)
func.func @infer(%x : tensor<3x5xf32>, %w : tensor<3x4xf32>) -> tensor<5x4xf32> {
  %e = tensor.empty() : tensor<5x3xf32>
  %t = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d1, d0)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} ins(%x : tensor<3x5xf32>) outs(%e : tensor<5x3xf32>) {
  ^bb0(%in : f32, %out : f32):
    linalg.yield %in : f32
  } -> tensor<5x3xf32>
  %zero = arith.constant 0.0 : f32
  %f = tensor.empty() : tensor<5x4xf32>
  %start = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} outs(%f : tensor<5x4xf32>) {
  ^bb0(%out : f32):
    linalg.yield %zero : f32
  } -> tensor<5x4xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d2)>, affine_map<(d0, d1, d2) -> (d2, d1)>, affine_map<(d0, d1, d2) -> (d0, d1)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%t, %w : tensor<5x3xf32>, tensor<3x4xf32>) outs(%start : tensor<5x4xf32>) {
  ^bb0(%a : f32, %b : f32, %acc : f32):
    %p = arith.mulf %a, %b : f32
    %s = arith.addf %acc, %p : f32
    linalg.yield %s : f32
  } -> tensor<5x4xf32>
  func.return %y : tensor<5x4xf32>
}

// RUN: sofie-opt -p assign-destinations %s | filecheck %s

// Two values that a loop carries start as one: the first gets a copy of its own, or the steps of both would mix.
// CHECK: %[[ZEROS:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<4xf32>)
// CHECK: %[[OWN:.*]] = linalg.generic {{.*}} ins(%[[ZEROS]] : tensor<4xf32>)
// CHECK: scf.for %t = {{.*}} iter_args(%a = %[[OWN]], %b = %[[ZEROS]])
func.func @infer() -> (tensor<4xf32>, tensor<4xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %five = arith.constant 5 : index
  %room = tensor.empty() : tensor<4xf32>
  %zeros = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%room : tensor<4xf32>) {
  ^bb0(%o : f32):
    %c = arith.constant 0.0 : f32
    linalg.yield %c : f32
  } -> tensor<4xf32>
  %x, %y = scf.for %t = %zero to %five step %one iter_args(%a = %zeros, %b = %zeros) -> (tensor<4xf32>, tensor<4xf32>) {
    %m = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%a : tensor<4xf32>) {
    ^bb1(%p : f32):
      %d = arith.constant 1.0 : f32
      %s = arith.addf %p, %d : f32
      linalg.yield %s : f32
    } -> tensor<4xf32>
    %n = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%b : tensor<4xf32>) {
    ^bb2(%q : f32):
      %e = arith.constant 2.0 : f32
      %u = arith.addf %q, %e : f32
      linalg.yield %u : f32
    } -> tensor<4xf32>
    scf.yield %m, %n : tensor<4xf32>, tensor<4xf32>
  }
  func.return %x, %y : tensor<4xf32>, tensor<4xf32>
}

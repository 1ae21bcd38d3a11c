// RUN: sofie-opt -p fuse-decode %s | filecheck %s

// The weights whose outputs lie along the lanes stay codes; those of the other product, whose outputs are its first
// axis, become floats.
// CHECK-DAG: %[[CODES:.*]] = sofie.weight "w" <{{.*}}> : tensor<2x4xi16>
// CHECK-DAG: %[[FLOATS:.*]] = sofie.weight "w" <{{.*}}> : tensor<2x4xf32>
// CHECK: linalg.generic {{.*}} ins(%x, %[[CODES]] : tensor<3x2xf32>, tensor<2x4xi16>)
// CHECK: "sofie.decode"(%{{.*}}) <{format = "f16"}> : (i16) -> f32
// CHECK: arith.mulf
// CHECK: linalg.generic {{.*}} ins(%x, %[[FLOATS]] : tensor<3x2xf32>, tensor<2x4xf32>)
// CHECK-NOT: sofie.decode
func.func @infer(%x : tensor<3x2xf32>) -> (tensor<3x4xf32>, tensor<4x3xf32>) {
  %w = sofie.weight "w" <dense<15360> : tensor<2x4xi16>> : tensor<2x4xi16>
  %room = tensor.empty() : tensor<2x4xf32>
  %f = linalg.generic {indexing_maps = [affine_map<(a, b) -> (a, b)>, affine_map<(a, b) -> (a, b)>], iterator_types = ["parallel", "parallel"]} ins(%w : tensor<2x4xi16>) outs(%room : tensor<2x4xf32>) {
  ^bb0(%code : i16, %0 : f32):
    %number = "sofie.decode"(%code) <{format = "f16"}> : (i16) -> f32
    linalg.yield %number : f32
  } -> tensor<2x4xf32>
  %start = tensor.empty() : tensor<3x4xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%x, %f : tensor<3x2xf32>, tensor<2x4xf32>) outs(%start : tensor<3x4xf32>) {
  ^bb0(%a : f32, %b : f32, %s : f32):
    %p = arith.mulf %a, %b : f32
    %t = arith.addf %s, %p : f32
    linalg.yield %t : f32
  } -> tensor<3x4xf32>
  %begin = tensor.empty() : tensor<4x3xf32>
  %z = linalg.generic {indexing_maps = [affine_map<(n, m, k) -> (m, k)>, affine_map<(n, m, k) -> (k, n)>, affine_map<(n, m, k) -> (n, m)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%x, %f : tensor<3x2xf32>, tensor<2x4xf32>) outs(%begin : tensor<4x3xf32>) {
  ^bb0(%a : f32, %b : f32, %s : f32):
    %p = arith.mulf %a, %b : f32
    %t = arith.addf %s, %p : f32
    linalg.yield %t : f32
  } -> tensor<4x3xf32>
  func.return %y, %z : tensor<3x4xf32>, tensor<4x3xf32>
}

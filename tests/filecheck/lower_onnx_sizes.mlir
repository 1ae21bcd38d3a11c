// RUN: sofie-opt -p lower-onnx %s | filecheck %s

// Extents of the run stand beside the type; a mean divides by their number, a Concat starts where the first part ends.
// CHECK: tensor.empty(%{{.*}}) : tensor<?x3xf32, #sofie.sizes<"2*n, 3", "n=1..16">>
// CHECK: tensor.insert_slice %x into %{{.*}}[0, 0] [%n, 3] [1, 1]
// CHECK: tensor.insert_slice %x into %{{.*}}[%n, 0] [%n, 3] [1, 1]
// CHECK: arith.index_cast %{{.*}} : index to i64
// CHECK: %[[COUNT:.*]] = arith.sitofp %{{.*}} : i64 to f32
// CHECK: arith.divf %{{.*}}, %[[COUNT]] : f32
func.func @infer(%n : index {sofie.size = #sofie.sizes<"n", "n=1..16">}, %x : tensor<?x3xf32, #sofie.sizes<"n, 3", "n=1..16">>) -> tensor<1x3xf32> {
  %axis = sofie.weight "axis" <dense<0> : tensor<1xi64>> : tensor<1xi64>
  %c = onnx.Concat(%x, %x) {axis = 0 : i64} : (tensor<?x3xf32, #sofie.sizes<"n, 3", "n=1..16">>, tensor<?x3xf32, #sofie.sizes<"n, 3", "n=1..16">>) -> tensor<?x3xf32, #sofie.sizes<"2*n, 3", "n=1..16">>
  %y = onnx.ReduceMean(%c, %axis) : (tensor<?x3xf32, #sofie.sizes<"2*n, 3", "n=1..16">>, tensor<1xi64>) -> tensor<1x3xf32>
  func.return %y : tensor<1x3xf32>
}

// RUN: sofie-opt -p 'lower-onnx,fuse-epilogue,assign-destinations,bufferize,plan-memory,lower-loops,vectorize{cpu=portable tile=2}' %s | filecheck %s

// Two rows by two vectors of four: four sums in registers, each loaded vector used twice.
// CHECK: scf.for %j = {{.*}} {
// CHECK: scf.for %i = {{.*}} {
// CHECK: iter_args(%sum0a = %{{.*}}, %sum0b = %{{.*}}, %sum1a = %{{.*}}, %sum1b = %{{.*}}) -> (vector<4xf32>, vector<4xf32>, vector<4xf32>, vector<4xf32>)
// CHECK-COUNT-2: vector.load
// CHECK: vector.store
func.func @infer(%x : tensor<4x3xf32>) -> tensor<4x16xf32> {
  %w = sofie.weight "w" <"aa"> : tensor<3x16xf32>
  %y = onnx.MatMul(%x, %w) : (tensor<4x3xf32>, tensor<3x16xf32>) -> tensor<4x16xf32>
  func.return %y : tensor<4x16xf32>
}

// RUN: sofie-opt -p 'lower-onnx,fuse-epilogue,assign-destinations,bufferize,plan-memory,lower-loops,vectorize{cpu=portable tile=2}' %s | filecheck %s

// Two rows by four vectors of four: eight sums in registers, each loaded vector used twice.
// CHECK: scf.for %i = {{.*}} {
// CHECK: iter_args(%sum0a = %{{.*}}, %sum0b = %{{.*}}, %sum0c = %{{.*}}, %sum0d = %{{.*}}, %sum1a = %{{.*}}, %sum1b = %{{.*}}, %sum1c = %{{.*}}, %sum1d = %{{.*}})
// CHECK-COUNT-4: vector.load
// CHECK-COUNT-8: vector.store
func.func @infer(%x : tensor<4x3xf32>) -> tensor<4x16xf32> {
  %w = sofie.weight "w" <"aa"> : tensor<3x16xf32>
  %y = onnx.MatMul(%x, %w) : (tensor<4x3xf32>, tensor<3x16xf32>) -> tensor<4x16xf32>
  func.return %y : tensor<4x16xf32>
}

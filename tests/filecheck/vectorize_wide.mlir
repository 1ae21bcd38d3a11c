// RUN: sofie-opt -p 'lower-onnx,fuse-epilogue,assign-destinations,bufferize,plan-memory,lower-loops,vectorize{cpu=x86-64-v4}' %s | filecheck %s

// 27 vectors of 16 side by side: what comes after the 26th letter is a name too.
// CHECK: iter_args(%suma = %{{.*}}, {{.*}}, %sumz = %{{.*}}, %sumaa = %{{.*}})
// CHECK-COUNT-27: vector.load
func.func @infer(%x : tensor<7x432xf32>) -> tensor<432xf32> {
  %axes = sofie.weight "axes" <dense<0> : tensor<1xi64>> : tensor<1xi64>
  %y = onnx.ReduceSum(%x, %axes) {keepdims = 0 : i64} : (tensor<7x432xf32>, tensor<1xi64>) -> tensor<432xf32>
  func.return %y : tensor<432xf32>
}

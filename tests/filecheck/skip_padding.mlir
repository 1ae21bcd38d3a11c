// RUN: sofie-opt -p 'lower-onnx,dce,assign-layouts,fuse-epilogue,fill-borders{min_bytes=0},assign-destinations,bufferize,plan-memory,collapse-loops,skip-padding,lower-loops' %s | filecheck %s

// Two rows of zeros above nine of the image and one below: the first sums start at the third row of the kernel, and
// the last ends before its last.
// CHECK: %[[END:.*]] = arith.constant 11 : index
// CHECK: %[[TWO:.*]] = arith.constant 2 : index
// CHECK: %[[FOUR:.*]] = arith.constant 4 : index
// CHECK: %[[ZERO:.*]] = arith.constant 0 : index
// CHECK: ^bb0(%[[ROW:.*]]: index, %{{.*}}: index, %{{.*}}: index):
// CHECK: %[[ABOVE:.*]] = arith.subi %[[TWO]], %[[ROW]] : index
// CHECK: %[[LOW:.*]] = arith.maxsi %[[ABOVE]], %[[ZERO]] : index
// CHECK: %[[BELOW:.*]] = arith.subi %[[END]], %[[ROW]] : index
// CHECK: %[[HIGH:.*]] = arith.minsi %[[BELOW]], %[[FOUR]] : index
// CHECK: scf.for %k = %[[LOW]] to %[[HIGH]] step
func.func @infer(%x : tensor<1x4x9x9xf32>) -> tensor<1x8x9x9xf32> {
  %w = sofie.weight "w" <dense<1.0> : tensor<8x4x4x4xf32>> : tensor<8x4x4x4xf32>
  %y = onnx.Conv(%x, %w) {pads = array<i64: 2, 2, 1, 1>} : (tensor<1x4x9x9xf32>, tensor<8x4x4x4xf32>) -> tensor<1x8x9x9xf32>
  func.return %y : tensor<1x8x9x9xf32>
}

// RUN: sofie-opt -p transpose-weights %s | filecheck %s

// Five sums of 64 terms: what a warp reads of the weights is a row of the transposed matrix.
// CHECK: func.func private @product(%x: memref<64xf32>, %w: memref<5x64xf32>, %y: memref<5xf32>)
// CHECK: memref.load %w[%j, %k] : memref<5x64xf32>
// CHECK: sofie.weight "w" {{.*}} : memref<5x64xf32>
func.func private @product(%x : memref<64xf32>, %w : memref<64x5xf32>, %y : memref<5xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %columns = arith.constant 5 : index
  %terms = arith.constant 64 : index
  "scf.parallel"(%zero, %columns, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%j : index):
    %start = arith.constant 0.0 : f32
    %sum = scf.for %k = %zero to %terms step %one iter_args(%acc = %start) -> (f32) {
      %a = memref.load %x[%k] : memref<64xf32>
      %b = memref.load %w[%k, %j] : memref<64x5xf32>
      %c = arith.mulf %a, %b : f32
      %next = arith.addf %acc, %c : f32
      scf.yield %next : f32
    }
    memref.store %sum, %y[%j] : memref<5xf32>
    scf.reduce
  }) : (index, index, index) -> ()
  func.return
}
func.func @infer(%x : memref<64xf32>, %y : memref<5xf32>) {
  %w = sofie.weight "w" <dense<1.0> : tensor<64x5xf32>> : memref<64x5xf32>
  func.call @product(%x, %w, %y) : (memref<64xf32>, memref<64x5xf32>, memref<5xf32>) -> ()
  func.return
}

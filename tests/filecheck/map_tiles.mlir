// RUN: sofie-opt -p map-tiles %s | filecheck %s

// 200 x 256 results are 7 x 8 tiles of 32 x 32, and the last row of tiles is not full: what is beyond the end is zero.
// CHECK: gpu.func
// CHECK: ^bb0(%x: memref<200x64xf32>, %w: memref<64x256xf32>, %y: memref<200x256xf32>):
// CHECK: %a = memref.alloca() : memref<2x16x36xf32, 3 : i64>
// CHECK: %sums = memref.alloca() : memref<2x2xf32>
// CHECK: scf.for %step =
// CHECK: %row = arith.addi %first_row
// CHECK: %[[THERE:.*]] = arith.cmpi slt, %row
// CHECK: scf.if %[[THERE]] -> (f32) {
// CHECK: memref.load %x[%row, %term]
// CHECK: memref.store %{{.*}}, %next_a[%n, %{{.*}}]
// CHECK: scf.for %k =
// CHECK: memref.load %a[%other, %k,
// CHECK: memref.store %{{.*}}, %a[%half,
// CHECK: "gpu.barrier"
// CHECK: sofie.rolled
// CHECK: memref.load %sums[%{{.*}}, %{{.*}}]
// CHECK: memref.store %{{.*}}, %y[
// CHECK: nvvm.minctasm = 2 : i32
// CHECK-DAG: %[[BLOCKS:.*]] = arith.constant 56 : index
// CHECK-DAG: arith.constant 9216 : i32
// CHECK: "gpu.launch_func"(%[[BLOCKS]],
func.func private @product(%x : memref<200x64xf32>, %w : memref<64x256xf32>, %y : memref<200x256xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %rows = arith.constant 200 : index
  %columns = arith.constant 256 : index
  %terms = arith.constant 64 : index
  "scf.parallel"(%zero, %zero, %rows, %columns, %one, %one) <{operandSegmentSizes = array<i32: 2, 2, 2, 0>}> ({
  ^bb0(%i : index, %j : index):
    %start = arith.constant 0.0 : f32
    %sum = scf.for %k = %zero to %terms step %one iter_args(%acc = %start) -> (f32) {
      %a = memref.load %x[%i, %k] : memref<200x64xf32>
      %b = memref.load %w[%k, %j] : memref<64x256xf32>
      %c = arith.mulf %a, %b : f32
      %next = arith.addf %acc, %c : f32
      scf.yield %next : f32
    }
    memref.store %sum, %y[%i, %j] : memref<200x256xf32>
    scf.reduce
  }) : (index, index, index, index, index, index) -> ()
  func.return
}
func.func @infer(%x : memref<200x64xf32>, %w : memref<64x256xf32>, %y : memref<200x256xf32>) {
  func.call @product(%x, %w, %y) : (memref<200x64xf32>, memref<64x256xf32>, memref<200x256xf32>) -> ()
  func.return
}

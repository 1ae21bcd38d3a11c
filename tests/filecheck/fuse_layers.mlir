// RUN: sofie-opt -p 'fuse-layers{rows=64}' %s | filecheck %s

// Two layers of 100 rows are one kernel of two blocks of 64: what lies between stays in the block's memory, and the arena
// is empty.
// CHECK: gpu.func
// CHECK: ^bb0(%x: memref<100x8xf32>, %w: memref<8x20xf32>, %v: memref<20x4xf32>, %y: memref<100x4xf32>):
// CHECK: %act = memref.alloca() : memref<32x68xf32, 3 : i64>
// CHECK: %stage = memref.alloca() : memref<2x16x36xf32, 3 : i64>
// CHECK: memref.load %x[
// CHECK: memref.store %{{.*}}, %act[
// CHECK: "gpu.barrier"
// CHECK: memref.load %w[
// CHECK: memref.store %{{.*}}, %act[
// CHECK: "gpu.barrier"
// CHECK: memref.load %v[
// CHECK: memref.store %{{.*}}, %y[
// CHECK: func.func @infer({{.*}}%arena: memref<0xi8>
// CHECK-DAG: %[[BLOCKS:.*]] = arith.constant 2 : index
// CHECK: "gpu.launch_func"(%[[BLOCKS]],
// CHECK-NOT: func.call
func.func private @first(%x : memref<100x8xf32>, %w : memref<8x20xf32>, %h : memref<100x20xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %rows = arith.constant 100 : index
  %columns = arith.constant 20 : index
  %terms = arith.constant 8 : index
  "scf.parallel"(%zero, %zero, %rows, %columns, %one, %one) <{operandSegmentSizes = array<i32: 2, 2, 2, 0>}> ({
  ^bb0(%i : index, %j : index):
    %start = arith.constant 0.0 : f32
    %sum = scf.for %k = %zero to %terms step %one iter_args(%acc = %start) -> (f32) {
      %a = memref.load %x[%i, %k] : memref<100x8xf32>
      %b = memref.load %w[%k, %j] : memref<8x20xf32>
      %c = arith.mulf %a, %b : f32
      %next = arith.addf %acc, %c : f32
      scf.yield %next : f32
    }
    memref.store %sum, %h[%i, %j] : memref<100x20xf32>
    scf.reduce
  }) : (index, index, index, index, index, index) -> ()
  func.return
}
func.func private @second(%h : memref<100x20xf32>, %v : memref<20x4xf32>, %y : memref<100x4xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %rows = arith.constant 100 : index
  %columns = arith.constant 4 : index
  %terms = arith.constant 20 : index
  "scf.parallel"(%zero, %zero, %rows, %columns, %one, %one) <{operandSegmentSizes = array<i32: 2, 2, 2, 0>}> ({
  ^bb0(%i : index, %j : index):
    %start = arith.constant 0.0 : f32
    %sum = scf.for %k = %zero to %terms step %one iter_args(%acc = %start) -> (f32) {
      %a = memref.load %h[%i, %k] : memref<100x20xf32>
      %b = memref.load %v[%k, %j] : memref<20x4xf32>
      %c = arith.mulf %a, %b : f32
      %next = arith.addf %acc, %c : f32
      scf.yield %next : f32
    }
    memref.store %sum, %y[%i, %j] : memref<100x4xf32>
    scf.reduce
  }) : (index, index, index, index, index, index) -> ()
  func.return
}
func.func @infer(%x : memref<100x8xf32>, %w : memref<8x20xf32>, %v : memref<20x4xf32>, %y : memref<100x4xf32>, %arena : memref<8000xi8> {sofie.arena}) {
  %at = arith.constant 0 : index
  %h = memref.view %arena[%at][] : memref<8000xi8> to memref<100x20xf32>
  func.call @first(%x, %w, %h) : (memref<100x8xf32>, memref<8x20xf32>, memref<100x20xf32>) -> ()
  func.call @second(%h, %v, %y) : (memref<100x20xf32>, memref<20x4xf32>, memref<100x4xf32>) -> ()
  func.return
}

// RUN: sofie-opt -p map-rows %s | filecheck %s

// Three rows of 80: a warp each, 80 = 2 turns of 32 lanes and half of a third; what is computed of an element stays in
// a register of its lane; one lane writes the sum.
// CHECK: gpu.func
// CHECK: ^bb0(%x: memref<3x80xf32>, %y: memref<3x80xf32>, %s: memref<3xf32>):
// CHECK: %lane = "gpu.lane_id"
// CHECK: %row = arith.divui %thread
// CHECK: %kept = memref.alloca() : memref<3xf32>
// CHECK: scf.for %turn =
// CHECK: %[[PLACE:.*]] = arith.addi %{{.*}}, %lane : index
// CHECK: %[[INSIDE:.*]] = arith.cmpi slt, %[[PLACE]], %{{.*}} : index
// CHECK: scf.if %[[INSIDE]]
// CHECK: memref.store %{{.*}}, %kept[%turn]
// CHECK: sofie.unroll
// CHECK: %[[PART:.*]] = scf.for
// CHECK: %[[SUM:.*]] = "gpu.subgroup_reduce"(%[[PART]]) <{op = #gpu<all_reduce_op add>, uniform}>
// CHECK: %[[FIRST:.*]] = arith.cmpi slt, %lane, %{{.*}} : index
// CHECK: scf.if %[[FIRST]]
// CHECK: memref.store %[[SUM]], %s[%row]
func.func private @rows(%x : memref<3x80xf32>, %y : memref<3x80xf32>, %s : memref<3xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %three = arith.constant 3 : index
  %eighty = arith.constant 80 : index
  "scf.parallel"(%zero, %three, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%i : index):
    %kept = memref.alloca() : memref<80xf32>
    "scf.parallel"(%zero, %eighty, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
    ^bb1(%j : index):
      %a = memref.load %x[%i, %j] : memref<3x80xf32>
      %e = math.exp %a : f32
      memref.store %e, %kept[%j] : memref<80xf32>
      scf.reduce
    }) : (index, index, index) -> ()
    %start = arith.constant 0.0 : f32
    %sum = scf.for %k = %zero to %eighty step %one iter_args(%acc = %start) -> (f32) {
      %e = memref.load %kept[%k] : memref<80xf32>
      %next = arith.addf %acc, %e : f32
      scf.yield %next : f32
    }
    memref.store %sum, %s[%i] : memref<3xf32>
    scf.reduce
  }) : (index, index, index) -> ()
  func.return
}
func.func @infer(%x : memref<3x80xf32>, %y : memref<3x80xf32>, %s : memref<3xf32>) {
  func.call @rows(%x, %y, %s) : (memref<3x80xf32>, memref<3x80xf32>, memref<3xf32>) -> ()
  func.return
}

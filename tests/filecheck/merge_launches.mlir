// RUN: sofie-opt -p merge-launches %s | filecheck %s

// Two small kernels and a loop of one are a launch of one block, with barriers between; arguments may overlap.
// CHECK: gpu.func
// CHECK: ^bb0(%x: memref<40xf32>, %y: memref<40xf32>):
// CHECK: %thread = "gpu.thread_id"
// CHECK: %[[INSIDE:.*]] = arith.cmpi slt, %thread, %{{.*}} : index
// CHECK: scf.if %[[INSIDE]]
// CHECK: memref.store %{{.*}}, %y[%thread]
// CHECK: "gpu.barrier"
// CHECK: scf.for %t =
// CHECK: "gpu.barrier"
// CHECK: sofie.aliased
// CHECK: func.func @infer
// CHECK: %[[ONE:[0-9]+]] = arith.constant 1 : index
// CHECK: %[[THREADS:.*]] = arith.constant 64 : index
// CHECK: "gpu.launch_func"(%[[ONE]], %[[ONE]], %[[ONE]], %[[THREADS]],
func.func private @copy(%x : memref<40xf32>, %y : memref<40xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %forty = arith.constant 40 : index
  "scf.parallel"(%zero, %forty, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%i : index):
    %a = memref.load %x[%i] : memref<40xf32>
    memref.store %a, %y[%i] : memref<40xf32>
    scf.reduce
  }) : (index, index, index) -> ()
  func.return
}
func.func @infer(%x : memref<40xf32>, %y : memref<40xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %nine = arith.constant 9 : index
  func.call @copy(%x, %y) : (memref<40xf32>, memref<40xf32>) -> ()
  scf.for %t = %zero to %nine step %one {
    func.call @copy(%y, %x) : (memref<40xf32>, memref<40xf32>) -> ()
  }
  func.return
}

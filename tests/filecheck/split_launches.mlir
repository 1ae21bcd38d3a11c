// RUN: sofie-opt -p split-launches %s | filecheck %s

// Two nests, two kernels; each takes what it touches.
// CHECK: func.func private @both(%x: memref<4xf32>, %y: memref<4xf32>)
// CHECK: memref.store %{{.*}}, %y
// CHECK: func.func private @both_1(%y: memref<4xf32>, %z: memref<4xf32>)
// CHECK: memref.store %{{.*}}, %z
// A kernel that writes nothing is gone, and its call.
// CHECK-NOT: @read
// CHECK: func.call @both(%x, %y)
// CHECK-NEXT: func.call @both_1(%y, %z)
// CHECK-NEXT: func.return
func.func private @both(%x : memref<4xf32>, %y : memref<4xf32>, %z : memref<4xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %four = arith.constant 4 : index
  "scf.parallel"(%zero, %four, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%i : index):
    %a = memref.load %x[%i] : memref<4xf32>
    memref.store %a, %y[%i] : memref<4xf32>
    scf.reduce
  }) : (index, index, index) -> ()
  "scf.parallel"(%zero, %four, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%i : index):
    %a = memref.load %y[%i] : memref<4xf32>
    memref.store %a, %z[%i] : memref<4xf32>
    scf.reduce
  }) : (index, index, index) -> ()
  func.return
}
func.func private @read(%x : memref<4xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %four = arith.constant 4 : index
  "scf.parallel"(%zero, %four, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%i : index):
    %a = memref.load %x[%i] : memref<4xf32>
    scf.reduce
  }) : (index, index, index) -> ()
  func.return
}
func.func @infer(%x : memref<4xf32>, %y : memref<4xf32>, %z : memref<4xf32>) {
  func.call @both(%x, %y, %z) : (memref<4xf32>, memref<4xf32>, memref<4xf32>) -> ()
  func.call @read(%x) : (memref<4xf32>) -> ()
  func.return
}

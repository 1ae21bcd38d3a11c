// RUN: sofie-opt -p guard-padding %s | filecheck %s

// Nobody fills the border of one element: who reads the eleventh asks whether it is one of the nine inside.
// CHECK-NOT: @fill
// CHECK: func.func private @reader(%p: memref<9xf32, strided<[1], offset: ?>>, %y: memref<11xf32>)
// CHECK: %[[MOVED:.*]] = arith.subi %i, %{{.*}} : index
// CHECK-DAG: arith.cmpi sge, %[[MOVED]], %{{.*}} : index
// CHECK-DAG: arith.cmpi slt, %[[MOVED]], %{{.*}} : index
// CHECK: scf.if %{{.*}} -> (f32) {
// CHECK-NEXT: memref.load %p[%[[MOVED]]]
// CHECK: } else {
// CHECK-NEXT: scf.yield %{{.*}} : f32
// CHECK: func.func @infer
// CHECK: func.call @writer(%x, %[[INSIDE:[a-z0-9_]+]])
// CHECK-NEXT: func.call @reader(%[[INSIDE]], %y)
func.func private @fill(%p : memref<11xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %eleven = arith.constant 11 : index
  "scf.parallel"(%zero, %eleven, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%i : index):
    %nothing = arith.constant 0.0 : f32
    memref.store %nothing, %p[%i] : memref<11xf32>
    scf.reduce
  }) : (index, index, index) -> ()
  func.return
}
func.func private @writer(%x : memref<9xf32>, %p : memref<9xf32, strided<[1], offset: ?>>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %nine = arith.constant 9 : index
  "scf.parallel"(%zero, %nine, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%i : index):
    %a = memref.load %x[%i] : memref<9xf32>
    %b = math.exp %a : f32
    memref.store %b, %p[%i] : memref<9xf32, strided<[1], offset: ?>>
    scf.reduce
  }) : (index, index, index) -> ()
  func.return
}
func.func private @reader(%p : memref<11xf32>, %y : memref<11xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %eleven = arith.constant 11 : index
  "scf.parallel"(%zero, %eleven, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%i : index):
    %a = memref.load %p[%i] : memref<11xf32>
    memref.store %a, %y[%i] : memref<11xf32>
    scf.reduce
  }) : (index, index, index) -> ()
  func.return
}
func.func @infer(%x : memref<9xf32>, %y : memref<11xf32>, %arena : memref<44xi8> {sofie.arena}) {
  %at = arith.constant 0 : index
  %p = memref.view %arena[%at][] : memref<44xi8> to memref<11xf32>
  func.call @fill(%p) : (memref<11xf32>) -> ()
  %part = memref.subview %p[1] [9] [1] : memref<11xf32> to memref<9xf32, strided<[1], offset: 1>>
  %inside = "memref.cast"(%part) : (memref<9xf32, strided<[1], offset: 1>>) -> memref<9xf32, strided<[1], offset: ?>>
  func.call @writer(%x, %inside) : (memref<9xf32>, memref<9xf32, strided<[1], offset: ?>>) -> ()
  func.call @reader(%p, %y) : (memref<11xf32>, memref<11xf32>) -> ()
  func.return
}

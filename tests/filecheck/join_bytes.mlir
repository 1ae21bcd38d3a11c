// RUN: sofie-opt -p join-bytes %s | filecheck %s

// Five terms of each of two channels: two words, the second with one byte. The weights are laid out so, with zeros
// behind them; the loop over words is the inner one.
// CHECK: func.func private @product(%x: memref<2x5xi8>, %w: memref<2x3x8xi8>, %y: memref<3xi32>)
// CHECK: scf.for %c = %{{.*}} to %{{.*}} step
// CHECK-NEXT: scf.for %k = %{{.*}} to %{{.*}} step %{{.*}} iter_args(%[[ACC:.*]] = %{{.*}}) -> (i32)
// CHECK: arith.cmpi slt, %{{.*}}, %{{.*}} : index
// CHECK: %[[X:.*]] = "sofie.join"
// CHECK: %[[W:.*]] = "sofie.load_word"(%w, %c, %j, %{{.*}}) : (memref<2x3x8xi8>, index, index, index) -> i32
// CHECK: %[[DOT:.*]] = "sofie.dot"(%{{.*}}, %[[X]], %[[W]])
// CHECK: arith.addi %[[ACC]], %[[DOT]]
// CHECK: sofie.weight "w" {{.*}} : memref<2x3x8xi8>
func.func private @product(%x : memref<2x5xi8>, %w : memref<2x5x3xi8>, %y : memref<3xi32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %channels = arith.constant 2 : index
  %columns = arith.constant 3 : index
  %terms = arith.constant 5 : index
  "scf.parallel"(%zero, %columns, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%j : index):
    %start = arith.constant 0 : i32
    %sum = scf.for %k = %zero to %terms step %one iter_args(%acc = %start) -> (i32) {
      %part = scf.for %c = %zero to %channels step %one iter_args(%inner = %acc) -> (i32) {
        %a = memref.load %x[%c, %k] : memref<2x5xi8>
        %b = memref.load %w[%c, %k, %j] : memref<2x5x3xi8>
        %u = arith.extui %a : i8 to i32
        %s = arith.extsi %b : i8 to i32
        %p = arith.muli %u, %s : i32
        %next = arith.addi %inner, %p : i32
        scf.yield %next : i32
      }
      scf.yield %part : i32
    }
    memref.store %sum, %y[%j] : memref<3xi32>
    scf.reduce
  }) : (index, index, index) -> ()
  func.return
}
func.func @infer(%x : memref<2x5xi8>, %y : memref<3xi32>) {
  %w = sofie.weight "w" <dense<1> : tensor<2x5x3xi8>> : memref<2x5x3xi8>
  func.call @product(%x, %w, %y) : (memref<2x5xi8>, memref<2x5x3xi8>, memref<3xi32>) -> ()
  func.return
}

// RUN: sofie-opt -p 'join-bytes{lanes=true}' %s | filecheck %s

// Five rows of a depthwise convolution: two words of each column, the second with one byte. Columns are written out, and
// the words of all channels lie side by side.
// CHECK: func.func private @depthwise(%x: memref<5x2x16xi8>, %w: memref<2x2x16x4xi8>, %y: memref<16xi32>)
// CHECK-NOT: scf.for
// CHECK: %[[X:.*]] = "sofie.join"(%{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}) : (i8, i8, i8, i8) -> i32
// CHECK: %[[W:.*]] = "sofie.load_word"(%w, %[[ZERO:.*]], %[[ZERO]], %c, %[[ZERO]])
// CHECK: %[[FIRST:.*]] = "sofie.dot"(%{{.*}}, %[[X]], %[[W]])
// CHECK: %[[REST:.*]] = "sofie.join"(%{{.*}}) : (i8) -> i32
// CHECK: %[[SECOND:.*]] = "sofie.dot"(%[[FIRST]], %[[REST]], %{{.*}})
// CHECK: "sofie.dot"(%[[SECOND]]
// CHECK: sofie.weight "w" {{.*}} : memref<2x2x16x4xi8>
func.func private @depthwise(%x : memref<5x2x16xi8>, %w : memref<5x2x16xi8>, %y : memref<16xi32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %columns = arith.constant 2 : index
  %rows = arith.constant 5 : index
  %channels = arith.constant 16 : index
  "scf.parallel"(%zero, %channels, %one) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%c : index):
    %start = arith.constant 0 : i32
    %sum = scf.for %k = %zero to %rows step %one iter_args(%acc = %start) -> (i32) {
      %part = scf.for %j = %zero to %columns step %one iter_args(%inner = %acc) -> (i32) {
        %a = memref.load %x[%k, %j, %c] : memref<5x2x16xi8>
        %b = memref.load %w[%k, %j, %c] : memref<5x2x16xi8>
        %u = arith.extui %a : i8 to i32
        %s = arith.extsi %b : i8 to i32
        %p = arith.muli %u, %s : i32
        %next = arith.addi %inner, %p : i32
        scf.yield %next : i32
      }
      scf.yield %part : i32
    }
    memref.store %sum, %y[%c] : memref<16xi32>
    scf.reduce
  }) : (index, index, index) -> ()
  func.return
}
func.func @infer(%x : memref<5x2x16xi8>, %y : memref<16xi32>) {
  %w = sofie.weight "w" <dense<1> : tensor<5x2x16xi8>> : memref<5x2x16xi8>
  func.call @depthwise(%x, %w, %y) : (memref<5x2x16xi8>, memref<5x2x16xi8>, memref<16xi32>) -> ()
  func.return
}

// RUN: sofie-opt -p 'round-lanes{cpu=x86-64-v2}' %s | filecheck %s

// Of 10 channels two vectors and two numbers are made float32; 8 bytes side by side are one operation, the others not.
// CHECK-LABEL: func.func @infer
// CHECK: %steps = memref.alloca() {{.*}} : memref<10xf32>
// CHECK: scf.for %lane =
// CHECK-NEXT: %[[SCALE:.*]] = vector.load %scale[%lane, {{.*}}] : memref<10x1xf64>, vector<4xf64>
// CHECK: %[[TIMES:.*]] = arith.mulf %[[SCALE]], %{{.*}} : vector<4xf64>
// CHECK-NEXT: %[[SINGLE:.*]] = "sofie.cast_lanes"(%[[TIMES]]) <{cast = "arith.truncf"}>
// CHECK-NEXT: vector.store %[[SINGLE]], %steps[%lane]
// CHECK: scf.for %lane
// CHECK: arith.truncf
// CHECK: scf.for %i =
// CHECK-DAG: %[[A:.*]] = vector.load %steps[%l] : memref<10xf32>, vector<4xf32>
// CHECK-DAG: %[[B:.*]] = vector.load %steps[%next] : memref<10xf32>, vector<4xf32>
// CHECK: %[[BOTH:.*]] = "sofie.requantize_lanes"(%low, %high, %[[A]], %[[B]], %{{.*}}, %{{.*}}, %scale, %l, %{{.*}}, %offset)
// CHECK-SAME: vector<8xi8>
// CHECK-NEXT: vector.store %[[BOTH]], %y[%i, %l]
// CHECK: "sofie.requantize_lanes"(%low
// CHECK-SAME: least = -5
// CHECK-SAME: vector<4xi8>
// CHECK: "sofie.requantize_lanes"(%high
// CHECK-SAME: least = -7
// CHECK-NOT: sofie.requantize"
func.func @infer(%x : memref<3x10xi32>, %scale : memref<10x1xf64>, %y : memref<3x10xi8>, %z : memref<3x10xi8>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %two = arith.constant 2 : index
  %three = arith.constant 3 : index
  %four = arith.constant 4 : index
  %eight = arith.constant 8 : index
  %offset = arith.constant 0.25 : f64
  scf.for %i = %zero to %three step %one {
    scf.for %l = %zero to %two step %eight {
      %next = arith.addi %l, %four : index
      %low = vector.load %x[%i, %l] : memref<3x10xi32>, vector<4xi32>
      %high = vector.load %x[%i, %next] : memref<3x10xi32>, vector<4xi32>
      %s = vector.load %scale[%l, %zero] : memref<10x1xf64>, vector<4xf64>
      %t = vector.load %scale[%next, %zero] : memref<10x1xf64>, vector<4xf64>
      %o = vector.broadcast %offset : f64 to vector<4xf64>
      %a = "sofie.requantize"(%low, %s, %o) <{zero = 3 : i32, least = 0 : i32, most = 255 : i32}> : (vector<4xi32>, vector<4xf64>, vector<4xf64>) -> vector<4xi8>
      %b = "sofie.requantize"(%high, %t, %o) <{zero = 3 : i32, least = 0 : i32, most = 255 : i32}> : (vector<4xi32>, vector<4xf64>, vector<4xf64>) -> vector<4xi8>
      vector.store %a, %y[%i, %l] : memref<3x10xi8>, vector<4xi8>
      vector.store %b, %y[%i, %next] : memref<3x10xi8>, vector<4xi8>
      %c = "sofie.requantize"(%low, %s, %o) <{zero = 3 : i32, least = -5 : i32, most = 100 : i32}> : (vector<4xi32>, vector<4xf64>, vector<4xf64>) -> vector<4xi8>
      %d = "sofie.requantize"(%high, %t, %o) <{zero = 3 : i32, least = -7 : i32, most = 100 : i32}> : (vector<4xi32>, vector<4xf64>, vector<4xf64>) -> vector<4xi8>
      vector.store %c, %z[%i, %l] : memref<3x10xi8>, vector<4xi8>
      vector.store %d, %z[%i, %next] : memref<3x10xi8>, vector<4xi8>
    }
  }
  func.return
}

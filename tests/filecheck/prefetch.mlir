// RUN: sofie-opt -p 'prefetch{min_bytes=4096}' %s | filecheck %s

// Panels of 96 x 16 weights, 24 rows in 4 tiles of 6: each tile asks for a fourth, 4 elements a step, of the next panel.
// CHECK-LABEL: func.func @product
// CHECK-DAG: %[[PANEL:.*]] = arith.constant 1536 : index
// CHECK-DAG: %[[PART:.*]] = arith.constant 64 : index
// CHECK-DAG: %[[STEP:.*]] = arith.constant -12 : index
// CHECK: scf.for %k =
// CHECK-NEXT: %[[LOADED:.*]] = vector.load
// CHECK-NEXT: %[[A:.*]] = arith.muli %k, %[[STEP]]
// CHECK-NEXT: %[[B:.*]] = arith.addi %zero, %[[A]]
// CHECK-NEXT: %[[C:.*]] = arith.muli %i, %[[PART]]
// CHECK-NEXT: %[[D:.*]] = arith.addi %[[B]], %[[C]]
// CHECK-NEXT: %[[E:.*]] = arith.addi %[[D]], %[[PANEL]]
// CHECK-NEXT: memref.prefetch %w[%panel, %k, %[[E]]], read, locality<2>, data : memref<3x96x16xf32>
func.func @product(%w : memref<3x96x16xf32>, %x : memref<24x96xf32>, %y : memref<24x48xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %three = arith.constant 3 : index
  %six = arith.constant 6 : index
  %sixteen = arith.constant 16 : index
  %rows = arith.constant 24 : index
  %terms = arith.constant 96 : index
  %none = arith.constant dense<0.0> : vector<16xf32>
  scf.for %panel = %zero to %three step %one {
    scf.for %i = %zero to %rows step %six {
      %sum = scf.for %k = %zero to %terms step %one iter_args(%s = %none) -> (vector<16xf32>) {
        %a = vector.load %w[%panel, %k, %zero] : memref<3x96x16xf32>, vector<16xf32>
        %b = memref.load %x[%i, %k] : memref<24x96xf32>
        %all = vector.broadcast %b : f32 to vector<16xf32>
        %p = arith.mulf %a, %all : vector<16xf32>
        %t = arith.addf %s, %p : vector<16xf32>
        scf.yield %t : vector<16xf32>
      }
      %j = arith.muli %panel, %sixteen : index
      vector.store %sum, %y[%i, %j] : memref<24x48xf32>, vector<16xf32>
    }
  }
  func.return
}

// One row: a stream through the weights, which the hardware follows by itself.
// CHECK-LABEL: func.func @stream
// CHECK-NOT: memref.prefetch
func.func @stream(%w : memref<3x96x16xf32>, %x : memref<96xf32>, %y : memref<48xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %three = arith.constant 3 : index
  %sixteen = arith.constant 16 : index
  %terms = arith.constant 96 : index
  %none = arith.constant dense<0.0> : vector<16xf32>
  scf.for %panel = %zero to %three step %one {
    %sum = scf.for %k = %zero to %terms step %one iter_args(%s = %none) -> (vector<16xf32>) {
      %a = vector.load %w[%panel, %k, %zero] : memref<3x96x16xf32>, vector<16xf32>
      %b = memref.load %x[%k] : memref<96xf32>
      %all = vector.broadcast %b : f32 to vector<16xf32>
      %p = arith.mulf %a, %all : vector<16xf32>
      %t = arith.addf %s, %p : vector<16xf32>
      scf.yield %t : vector<16xf32>
    }
    %j = arith.muli %panel, %sixteen : index
    vector.store %sum, %y[%j] : memref<48xf32>, vector<16xf32>
  }
  func.return
}

// Two tiles, one after the other: each asks for a half of the next panel.
// CHECK-LABEL: func.func @uneven
// CHECK-DAG: %[[FIRST:.*]] = arith.constant 1536 : index
// CHECK-DAG: %[[SECOND:.*]] = arith.constant 2304 : index
// CHECK-DAG: %[[BACK:.*]] = arith.constant -8 : index
// CHECK: arith.muli %k, %[[BACK]]
// CHECK: %[[AT:.*]] = arith.addi %{{.*}}, %[[FIRST]]
// CHECK-NEXT: memref.prefetch %w[%panel, %k, %[[AT]]]
// CHECK: arith.muli %k_1, %[[BACK]]
// CHECK: %[[THEN:.*]] = arith.addi %{{.*}}, %[[SECOND]]
// CHECK-NEXT: memref.prefetch %w[%panel, %k_1, %[[THEN]]]
func.func @uneven(%w : memref<3x96x16xf32>, %x : memref<2x96xf32>, %y : memref<2x48xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %three = arith.constant 3 : index
  %sixteen = arith.constant 16 : index
  %terms = arith.constant 96 : index
  %none = arith.constant dense<0.0> : vector<16xf32>
  scf.for %panel = %zero to %three step %one {
    %j = arith.muli %panel, %sixteen : index
    %sum = scf.for %k = %zero to %terms step %one iter_args(%s = %none) -> (vector<16xf32>) {
      %a = vector.load %w[%panel, %k, %zero] : memref<3x96x16xf32>, vector<16xf32>
      %b = memref.load %x[%zero, %k] : memref<2x96xf32>
      %all = vector.broadcast %b : f32 to vector<16xf32>
      %p = arith.mulf %a, %all : vector<16xf32>
      %t = arith.addf %s, %p : vector<16xf32>
      scf.yield %t : vector<16xf32>
    }
    vector.store %sum, %y[%zero, %j] : memref<2x48xf32>, vector<16xf32>
    %other = scf.for %k = %zero to %terms step %one iter_args(%s = %none) -> (vector<16xf32>) {
      %a = vector.load %w[%panel, %k, %zero] : memref<3x96x16xf32>, vector<16xf32>
      %b = memref.load %x[%one, %k] : memref<2x96xf32>
      %all = vector.broadcast %b : f32 to vector<16xf32>
      %p = arith.mulf %a, %all : vector<16xf32>
      %t = arith.addf %s, %p : vector<16xf32>
      scf.yield %t : vector<16xf32>
    }
    vector.store %other, %y[%one, %j] : memref<2x48xf32>, vector<16xf32>
  }
  func.return
}

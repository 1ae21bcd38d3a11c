// RUN: sofie-opt -p fuse-quantize %s | filecheck %s

// The first offset is small enough; the second is not.
// CHECK: linalg.generic
// CHECK-NEXT: ^{{.*}}(%{{.*}}: f64, %{{.*}}: f64, %[[SUM:.*]]: i32, %{{.*}}: i8):
// CHECK-NEXT: %[[BYTE:.*]] = "sofie.requantize"(%[[SUM]], %{{.*}}, %{{.*}}) <{zero = 3 : i32, least = 0 : i32, most = 255 : i32}>
// CHECK-NEXT: linalg.yield %[[BYTE]] : i8
// CHECK: linalg.generic
// CHECK-NOT: sofie.requantize
func.func @infer(%x : tensor<3x2xi32>) -> (tensor<3x2xi8>, tensor<3x2xi8>) {
  %factor = sofie.weight "factor" <dense<0.125> : tensor<2xf64>> : tensor<2xf64>
  %small = sofie.weight "offset" <dense<7.5> : tensor<2xf64>> : tensor<2xf64>
  %large = sofie.weight "offset" <dense<7000.5> : tensor<2xf64>> : tensor<2xf64>
  %room = tensor.empty() : tensor<3x2xi8>
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (n)>, affine_map<(m, n) -> (n)>, affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]} ins(%factor, %small, %x : tensor<2xf64>, tensor<2xf64>, tensor<3x2xi32>) outs(%room : tensor<3x2xi8>) {
  ^bb0(%scale : f64, %offset : f64, %sum : i32, %0 : i8):
    %wide = arith.sitofp %sum : i32 to f64
    %product = arith.mulf %wide, %scale : f64
    %number = arith.addf %product, %offset : f64
    %rounded = math.roundeven %number : f64
    %whole = arith.fptosi %rounded : f64 to i32
    %zero = arith.constant 3 : i32
    %least = arith.constant 0 : i32
    %most = arith.constant 255 : i32
    %moved = arith.addi %whole, %zero : i32
    %above = arith.maxsi %moved, %least : i32
    %inside = arith.minsi %above, %most : i32
    %byte = arith.trunci %inside : i32 to i8
    linalg.yield %byte : i8
  } -> tensor<3x2xi8>
  %z = linalg.generic {indexing_maps = [affine_map<(m, n) -> (n)>, affine_map<(m, n) -> (n)>, affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]} ins(%factor, %large, %x : tensor<2xf64>, tensor<2xf64>, tensor<3x2xi32>) outs(%room : tensor<3x2xi8>) {
  ^bb0(%scale : f64, %offset : f64, %sum : i32, %0 : i8):
    %wide = arith.sitofp %sum : i32 to f64
    %product = arith.mulf %wide, %scale : f64
    %number = arith.addf %product, %offset : f64
    %rounded = math.roundeven %number : f64
    %whole = arith.fptosi %rounded : f64 to i32
    %least = arith.constant 0 : i32
    %most = arith.constant 255 : i32
    %above = arith.maxsi %whole, %least : i32
    %inside = arith.minsi %above, %most : i32
    %byte = arith.trunci %inside : i32 to i8
    linalg.yield %byte : i8
  } -> tensor<3x2xi8>
  func.return %y, %z : tensor<3x2xi8>, tensor<3x2xi8>
}
func.func @quantize(%x : tensor<6xf32>) -> tensor<6xi8> {
  %room = tensor.empty() : tensor<6xi8>
  // CHECK: func.func @quantize
  // CHECK: ^{{.*}}(%[[NUMBER:.*]]: f32, %{{.*}}: i8):
  // CHECK-NEXT: %[[SCALE:.*]] = arith.constant 2.500000e-01 : f32
  // CHECK-NEXT: "sofie.quantize"(%[[NUMBER]], %[[SCALE]]) <{zero = 3 : i32, least = 0 : i32, most = 255 : i32}>
  // CHECK-NEXT: linalg.yield
  %y = linalg.generic {indexing_maps = [affine_map<(n) -> (n)>, affine_map<(n) -> (n)>], iterator_types = ["parallel"]} ins(%x : tensor<6xf32>) outs(%room : tensor<6xi8>) {
  ^bb0(%number : f32, %0 : i8):
    %scale = arith.constant 0.25 : f32
    %zero = arith.constant 3 : i8
    %quotient = arith.divf %number, %scale : f32
    %low = arith.constant 0 : i32
    %high = arith.constant 255 : i32
    %moved = arith.extui %zero : i8 to i32
    %least = arith.subi %low, %moved : i32
    %most = arith.subi %high, %moved : i32
    %lower = arith.sitofp %least : i32 to f32
    %upper = arith.sitofp %most : i32 to f32
    %above = arith.maxnumf %quotient, %lower : f32
    %inside = arith.minnumf %above, %upper : f32
    %rounded = math.roundeven %inside : f32
    %whole = arith.fptosi %rounded : f32 to i32
    %sum = arith.addi %whole, %moved : i32
    %byte = arith.trunci %sum : i32 to i8
    linalg.yield %byte : i8
  } -> tensor<6xi8>
  func.return %y : tensor<6xi8>
}

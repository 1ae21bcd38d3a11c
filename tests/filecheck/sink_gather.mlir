// RUN: sofie-opt -p sink-gather,dce %s | filecheck %s

// The features of a node, and how far those of its neighbours are from them.
// CHECK-LABEL: func.func @infer
// CHECK: %u = onnx.Unsqueeze
// CHECK: %[[V:.*]] = sofie.weight "w part" {{.*}} : tensor<20x1xf32>
// CHECK-NEXT: %[[A:.*]] = onnx.MatMul(%u, %[[V]]) : {{.*}} -> tensor<4x1x1xf32>
// CHECK-NEXT: %[[W:.*]] = sofie.weight "w part" {{.*}} : tensor<20x1xf32>
// CHECK-NEXT: %[[B:.*]] = onnx.MatMul(%f, %[[W]]) : {{.*}} -> tensor<4x1xf32>
// CHECK-NEXT: %[[G:.*]] = onnx.Gather(%[[B]], %edges) {axis = 0 : i64} : {{.*}} -> tensor<4x9x1xf32>
// CHECK-NEXT: %y = onnx.Add(%[[A]], %[[G]]) : {{.*}} -> tensor<4x9x1xf32>

// A difference alone would lose digits.
// CHECK: onnx.MatMul(%s, %half)
func.func @infer(%f: tensor<4x20xf32>, %edges: tensor<4x9xi64>) -> (tensor<4x9x1xf32>, tensor<4x9x1xf32>) {
  %w = sofie.weight "w" <dense<[[3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [3.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0]]> : tensor<40x1xf32>> : tensor<40x1xf32>
  %half = sofie.weight "half" <dense<1.0> : tensor<20x1xf32>> : tensor<20x1xf32>
  %one = sofie.weight "one" <dense<1> : tensor<1xi64>> : tensor<1xi64>
  %shape = sofie.weight "shape" <dense<[4, 9, 20]> : tensor<3xi64>> : tensor<3xi64>
  %j = onnx.Gather(%f, %edges) {axis = 0 : i64} : (tensor<4x20xf32>, tensor<4x9xi64>) -> tensor<4x9x20xf32>
  %u = onnx.Unsqueeze(%f, %one) : (tensor<4x20xf32>, tensor<1xi64>) -> tensor<4x1x20xf32>
  %i = onnx.Expand(%u, %shape) : (tensor<4x1x20xf32>, tensor<3xi64>) -> tensor<4x9x20xf32>
  %s = onnx.Sub(%j, %i) : (tensor<4x9x20xf32>, tensor<4x9x20xf32>) -> tensor<4x9x20xf32>
  %c = onnx.Concat(%i, %s) {axis = -1 : i64} : (tensor<4x9x20xf32>, tensor<4x9x20xf32>) -> tensor<4x9x40xf32>
  %y = onnx.MatMul(%c, %w) : (tensor<4x9x40xf32>, tensor<40x1xf32>) -> tensor<4x9x1xf32>
  %z = onnx.MatMul(%s, %half) : (tensor<4x9x20xf32>, tensor<20x1xf32>) -> tensor<4x9x1xf32>
  func.return %y, %z : tensor<4x9x1xf32>, tensor<4x9x1xf32>
}

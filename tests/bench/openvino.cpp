// A worker (worker.hxx goes in front) that runs a model by OpenVINO on the CPU in float32:  worker FOLDER OUTPUT MODEL
#include <openvino/openvino.hpp>

int main(int count, char **words)
{
   if (count < 4)
      worker::fail("usage: worker FOLDER OUTPUT MODEL");
   worker::Tensors tensors(words[1]);
   try {
      const double start = worker::now();
      ov::Core core;
      auto model = core.compile_model(words[3], "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                      ov::inference_num_threads(1), ov::num_streams(1),
                                      ov::hint::inference_precision(ov::element::f32));
      auto request = model.create_infer_request();
      const double setup = worker::now() - start;
      for (std::size_t k = 0; k < tensors.inputs.size(); ++k) {
         const auto port = model.input(k);
         request.set_input_tensor(k, ov::Tensor(port.get_element_type(), port.get_shape(), tensors.inputs[k].data));
      }
      for (std::size_t k = 0; k < tensors.outputs.size(); ++k) {
         const auto port = model.output(k);
         request.set_output_tensor(k, ov::Tensor(port.get_element_type(), port.get_shape(), tensors.outputs[k].data));
      }
      return worker::serve(tensors, words[2], setup, [&] { request.infer(); });
   } catch (const std::exception &error) {
      worker::fail(error.what());
   }
}

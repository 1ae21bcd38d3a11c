// A worker (worker.hxx and onnxruntime.hxx go in front) that runs a model by ONNX Runtime's C API:
//
//    worker FOLDER OUTPUT MODEL THREADS LIBRARY

namespace {

void *value_of(const worker::Tensor &tensor, const void *place)
{
   void *value = nullptr;
   const std::int64_t *const shape = tensor.shape.data();
   ort::call(
       ort::create_tensor,
       place,
       static_cast<void *>(tensor.data),
       tensor.bytes,
       shape,
       tensor.shape.size(),
       tensor.type,
       &value);
   return value;
}

} // namespace

int main(int count, char **words)
try {
   if (count < 6)
      worker::fail("usage: worker FOLDER OUTPUT MODEL THREADS LIBRARY");
   worker::Tensors tensors(words[1]);
   ort::load(words[5]);
   const double start = worker::now();
   void *const session = ort::session(words[3], std::atoi(words[4]));
   const double setup = worker::now() - start;
   void *place = nullptr, *allocator = nullptr, *run_options = nullptr;
   ort::call(ort::default_allocator, &allocator);
   ort::call(ort::create_cpu_memory_info, 0, 0, &place);
   ort::call(ort::create_run_options, &run_options);
   std::vector<char *> takes(tensors.inputs.size()), gives(tensors.outputs.size());
   std::vector<void *> in, out;
   for (std::size_t k = 0; k < takes.size(); ++k) {
      ort::call(ort::input_name, session, k, allocator, &takes[k]);
      in.push_back(value_of(tensors.inputs[k], place));
   }
   for (std::size_t k = 0; k < gives.size(); ++k) {
      ort::call(ort::output_name, session, k, allocator, &gives[k]);
      out.push_back(value_of(tensors.outputs[k], place));
   }
   return worker::serve(tensors, words[2], setup, [&] {
      ort::call(
          ort::run_session,
          session,
          static_cast<const void *>(run_options),
          static_cast<const char *const *>(takes.data()),
          static_cast<const void *const *>(in.data()),
          takes.size(),
          static_cast<const char *const *>(gives.data()),
          gives.size(),
          out.data());
   });
} catch (const std::exception &error) {
   worker::fail(error.what());
}

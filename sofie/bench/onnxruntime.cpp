// A worker (worker.hxx goes in front) that runs a model by ONNX Runtime's C API:
//
//    worker FOLDER OUTPUT MODEL THREADS LIBRARY
//
// The wheel has the library, under a name that is not the one it was linked with, but no headers. OrtApi is a table of function pointers whose order never changes, so the
// numbers of the few that are used stand here.
#include <dlfcn.h>

struct OrtApiBase {
   const void *const *(*get_api)(std::uint32_t);
   const char *(*version)();
};

namespace {

constexpr std::uint32_t api_version = 17;
constexpr int all_optimisations = 99;

enum Slot {
   error_message = 2,
   create_env = 3,
   create_session = 7,
   run_session = 9,
   create_session_options = 10,
   set_graph_optimisation = 23,
   set_intra_threads = 24,
   set_inter_threads = 25,
   input_name = 36,
   output_name = 37,
   create_run_options = 39,
   create_tensor = 49,
   create_cpu_memory_info = 69,
   default_allocator = 78
};

const void *const *api = nullptr;

template <class... Arguments> void call(Slot slot, Arguments... arguments)
{
   using Function = void *(*)(Arguments...);
   if (void *const status = reinterpret_cast<Function>(const_cast<void *>(api[slot]))(arguments...)) {
      using Message = const char *(*)(void *);
      worker::fail(reinterpret_cast<Message>(const_cast<void *>(api[error_message]))(status));
   }
}

void *value_of(const worker::Tensor &tensor, const void *place)
{
   void *value = nullptr;
   const std::int64_t *const shape = tensor.shape.data();
   call(create_tensor, place, static_cast<void *>(tensor.data), tensor.bytes, shape, tensor.shape.size(), tensor.type,
        &value);
   return value;
}

} // namespace

int main(int count, char **words)
{
   if (count < 6)
      worker::fail("usage: worker FOLDER OUTPUT MODEL THREADS LIBRARY");
   worker::Tensors tensors(words[1]);
   void *const library = dlopen(words[5], RTLD_NOW);
   void *const base = library == nullptr ? nullptr : dlsym(library, "OrtGetApiBase");
   if (base == nullptr)
      worker::fail(dlerror());
   api = reinterpret_cast<const OrtApiBase *(*)()>(base)()->get_api(api_version);
   const double start = worker::now();
   void *env = nullptr, *options = nullptr, *session = nullptr, *place = nullptr, *allocator = nullptr;
   void *run_options = nullptr;
   call(create_env, 3, "bench", &env);
   call(create_session_options, &options);
   call(set_intra_threads, options, std::atoi(words[4]));
   call(set_inter_threads, options, 1);
   call(set_graph_optimisation, options, all_optimisations);
   call(create_session, env, static_cast<const char *>(words[3]), options, &session);
   const double setup = worker::now() - start;
   call(default_allocator, &allocator);
   call(create_cpu_memory_info, 0, 0, &place);
   call(create_run_options, &run_options);
   std::vector<char *> takes(tensors.inputs.size()), gives(tensors.outputs.size());
   std::vector<void *> in, out;
   for (std::size_t k = 0; k < takes.size(); ++k) {
      call(input_name, session, k, allocator, &takes[k]);
      in.push_back(value_of(tensors.inputs[k], place));
   }
   for (std::size_t k = 0; k < gives.size(); ++k) {
      call(output_name, session, k, allocator, &gives[k]);
      out.push_back(value_of(tensors.outputs[k], place));
   }
   return worker::serve(tensors, words[2], setup, [&] {
      call(run_session, session, static_cast<const void *>(run_options), static_cast<const char *const *>(takes.data()),
           static_cast<const void *const *>(in.data()), takes.size(), static_cast<const char *const *>(gives.data()),
           gives.size(), out.data());
   });
}

// ONNX Runtime's C API, as far as a benchmark needs it.
//
// The wheel has the library, under a name that is not the one it was linked with, but no headers. OrtApi is a table of
// function pointers whose order never changes, so the numbers of the few that are used stand here.
#include <cstdint>
#include <dlfcn.h>
#include <stdexcept>

struct OrtApiBase {
   const void *const *(*get_api)(std::uint32_t);
   const char *(*version)();
};

namespace ort {

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

inline const void *const *api = nullptr;

// Calls a function of the table; throws std::runtime_error with what it reports.
template <class... Arguments> void call(Slot slot, Arguments... arguments)
{
   using Function = void *(*)(Arguments...);
   if (void *const status = reinterpret_cast<Function>(const_cast<void *>(api[slot]))(arguments...)) {
      using Message = const char *(*)(void *);
      throw std::runtime_error(reinterpret_cast<Message>(const_cast<void *>(api[error_message]))(status));
   }
}

// Loads the library. Throws std::runtime_error.
inline void load(const char *library)
{
   void *const handle = dlopen(library, RTLD_NOW);
   void *const base = handle == nullptr ? nullptr : dlsym(handle, "OrtGetApiBase");
   if (base == nullptr)
      throw std::runtime_error(dlerror());
   api = reinterpret_cast<const OrtApiBase *(*)()>(base)()->get_api(api_version);
}

// A session of a model file that uses so many threads. Throws std::runtime_error.
inline void *session(const char *model, int threads)
{
   void *env = nullptr, *options = nullptr, *made = nullptr;
   call(create_env, 3, "bench", &env);
   call(create_session_options, &options);
   call(set_intra_threads, options, threads);
   call(set_inter_threads, options, 1);
   call(set_graph_optimisation, options, all_optimisations);
   call(create_session, env, model, options, &made);
   return made;
}

} // namespace ort

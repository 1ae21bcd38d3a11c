// What a card can do at most, as a line of JSON: multiply-adds, copies of sets of several sizes, launches; and a product by
// cuBLAS, where its library is given or found.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <dlfcn.h>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int rounds = 9;

void check(cudaError_t status, const char *what)
{
   if (status != cudaSuccess)
      throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Microseconds of what an act puts on a stream, at best.
double us_of(cudaStream_t stream, const std::function<void()> &act)
{
   cudaEvent_t first, last;
   check(cudaEventCreate(&first), "an event");
   check(cudaEventCreate(&last), "an event");
   double best = 1e30;
   for (int round = -2; round < rounds; ++round) {
      float milliseconds = 0;
      check(cudaEventRecord(first, stream), "an event");
      act();
      check(cudaGetLastError(), "a launch");
      check(cudaEventRecord(last, stream), "an event");
      check(cudaEventSynchronize(last), "an event");
      check(cudaEventElapsedTime(&milliseconds, first, last), "the time");
      if (round >= 0)
         best = std::min(best, milliseconds * 1e3);
   }
   cudaEventDestroy(first);
   cudaEventDestroy(last);
   return best;
}

// Numbers between 0 and 1: a product of zeros takes less power, and so less time.
__global__ void __launch_bounds__(256) fill(float *out, std::size_t count)
{
   const std::size_t threads = static_cast<std::size_t>(gridDim.x) * blockDim.x;
   for (std::size_t k = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < count; k += threads)
      out[k] = static_cast<float>(static_cast<unsigned>(k) * 2654435761u >> 8) * (1.0f / 16777216);
}

// -- multiply-adds -----------------------------------------------------------------------------------------------------

constexpr int chains = 16, steps = 4096;

__global__ void __launch_bounds__(256) multiply_adds(float *out, float factor)
{
   float x[chains];
#pragma unroll
   for (int k = 0; k < chains; ++k)
      x[k] = static_cast<float>(threadIdx.x + k);
   for (int step = 0; step < steps; ++step)
#pragma unroll
      for (int k = 0; k < chains; ++k)
         x[k] = __fmaf_rn(x[k], factor, 1.0f);
   float sum = 0;
#pragma unroll
   for (int k = 0; k < chains; ++k)
      sum += x[k];
   if (sum == 12345.0f) // never, but the compiler does not know
      *out = sum;
}

double gigaflops(int processors, float *memory, cudaStream_t stream)
{
   const int blocks = processors * 16;
   const double us = us_of(stream, [&] { multiply_adds<<<blocks, 256, 0, stream>>>(memory, 0.5f); });
   return 2.0 * chains * steps * 256.0 * blocks / us * 1e-3;
}

// -- copies ------------------------------------------------------------------------------------------------------------

// Copies a set several times, each time through the caches that all multiprocessors share.
__global__ void __launch_bounds__(512) copy(const float4 *from, float4 *to, std::size_t count, int times)
{
   const std::size_t threads = static_cast<std::size_t>(gridDim.x) * blockDim.x;
   for (int time = 0; time < times; ++time)
      for (std::size_t k = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < count; k += threads)
         __stcg(to + k, __ldcg(from + k));
}

// GB/s, of what is read and of what is written, of a set of so many bytes, a half of which is read.
double gigabytes_per_second(std::size_t set, int processors, void *memory, cudaStream_t stream)
{
   const std::size_t half = set / 2;
   const int times = static_cast<int>(std::max<std::size_t>((std::size_t(1) << 31) / set, 1));
   const auto *from = static_cast<const float4 *>(memory);
   auto *to = reinterpret_cast<float4 *>(static_cast<unsigned char *>(memory) + half);
   double best = 0;
   for (int each : {2, 4, 8, 32}) {
      const double us =
          us_of(stream, [&] { copy<<<processors * each, 512, 0, stream>>>(from, to, half / sizeof(float4), times); });
      best = std::max(best, static_cast<double>(set) * times / us * 1e-3);
   }
   return best;
}

// -- launches ----------------------------------------------------------------------------------------------------------

__global__ void nothing() {}

// Microseconds of one of many graphs of so many empty kernels, or of launches without a graph for none.
double us_of_launches(int kernels, cudaStream_t stream)
{
   constexpr int times = 500;
   cudaGraph_t graph = nullptr;
   cudaGraphExec_t made = nullptr;
   if (kernels) {
      check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "a graph");
      for (int k = 0; k < kernels; ++k)
         nothing<<<1, 32, 0, stream>>>();
      check(cudaStreamEndCapture(stream, &graph), "a graph");
      check(cudaGraphInstantiateWithFlags(&made, graph, 0), "a graph");
   }
   const double us = us_of(stream, [&] {
      for (int time = 0; time < times; ++time)
         if (kernels)
            check(cudaGraphLaunch(made, stream), "a graph");
         else
            nothing<<<1, 32, 0, stream>>>();
   });
   if (kernels) {
      check(cudaGraphExecDestroy(made), "a graph");
      check(cudaGraphDestroy(graph), "a graph");
   }
   return us / times;
}

// -- cuBLAS ------------------------------------------------------------------------------------------------------------

// Microseconds of a float32 product by cuBLAS, or 0 with the reason.
double us_of_cublas(const char *library, int n, float *memory, cudaStream_t stream, std::string &reason)
{
   void *loaded = nullptr;
   for (const char *name : {library, "libcublas.so.13", "libcublas.so.12", "libcublas.so"})
      if (!loaded && *name)
         loaded = dlopen(name, RTLD_NOW);
   if (!loaded) {
      reason = "libcublas.so is not installed";
      return 0;
   }
   using Handle = void *;
   const auto create = reinterpret_cast<int (*)(Handle *)>(dlsym(loaded, "cublasCreate_v2"));
   const auto on = reinterpret_cast<int (*)(Handle, cudaStream_t)>(dlsym(loaded, "cublasSetStream_v2"));
   const auto product = reinterpret_cast<int (*)(
       Handle, int, int, int, int, int, const float *, const float *, int, const float *, int, const float *, float *,
       int)>(dlsym(loaded, "cublasSgemm_v2"));
   Handle handle = nullptr;
   if (!create || !on || !product || create(&handle) || on(handle, stream)) {
      reason = "cuBLAS does not start";
      return 0;
   }
   const std::size_t size = static_cast<std::size_t>(n) * static_cast<std::size_t>(n);
   const float one = 1, zero = 0;
   int status = 0;
   fill<<<1024, 256, 0, stream>>>(memory, 2 * size);
   const double us = us_of(stream, [&] {
      status |= product(handle, 0, 0, n, n, n, &one, memory, n, memory + size, n, &zero, memory + 2 * size, n);
   });
   if (status)
      reason = "cublasSgemm failed";
   return status ? 0 : us;
}

void measure(const char *library)
{
   cudaDeviceProp card;
   int driver = 0;
   check(cudaGetDeviceProperties(&card, 0), "the card");
   check(cudaDriverGetVersion(&driver), "the driver");
   const int processors = card.multiProcessorCount;
   cudaStream_t stream;
   check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
   constexpr std::size_t most = std::size_t(1) << 31;
   void *memory = nullptr;
   check(cudaMalloc(&memory, most), "memory of the device");
   fill<<<processors * 8, 256, 0, stream>>>(static_cast<float *>(memory), most / sizeof(float));
   check(cudaStreamSynchronize(stream), "memory of the device");
   std::printf("{\"card\": \"%s\", \"processors\": %d, \"cuda_driver\": %d", card.name, processors, driver);
   std::printf(", \"gigaflops\": %.6g, \"gigabytes_per_second\": [",
               gigaflops(processors, static_cast<float *>(memory), stream));
   for (std::size_t set = std::size_t(1) << 20; set <= most; set *= 2)
      std::printf("%s[%zu, %.6g]", set > std::size_t(1) << 20 ? ", " : "", set,
                  gigabytes_per_second(set, processors, memory, stream));
   const double one = us_of_launches(1, stream), many = us_of_launches(33, stream);
   std::printf("], \"launch_us\": %.6g, \"graph_us\": %.6g, \"node_us\": %.6g", us_of_launches(0, stream), one,
               (many - one) / 32);
   std::string reason;
   const double us = us_of_cublas(library, 4096, static_cast<float *>(memory), stream, reason);
   if (us > 0)
      std::printf(", \"cublas\": {\"product_4096\": %.6g}}\n", us);
   else
      std::printf(", \"cublas_absent\": \"%s\"}\n", reason.c_str());
}

} // namespace

// [LIBRARY]: where cuBLAS is.
int main(int count, char **words)
{
   try {
      measure(count > 1 ? words[1] : "");
   } catch (const std::exception &error) {
      std::fprintf(stderr, "%s\n", error.what());
      return 2;
   }
}

// Runs CUDA kernels on the CPU: what an emitted .cuh uses of CUDA, for g++ and clang++. One thread after the other; the
// blocks and threads of a launch run from the last to the first, so that one which needs an earlier one finds nothing.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
   unsigned x, y, z;
};
using cudaStream_t = void *;
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };

namespace cuda_host {
inline thread_local uint3 block_index, thread_index, block_size;
inline thread_local cudaError_t last = cudaSuccess;

template <class... P, class... A>
void launch(void (*kernel)(P...), std::ptrdiff_t blocks, std::ptrdiff_t threads, A... arguments)
{
   if (blocks < 1 || threads < 1 || threads > 1024 || blocks > 2147483647) {
      last = cudaErrorInvalidConfiguration;
      return;
   }
   block_size = {static_cast<unsigned>(threads), 1, 1};
   for (std::ptrdiff_t b = blocks; b-- > 0;)
      for (std::ptrdiff_t t = threads; t-- > 0;) {
         block_index = {static_cast<unsigned>(b), 0, 0};
         thread_index = {static_cast<unsigned>(t), 0, 0};
         kernel(arguments...);
      }
}
} // namespace cuda_host

#define blockIdx (cuda_host::block_index)
#define threadIdx (cuda_host::thread_index)
#define blockDim (cuda_host::block_size)
#define SOFIE_LAUNCH(kernel, blocks, threads, stream, ...) \
   (static_cast<void>(stream), cuda_host::launch(kernel, blocks, threads, __VA_ARGS__))

inline const char *cudaGetErrorString(cudaError_t status)
{
   return status == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "an error";
}
inline cudaError_t cudaGetLastError()
{
   const cudaError_t status = cuda_host::last;
   cuda_host::last = cudaSuccess;
   return status;
}
inline cudaError_t cudaMalloc(void **memory, std::size_t bytes)
{
   *memory = std::malloc(bytes);
   if (*memory)
      std::memset(*memory, 0xff, bytes);
   return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void *memory)
{
   std::free(memory);
   return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void *to, const void *from, std::size_t bytes, cudaMemcpyKind)
{
   std::memcpy(to, from, bytes);
   return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, std::size_t bytes, cudaMemcpyKind, cudaStream_t)
{
   std::memcpy(to, from, bytes);
   return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

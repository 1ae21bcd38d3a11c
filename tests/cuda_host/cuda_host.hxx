// Runs CUDA kernels on the CPU: what an emitted .cuh uses of CUDA, for g++ and clang++. One thread after the other; the
// blocks and threads of a launch run from the last to the first, so that one which needs an earlier one finds nothing.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
   unsigned x, y, z;
};
struct CUgraph_st {
   std::vector<std::function<void()>> nodes;
};
struct CUstream_st {
   CUgraph_st *captured = nullptr;
};
using cudaStream_t = CUstream_st *;
using cudaGraph_t = CUgraph_st *;
using cudaGraphExec_t = CUgraph_st *;
enum cudaError_t {
   cudaSuccess = 0,
   cudaErrorMemoryAllocation = 2,
   cudaErrorInvalidConfiguration = 9,
   cudaErrorIllegalState = 401,
   cudaErrorNotReady = 600,
   cudaErrorStreamCaptureUnsupported = 900,
   cudaErrorStreamCaptureInvalidated = 901
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
constexpr unsigned cudaStreamNonBlocking = 1;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };

namespace cuda_host {
inline thread_local uint3 block_index, thread_index, block_size;
inline thread_local cudaError_t last = cudaSuccess;

inline bool capturing(cudaStream_t stream)
{
   return reinterpret_cast<std::uintptr_t>(stream) > 2 && stream->captured;
}

template <class... P, class... A>
void launch(
    void (*kernel)(P...), std::ptrdiff_t blocks, std::ptrdiff_t threads, cudaStream_t stream, A... arguments)
{
   if (capturing(stream)) {
      stream->captured->nodes.push_back([=] { launch(kernel, blocks, threads, nullptr, arguments...); });
      return;
   }
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
   cuda_host::launch(kernel, blocks, threads, stream, __VA_ARGS__)

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
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
   return cuda_host::capturing(stream) ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
   *stream = new CUstream_st;
   return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
   delete stream;
   return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
   *status = cuda_host::capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
   return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
   if (stream->captured)
      return cudaErrorIllegalState;
   stream->captured = new CUgraph_st;
   return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
   *graph = stream->captured;
   stream->captured = nullptr;
   return *graph ? cudaSuccess : cudaErrorIllegalState;
}
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long)
{
   *made = new CUgraph_st(*graph);
   return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
   for (const auto &node : graph->nodes)
      if (cuda_host::capturing(stream))
         stream->captured->nodes.push_back(node);
      else
         node();
   return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
   delete graph;
   return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
   delete graph;
   return cudaSuccess;
}

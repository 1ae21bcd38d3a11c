// Runs CUDA kernels on the CPU: what an emitted .cuh uses of CUDA, for g++ and clang++; cuda_host.cxx has the rest.
//
// Every CUDA thread is a fiber that is switched only where it waits: at a barrier, a shuffle, ldmatrix or mma. Between
// those the threads of a block run in the order that the environment's SOFIE_CUDA_SEED draws (0: in order), and so do
// the blocks. A kernel's fault (a barrier that not all threads reach, more shared memory than launched with) is thrown
// from its launch as std::runtime_error.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
   unsigned x, y, z;
};
struct dim3 {
   unsigned x, y, z;
   constexpr dim3(unsigned width = 1, unsigned height = 1, unsigned depth = 1) : x(width), y(height), z(depth) {}
};
struct alignas(8) float2 {
   float x, y;
};
struct alignas(16) float4 {
   float x, y, z, w;
};
struct alignas(8) uint2 {
   unsigned x, y;
};
struct alignas(16) uint4 {
   unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// The numbers of CUDA 12 and 13.
enum cudaError_t {
   cudaSuccess = 0,
   cudaErrorInvalidValue = 1,
   cudaErrorMemoryAllocation = 2,
   cudaErrorInvalidConfiguration = 9,
   cudaErrorInvalidResourceHandle = 400,
   cudaErrorIllegalState = 401,
   cudaErrorStreamCaptureUnsupported = 900,
   cudaErrorStreamCaptureInvalidated = 901,
   cudaErrorStreamCaptureWrongThread = 908
};
enum cudaMemcpyKind {
   cudaMemcpyHostToHost = 0,
   cudaMemcpyHostToDevice = 1,
   cudaMemcpyDeviceToHost = 2,
   cudaMemcpyDeviceToDevice = 3,
   cudaMemcpyDefault = 4
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaStreamCaptureStatus {
   cudaStreamCaptureStatusNone = 0,
   cudaStreamCaptureStatusActive = 1,
   cudaStreamCaptureStatusInvalidated = 2
};
constexpr unsigned cudaStreamNonBlocking = 1;

#pragma GCC visibility push(hidden) // a library of its own has a scheduler of its own
namespace cuda_host {

struct __attribute__((visibility("default"))) Stream; // sessions hold it
struct __attribute__((visibility("default"))) Graph; // sessions hold it
struct __attribute__((visibility("default"))) GraphExec; // sessions hold it

// A CUDA thread, as its kernel sees it. lanes: how many threads its warp has.
struct Thread {
   uint3 index;
   unsigned lane, lanes;
};

// What all threads that run have in common.
struct Place {
   uint3 block, block_size, grid_size;
};

extern __thread const Thread *self;
extern __thread Place place;

// A launch's size, from a number or from a dim3; a number that no dim3 holds does not fit.
struct Extent {
   dim3 size;
   bool fits = true;
   Extent(std::ptrdiff_t n) : size(static_cast<unsigned>(n)), fits(n >= 0 && n <= 2147483647) {}
   Extent(dim3 given) : size(given) {}
};

struct Launch {
   const char *name;
   const void *kernel;
   Extent blocks, threads;
   std::size_t shared_bytes;
   void (*body)(const void *arguments);
   const void *arguments;
   std::size_t argument_bytes;
};

// Runs a launch, or records it where the stream is being captured.
void enqueue(const Launch &launch, Stream *stream);

template <class... P, class... A>
void launch(
    void (*kernel)(P...),
    const char *name,
    Extent blocks,
    Extent threads,
    std::size_t shared_bytes,
    Stream *stream,
    A... arguments)
{
   const auto call = [=] { kernel(arguments...); };
   static_assert(__is_trivially_copyable(decltype(call)), "arguments of a kernel are copied byte by byte");
   const auto body = [](const void *at) { (*static_cast<decltype(&call)>(at))(); };
   enqueue(
       {name, reinterpret_cast<const void *>(kernel), blocks, threads, shared_bytes, body, &call, sizeof call}, stream);
}

[[noreturn]] void fail(const char *what, int line);
void barrier(int line);
void warp_barrier(int line);

// Shared memory of the block: for each offset and size an allocation of its own, as aligned as the offset is.
void *shared(std::size_t offset, std::size_t bytes, std::size_t alignment, int line);

// Every lane of the warp brings `bytes` (a multiple of 4, 64 at most) and waits for the others. Lane k's stand at
// k * 64 of what is returned, until the next exchange but one.
constexpr unsigned slot_bytes = 64;
const unsigned char *exchange(const void *mine, std::size_t bytes, int line);

template <class T> T slot(const unsigned char *slots, unsigned lane)
{
   T value;
   std::memcpy(&value, slots + lane * slot_bytes, sizeof value);
   return value;
}

inline void full_mask(unsigned mask, int line)
{
   if (mask != 0xffffffffu)
      fail("only the mask 0xffffffff is emulated: every thread of the warp takes part", line);
}

// The value that another lane of the warp brings.
template <class T> T shuffle(unsigned mask, T mine, unsigned lane, int line)
{
   static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle takes numbers of 32 or 64 bits");
   full_mask(mask, line);
   const unsigned char *slots = exchange(&mine, sizeof mine, line);
   if (lane >= self->lanes)
      fail("a shuffle reads a lane that its warp has not", line);
   return slot<T>(slots, lane);
}

using Word = unsigned __attribute__((may_alias));

// An asynchronous copy. Its target is NaN from the issue until the wait, where the copy is done: the header has both,
// so that sanitizers see them in the kernel's own lines.
struct Copy {
   void *to;
   const void *from;
   unsigned words;
   bool valid;
};
void issue(const Copy &copy);
bool next_copy(unsigned groups_left, Copy &copy); // false when no more than that many groups are in flight

template <unsigned bytes> void copy_async(void *to, const void *from, bool valid, int line)
{
   if (reinterpret_cast<std::uintptr_t>(to) % bytes || (valid && reinterpret_cast<std::uintptr_t>(from) % bytes))
      fail("cp.async: an address is not a multiple of the size of the copy", line);
   for (unsigned i = 0; i < bytes / 4; ++i) {
      if (valid)
         static_cast<void>(static_cast<const volatile Word *>(from)[i]);
      static_cast<Word *>(to)[i] = 0xffffffffu;
   }
   issue({to, from, bytes / 4, valid});
}

// The least that warps do by matrices: see the tables of fragments in the PTX manual.
enum class Element { bf16, fp16, tf32 };
void mma(Element element, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line);
struct Signs {
   bool a, b;
};
void mma(const Signs &signs, int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line);

cudaError_t set_shared_limit(const void *kernel, int bytes);

// Under the names that a kernel finds in its own namespace `detail`.
namespace instructions {

inline void cp_async16(void *to, const void *from, bool valid = true, int line = __builtin_LINE())
{
   copy_async<16>(to, from, valid, line);
}
inline void cp_async4(void *to, const void *from, bool valid = true, int line = __builtin_LINE())
{
   copy_async<4>(to, from, valid, line);
}
void cp_async_commit();
template <int groups_left> void cp_async_wait()
{
   for (Copy copy; next_copy(groups_left, copy);)
      for (unsigned i = 0; i < copy.words; ++i)
         static_cast<Word *>(copy.to)[i] = copy.valid ? static_cast<const Word *>(copy.from)[i] : 0u;
}

inline const void *matrix_row(const unsigned char *rows, unsigned row, int line)
{
   const void *at = slot<const void *>(rows, row);
   if (reinterpret_cast<std::uintptr_t>(at) % 16)
      fail("ldmatrix: the address of a row is not a multiple of 16", line);
   return at;
}
inline void ldmatrix_x4(unsigned (&r)[4], const void *row, int line = __builtin_LINE())
{
   const unsigned char *rows = exchange(&row, sizeof row, line);
   for (unsigned j = 0; j < 4; ++j)
      r[j] = static_cast<const Word *>(matrix_row(rows, j * 8 + self->lane / 4, line))[self->lane % 4];
   warp_barrier(line);
}
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void *row, int line = __builtin_LINE())
{
   using Half = std::uint16_t __attribute__((may_alias));
   const unsigned char *rows = exchange(&row, sizeof row, line);
   for (unsigned j = 0; j < 4; ++j) {
      const unsigned first = j * 8 + self->lane % 4 * 2, column = self->lane / 4;
      const unsigned low = static_cast<const Half *>(matrix_row(rows, first, line))[column];
      const unsigned high = static_cast<const Half *>(matrix_row(rows, first + 1, line))[column];
      r[j] = low | high << 16;
   }
   warp_barrier(line);
}

inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE())
{
   mma(Element::bf16, d, a, b, line);
}
inline void mma_fp16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE())
{
   mma(Element::fp16, d, a, b, line);
}
inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE())
{
   mma(Element::tf32, d, a, b, line);
}
inline void mma_u8s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE())
{
   mma(Signs{false, true}, d, a, b, line);
}
inline void mma_s8u8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE())
{
   mma(Signs{true, false}, d, a, b, line);
}
unsigned to_tf32(float x);
unsigned pack_bf16(float low, float high);
unsigned pack_fp16(float low, float high);

} // namespace instructions
} // namespace cuda_host

using cudaStream_t = cuda_host::Stream *;
using cudaGraph_t = cuda_host::Graph *;
using cudaGraphExec_t = cuda_host::GraphExec *;

#define threadIdx (cuda_host::self->index)
#define blockIdx (cuda_host::place.block)
#define blockDim (cuda_host::place.block_size)
#define gridDim (cuda_host::place.grid_size)
#define SOFIE_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
   cuda_host::launch(kernel, #kernel, blocks, threads, shared_bytes, stream, __VA_ARGS__)
#define SOFIE_SHARED(T, name, byte_offset, count) \
   T *const name = static_cast<T *>(cuda_host::shared(byte_offset, (count) * sizeof(T), alignof(T), __LINE__))

inline void __syncthreads(int line = __builtin_LINE()) { cuda_host::barrier(line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE())
{
   cuda_host::full_mask(mask, line);
   cuda_host::warp_barrier(line);
}

template <class T> T __shfl_sync(unsigned mask, T mine, int lane, int width = 32, int line = __builtin_LINE())
{
   const unsigned size = static_cast<unsigned>(width), first = cuda_host::self->lane / size * size;
   return cuda_host::shuffle(mask, mine, first + static_cast<unsigned>(lane) % size, line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T mine, int bits, int width = 32, int line = __builtin_LINE())
{
   const unsigned size = static_cast<unsigned>(width), here = cuda_host::self->lane;
   const unsigned there = here ^ static_cast<unsigned>(bits);
   return cuda_host::shuffle(mask, mine, there / size > here / size ? here : there, line);
}
template <class T> T __shfl_up_sync(unsigned mask, T mine, unsigned by, int width = 32, int line = __builtin_LINE())
{
   const unsigned here = cuda_host::self->lane;
   return cuda_host::shuffle(mask, mine, here % static_cast<unsigned>(width) < by ? here : here - by, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T mine, unsigned by, int width = 32, int line = __builtin_LINE())
{
   const unsigned size = static_cast<unsigned>(width), here = cuda_host::self->lane;
   return cuda_host::shuffle(mask, mine, here % size + by < size ? here + by : here, line);
}
inline unsigned __ballot_sync(unsigned mask, int mine, int line = __builtin_LINE())
{
   cuda_host::full_mask(mask, line);
   const unsigned char *slots = cuda_host::exchange(&mine, sizeof mine, line);
   unsigned votes = 0;
   for (unsigned lane = 0; lane < cuda_host::self->lanes; ++lane)
      votes |= (cuda_host::slot<int>(slots, lane) != 0 ? 1u : 0u) << lane;
   return votes;
}

// Threads are switched only where they wait, so reading and writing is atomic; ThreadSanitizer is told that it is.
#define CUDA_HOST_ATOMIC(T, name, result)          \
   inline T name(T *at, T value)                   \
   {                                               \
      T old, next;                                 \
      __atomic_load(at, &old, __ATOMIC_RELAXED);   \
      next = result;                               \
      __atomic_store(at, &next, __ATOMIC_RELAXED); \
      return old;                                  \
   }
CUDA_HOST_ATOMIC(int, atomicAdd, static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
CUDA_HOST_ATOMIC(unsigned, atomicAdd, old + value)
CUDA_HOST_ATOMIC(unsigned long long, atomicAdd, old + value)
CUDA_HOST_ATOMIC(float, atomicAdd, old + value)
CUDA_HOST_ATOMIC(double, atomicAdd, old + value)
CUDA_HOST_ATOMIC(int, atomicMax, old < value ? value : old)
CUDA_HOST_ATOMIC(unsigned, atomicMax, old < value ? value : old)
CUDA_HOST_ATOMIC(long long, atomicMax, old < value ? value : old)
CUDA_HOST_ATOMIC(unsigned long long, atomicMax, old < value ? value : old)
#undef CUDA_HOST_ATOMIC

inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline unsigned __float_as_uint(float x)
{
   unsigned bits;
   std::memcpy(&bits, &x, sizeof bits);
   return bits;
}
inline float __uint_as_float(unsigned bits)
{
   float x;
   std::memcpy(&x, &bits, sizeof x);
   return x;
}

// The part of the runtime that sessions use. A stream does its work at once; while it is captured it records.
const char *cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaMalloc(void **memory, std::size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMemcpy(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(
    void *to,
    const void *from,
    std::size_t bytes,
    cudaMemcpyKind kind,
    cudaStream_t stream = nullptr);
cudaError_t cudaMemsetAsync(void *at, int value, std::size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags = 0);
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
   return cudaGraphInstantiate(exec, graph, flags);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
template <class T> cudaError_t cudaFuncSetAttribute(T *kernel, cudaFuncAttribute, int value)
{
   return cuda_host::set_shared_limit(reinterpret_cast<const void *>(kernel), value);
}
#pragma GCC visibility pop

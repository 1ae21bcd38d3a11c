// Kernels for the host emulation: right ones, and the same with a fault each, at the line that says so.
#ifndef __CUDACC__
#include "cuda_host.hxx"
#endif
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

namespace model {
#include "device.cuh"
#define SOFIE_INLINE SOFIE_DEVICE
#include "codes.hxx"
#undef SOFIE_INLINE
#include "tensor_cores.cuh"

enum class Fault {
   none,
   no_barrier,
   early_return,
   shared_index,
   unwritten,
   global_read,
   global_write,
   register_index,
   no_ring_barrier,
   lax_wait,
   other_line,
   blocks_race
};

namespace kernels {

__device__ __forceinline__ float warp_sum(float x)
{
   for (int bits = 16; bits > 0; bits /= 2)
      x += __shfl_xor_sync(0xffffffffu, x, bits);
   return x;
}

// A block of 256 threads sums a row of n elements.
template <Fault fault> __global__ void __launch_bounds__(256) row_sum(float *y, const float *x, int n)
{
   SOFIE_SHARED(float, part, 0, 8);
   const int t = static_cast<int>(threadIdx.x);
   float sum = 0.0f;
   const int end = fault == Fault::global_read ? n + 1 : n;
   for (int k = t; k < end; k += 256)
      sum += x[blockIdx.x * n + k]; // fault: global_read
   sum = warp_sum(sum);
   if (fault == Fault::early_return && t >= 224)
      return;
   if (t % 32 == 0 && (fault != Fault::unwritten || t != 64))
      part[t / 32 + (fault == Fault::shared_index ? 1 : 0)] = sum; // fault: shared_index
   if (fault != Fault::no_barrier)
      __syncthreads(); // fault: early_return
   if (t < 32) {
      sum = t < 8 ? part[t] : 0.0f; // fault: no_barrier
      if (fault == Fault::other_line && t == 5)
         for (int bits = 16; bits > 0; bits /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, bits); // fault: other_line
      else
         sum = warp_sum(sum);
      if (t == 0)
         y[blockIdx.x + (fault == Fault::global_write ? gridDim.x : 0)] = sum; // fault: global_write
   }
}

// Every thread doubles one element; the fault: two blocks write the same.
template <Fault fault> __global__ void __launch_bounds__(32) twice(float *y, const float *x, int n)
{
   const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
   if (at < n)
      y[fault == Fault::blocks_race ? at % 32 : at] = 2.0f * x[at]; // fault: blocks_race
}

// y[t] = x[8 t] + ... + x[8 t + 7], through registers.
template <Fault fault> __global__ void __launch_bounds__(32) eights(float *y, const float *x, int n)
{
   float kept[8];
   const int t = static_cast<int>(threadIdx.x);
#pragma unroll
   for (int k = 0; k < 8; ++k)
      kept[k] = x[8 * t + k];
   float sum = 0.0f;
   for (int k = 0; k < (fault == Fault::register_index ? n + 1 : n); ++k)
      sum += kept[k]; // fault: register_index
   y[t] = sum;
}

// C[m][n] = A[m][k] B[k][n] by tiles of 16 x 16 and 64 threads; a ring of three stages of asynchronous copies. n and k
// are multiples of 16; rows of A beyond m are zeros.
template <Fault fault>
__global__ void __launch_bounds__(64) product(float *c, const float *a, const float *b, int m, int n, int k)
{
   constexpr int stages = 3, tile = 16 * 16;
   SOFIE_SHARED(float, as, 0, stages *tile);
   SOFIE_SHARED(float, bs, stages * tile * 4, stages * tile);
   const int t = static_cast<int>(threadIdx.x), row = t / 4, column = t % 4 * 4;
   const int top = static_cast<int>(blockIdx.y) * 16, left = static_cast<int>(blockIdx.x) * 16;
   const auto load = [&](int step) {
      const int to = step % stages * tile + t * 4;
      detail::cp_async16(as + to, a + (top + row) * k + step * 16 + column, top + row < m);
      detail::cp_async16(bs + to, b + (step * 16 + row) * n + left + column, true);
   };
   float sum[4] = {};
   const int steps = k / 16;
#pragma unroll
   for (int s = 0; s < stages - 1; ++s) {
      if (s < steps)
         load(s);
      detail::cp_async_commit();
   }
   for (int s = 0; s < steps; ++s) {
      detail::cp_async_wait<stages - (fault == Fault::lax_wait ? 1 : 2)>();
      if (fault != Fault::no_ring_barrier)
         __syncthreads();
      if (s + stages - 1 < steps)
         load(s + stages - 1);
      detail::cp_async_commit();
      const float *at = as + s % stages * tile, *bt = bs + s % stages * tile;
      for (int q = 0; q < 16; ++q)
#pragma unroll
         for (int j = 0; j < 4; ++j)
            sum[j] += at[row * 16 + q] * bt[q * 16 + column + j]; // fault: no_ring_barrier
   }
   if (top + row < m)
      *reinterpret_cast<float4 *>(c + (top + row) * n + left + column) = make_float4(sum[0], sum[1], sum[2], sum[3]);
}

// d[16][8] += A[16][32] B[32][8] by one warp, in halves: A through ldmatrix, B through its transposing form.
template <bool brain> __global__ void __launch_bounds__(32) matrix_halves(float *d, const float *a, const float *b)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
   constexpr int pitch = 40;
   SOFIE_SHARED(std::uint16_t, as, 0, 16 * pitch);
   SOFIE_SHARED(std::uint16_t, bs, 16 * pitch * 2, 32 * 8);
   const auto pack = [](float low, float high) {
      return brain ? detail::pack_bf16(low, high) : detail::pack_fp16(low, high);
   };
   const int lane = static_cast<int>(threadIdx.x);
   for (int k = lane; k < 16 * 16; k += 32)
      *reinterpret_cast<unsigned *>(as + k / 16 * pitch + k % 16 * 2) = pack(a[2 * k], a[2 * k + 1]);
   for (int k = lane; k < 32 * 4; k += 32)
      *reinterpret_cast<unsigned *>(bs + 2 * k) = pack(b[2 * k], b[2 * k + 1]);
   __syncwarp();
   float sum[4] = {};
   unsigned right[4];
   detail::ldmatrix_x4_trans(right, bs + lane * 8);
#pragma unroll
   for (int s = 0; s < 2; ++s) {
      unsigned left[4];
      detail::ldmatrix_x4(left, as + lane % 16 * pitch + s * 16 + lane / 16 * 8);
      const unsigned two[2] = {right[2 * s], right[2 * s + 1]};
      if (brain)
         detail::mma_bf16(sum, left, two);
      else
         detail::mma_fp16(sum, left, two);
   }
#pragma unroll
   for (int i = 0; i < 4; ++i)
      d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
#endif
}

// The same in tf32, with A as it lies in memory: a row of a matrix is four floats.
__global__ void __launch_bounds__(32) matrix_tf32(float *d, const float *a, const float *b)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
   constexpr int pitch = 36;
   SOFIE_SHARED(float, as, 0, 16 * pitch);
   const int lane = static_cast<int>(threadIdx.x);
   for (int k = lane; k < 16 * 32; k += 32)
      detail::cp_async4(as + k / 32 * pitch + k % 32, a + k, true);
   detail::cp_async_commit();
   detail::cp_async_wait<0>();
   __syncwarp();
   float sum[4] = {};
#pragma unroll
   for (int s = 0; s < 4; ++s) {
      unsigned left[4], right[2];
      detail::ldmatrix_x4(left, as + lane % 16 * pitch + s * 8 + lane / 16 * 4);
#pragma unroll
      for (int i = 0; i < 4; ++i)
         left[i] = detail::to_tf32(__uint_as_float(left[i]));
#pragma unroll
      for (int i = 0; i < 2; ++i)
         right[i] = detail::to_tf32(b[(s * 8 + i * 4 + lane % 4) * 8 + lane / 4]);
      detail::mma_tf32(sum, left, right);
   }
#pragma unroll
   for (int i = 0; i < 4; ++i)
      d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
#endif
}

// Floats rounded to bf16 and fp16 (two a word) and to tf32.
__global__ void __launch_bounds__(32) rounded(unsigned *y, const float *x)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
   const int t = static_cast<int>(threadIdx.x);
   y[3 * t] = detail::pack_bf16(x[t], -x[t]);
   y[3 * t + 1] = detail::pack_fp16(x[t], -x[t]);
   y[3 * t + 2] = detail::to_tf32(x[t]);
#endif
}

// Each kind of shuffle and a ballot; the last warp of 48 threads is half.
__global__ void __launch_bounds__(48) shuffles(double *y)
{
   const int t = static_cast<int>(threadIdx.x), lane = t % 32;
   const long long wide = (1LL << 40) + t;
   double *at = y + 6 * t;
   at[0] = static_cast<double>(__shfl_sync(0xffffffffu, wide, 3));
   at[1] = __shfl_up_sync(0xffffffffu, static_cast<double>(t), 2);
   at[2] = __shfl_down_sync(0xffffffffu, static_cast<float>(t), lane < 12 ? 2 : 0);
   at[3] = __shfl_xor_sync(0xffffffffu, static_cast<unsigned>(t), 5);
   at[4] = __ballot_sync(0xffffffffu, t % 3 == 0);
   at[5] = __shfl_down_sync(0xffffffffu, t, 1, 8);
}

// Counts, sums and the largest of what all threads bring; every thread's place in the grid.
__global__ void __launch_bounds__(24)
    atomics(int *count, unsigned *most, float *sum, double *precise, unsigned long long *wide, unsigned *places)
{
   const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
   const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
   const unsigned at = block * blockDim.x * blockDim.y * blockDim.z + thread;
   atomicAdd(count, 1);
   atomicMax(most, at);
   atomicAdd(sum, 0.5f);
   atomicAdd(precise, 0.25);
   atomicAdd(wide, 1ULL << 33);
   places[at] = at;
}

// Which thread comes when.
__global__ void __launch_bounds__(32) arrivals(int *count, int *order)
{
   order[atomicAdd(count, 1)] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

// Reads a word of as much shared memory as it is launched with.
__global__ void __launch_bounds__(32) large(float *y, int bytes)
{
   SOFIE_SHARED(float, whole, 0, static_cast<std::size_t>(bytes) / 4);
   const unsigned t = threadIdx.x, last = static_cast<unsigned>(bytes) / 4 - 1;
   whole[last - t] = static_cast<float>(t);
   y[t] = whole[last - t];
}

} // namespace kernels
} // namespace model

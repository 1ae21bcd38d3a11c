// What the kernels below are written in: indices, launches, and the few scalar acts that C++ leaves undefined.

using index = std::ptrdiff_t;

#define SOFIE_DEVICE __host__ __device__ __forceinline__ // a launch computes its blocks by them

#ifndef SOFIE_LAUNCH // where CUDA is emulated, that defines both
#define SOFIE_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
   kernel<<<blocks, threads, shared_bytes, stream>>>(__VA_ARGS__)
// An array in the shared memory that its kernel is launched with.
#define SOFIE_SHARED(T, name, byte_offset, count) \
   T *const name = reinterpret_cast<T *>(detail::dynamic_shared() + (byte_offset))
#endif

namespace detail {

#ifdef __CUDACC__
__device__ __forceinline__ unsigned char *dynamic_shared()
{
   extern __shared__ __align__(128) unsigned char bytes[];
   return bytes;
}
#endif

// A typed pointer into the arena or the weights, `bytes` from its start.
template <class T, class Byte> T *at(Byte *base, std::size_t bytes) { return reinterpret_cast<T *>(base + bytes); }

// Raises what CUDA says, with the kernel and its ONNX nodes.
inline void check(cudaError_t status, const char *what)
{
   if (status != cudaSuccess)
      throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Memory of the device, freed with the last copy of the pointer.
inline std::shared_ptr<unsigned char> device_memory(std::size_t bytes)
{
   void *memory = nullptr;
   check(cudaMalloc(&memory, bytes), "memory of the device");
   return std::shared_ptr<unsigned char>(static_cast<unsigned char *>(memory), [](unsigned char *p) { cudaFree(p); });
}

// A number that the device has computed: waits for it.
template <class T> T fetch(const T *from, cudaStream_t stream)
{
   T value{};
   check(cudaMemcpyAsync(&value, from, sizeof value, cudaMemcpyDeviceToHost, stream), "a condition");
   check(cudaStreamSynchronize(stream), "a condition");
   return value;
}

// Integer arithmetic that wraps.
template <class T> SOFIE_DEVICE T wrapping_add(T a, T b)
{
   return static_cast<T>(static_cast<unsigned long long>(a) + static_cast<unsigned long long>(b));
}

template <class T> SOFIE_DEVICE T wrapping_sub(T a, T b)
{
   return static_cast<T>(static_cast<unsigned long long>(a) - static_cast<unsigned long long>(b));
}

template <class T> SOFIE_DEVICE T wrapping_mul(T a, T b)
{
   return static_cast<T>(static_cast<unsigned long long>(a) * static_cast<unsigned long long>(b));
}

// Integer division that never traps: by zero it gives 0, and the least integer by -1 wraps.
template <class T> SOFIE_DEVICE T quotient(T a, T b)
{
   constexpr bool has_sign = static_cast<T>(-1) < static_cast<T>(1);
   if (has_sign && b == static_cast<T>(-1))
      return wrapping_sub(T{}, a);
   return b == T{} ? T{} : static_cast<T>(a / b);
}

template <class T> SOFIE_DEVICE T remainder(T a, T b)
{
   constexpr bool has_sign = static_cast<T>(-1) < static_cast<T>(1);
   return b == T{} || (has_sign && b == static_cast<T>(-1)) ? T{} : static_cast<T>(a % b);
}

// Shifts that may move every bit out.
template <class T> SOFIE_DEVICE T shift_left(T a, T b)
{
   return static_cast<std::size_t>(b) < 8 * sizeof(T) ? static_cast<T>(a << b) : T{};
}

template <class T> SOFIE_DEVICE T shift_right(T a, T b)
{
   if (static_cast<std::size_t>(b) < 8 * sizeof(T))
      return static_cast<T>(a >> b);
   if constexpr (std::is_signed_v<T>)
      return a < T{} ? static_cast<T>(-1) : T{};
   return T{};
}

// The bits of a number as another type of its size.
template <class To, class From> SOFIE_DEVICE To bit_cast(From from)
{
   static_assert(sizeof(To) == sizeof(From), "a bit pattern keeps its size");
   To to{};
   memcpy(&to, &from, sizeof to);
   return to;
}

// The larger and the smaller of two; NaN if either is NaN.
template <class T> SOFIE_DEVICE T maximum(T a, T b) { return ((a < b) | (b != b)) ? b : a; }

template <class T> SOFIE_DEVICE T minimum(T a, T b) { return ((b < a) | (b != b)) ? b : a; }

// The same; the other one where one is NaN.
template <class T> SOFIE_DEVICE T maximum_number(T a, T b) { return ((a < b) | (a != a)) ? b : a; }

template <class T> SOFIE_DEVICE T minimum_number(T a, T b) { return ((b < a) | (a != a)) ? b : a; }

// How the values of several threads become one.
struct Add {
   template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
struct Mul {
   template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a * b; }
};
struct Max {
   template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return maximum(a, b); }
};
struct Min {
   template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return minimum(a, b); }
};
struct And {
   template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a & b; }
};
struct Or {
   template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a | b; }
};
struct Xor {
   template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a ^ b; }
};

// What the values of all threads of a warp come to, in each of them.
template <class Combine, class T> __device__ __forceinline__ T warp_reduce(T x)
{
   for (int distance = 16; distance > 0; distance /= 2)
      x = Combine()(x, static_cast<T>(__shfl_xor_sync(0xffffffffu, x, distance)));
   return x;
}

// What the values of all threads of a block come to, in each of them; `memory` has room for a number a warp.
template <class Combine, class T> __device__ __forceinline__ T block_reduce(T x, unsigned char *memory)
{
   T *const partials = reinterpret_cast<T *>(memory);
   x = warp_reduce<Combine>(x);
   if (threadIdx.x % 32 == 0)
      partials[threadIdx.x / 32] = x;
   __syncthreads();
   x = partials[0];
   for (unsigned warp = 1; warp < blockDim.x / 32; ++warp)
      x = Combine()(x, partials[warp]);
   __syncthreads();
   return x;
}

// a * b + c in one rounding.
SOFIE_DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
SOFIE_DEVICE double multiply_add(double a, double b, double c) { return ::fma(a, b, c); }

// What CUDA's mathematics has, on float and on double.
#define SOFIE_MATH(name, function)                               \
   SOFIE_DEVICE float name(float x) { return ::function##f(x); } \
   SOFIE_DEVICE double name(double x) { return ::function(x); }
#define SOFIE_MATH_2(name)                                               \
   SOFIE_DEVICE float name(float x, float y) { return ::name##f(x, y); } \
   SOFIE_DEVICE double name(double x, double y) { return ::name(x, y); }

SOFIE_MATH(abs, fabs)
SOFIE_MATH(floor, floor)
SOFIE_MATH(ceil, ceil)
SOFIE_MATH(trunc, trunc)
SOFIE_MATH(round_even, rint)
SOFIE_MATH(expm1, expm1)
SOFIE_MATH(log1p, log1p)
SOFIE_MATH(sin, sin)
SOFIE_MATH(cos, cos)
SOFIE_MATH(tan, tan)
SOFIE_MATH(asin, asin)
SOFIE_MATH(acos, acos)
SOFIE_MATH(atan, atan)
SOFIE_MATH(sinh, sinh)
SOFIE_MATH(cosh, cosh)
SOFIE_MATH(asinh, asinh)
SOFIE_MATH(acosh, acosh)
SOFIE_MATH(atanh, atanh)
SOFIE_MATH_2(pow)
SOFIE_MATH_2(copysign)

SOFIE_DEVICE float fma(float x, float y, float z) { return fmaf(x, y, z); }
SOFIE_DEVICE double fma(double x, double y, double z) { return ::fma(x, y, z); }

} // namespace detail

SOFIE_MATH(exp, exp)
SOFIE_MATH(log, log)
SOFIE_MATH(sqrt, sqrt)
SOFIE_MATH(tanh, tanh)
SOFIE_MATH(quick_tanh, tanh)
SOFIE_MATH(erf, erf)

#undef SOFIE_MATH
#undef SOFIE_MATH_2

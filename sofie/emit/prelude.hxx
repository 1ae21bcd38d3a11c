// What the kernels below are written in: indices, unaligned vector access, and the few scalar acts that C++ leaves undefined.

using index = std::ptrdiff_t;

#define SOFIE_INLINE SOFIE_TARGET inline __attribute__((always_inline))

namespace detail {

// A typed pointer into the arena or the weights, `bytes` from its start.
template <class T, class Byte> inline T *at(Byte *base, std::size_t bytes)
{
   return reinterpret_cast<T *>(base + bytes);
}

// The larger and the smaller of two; NaN if either is NaN.
template <class T> SOFIE_INLINE T maximum(T a, T b)
{
   return ((a < b) | (b != b)) ? b : a;
}

template <class T> SOFIE_INLINE T minimum(T a, T b)
{
   return ((b < a) | (b != b)) ? b : a;
}

// Integer arithmetic that wraps.
template <class T> SOFIE_INLINE T wrapping_add(T a, T b)
{
   T result{};
   static_cast<void>(__builtin_add_overflow(a, b, &result));
   return result;
}

template <class T> SOFIE_INLINE T wrapping_sub(T a, T b)
{
   T result{};
   static_cast<void>(__builtin_sub_overflow(a, b, &result));
   return result;
}

template <class T> SOFIE_INLINE T wrapping_mul(T a, T b)
{
   T result{};
   static_cast<void>(__builtin_mul_overflow(a, b, &result));
   return result;
}

} // namespace detail

// What the kernels below are written in, whatever the CPU: indices, and the few scalar acts that C++ leaves undefined.

using index = std::ptrdiff_t;

#define SOFIE_INLINE inline __attribute__((always_inline))

namespace detail {

// A typed pointer into the arena or the weights, `bytes` from its start.
template <class T, class Byte> SOFIE_INLINE T *at(Byte *base, std::size_t bytes)
{
   return reinterpret_cast<T *>(base + bytes);
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

// Integer division that never traps: by zero it gives 0, and the least integer by -1 wraps.
template <class T> SOFIE_INLINE T quotient(T a, T b)
{
   constexpr bool has_sign = static_cast<T>(-1) < static_cast<T>(1);
   if (has_sign && b == static_cast<T>(-1))
      return wrapping_sub(T{}, a);
   return b == T{} ? T{} : static_cast<T>(a / b);
}

template <class T> SOFIE_INLINE T remainder(T a, T b)
{
   constexpr bool has_sign = static_cast<T>(-1) < static_cast<T>(1);
   return b == T{} || (has_sign && b == static_cast<T>(-1)) ? T{} : static_cast<T>(a % b);
}

// Shifts that may move every bit out.
template <class T> SOFIE_INLINE T shift_left(T a, T b)
{
   return static_cast<std::size_t>(b) < 8 * sizeof(T) ? static_cast<T>(a << b) : T{};
}

template <class T> SOFIE_INLINE T shift_right(T a, T b)
{
   if (static_cast<std::size_t>(b) < 8 * sizeof(T))
      return static_cast<T>(a >> b);
   return a < T{} ? static_cast<T>(-1) : T{};
}

// The bits of a number as another type of its size.
template <class To, class From> SOFIE_INLINE To bit_cast(From from)
{
   static_assert(sizeof(To) == sizeof(From), "a bit pattern keeps its size");
   To to{};
   __builtin_memcpy(&to, &from, sizeof to);
   return to;
}

// What libm computes, on float and on double.
#define SOFIE_LIBM(name, builtin)                                         \
   SOFIE_INLINE float name(float x) { return __builtin_##builtin##f(x); } \
   SOFIE_INLINE double name(double x) { return __builtin_##builtin(x); }
#define SOFIE_LIBM_2(name)                                                         \
   SOFIE_INLINE float name(float x, float y) { return __builtin_##name##f(x, y); } \
   SOFIE_INLINE double name(double x, double y) { return __builtin_##name(x, y); }

SOFIE_LIBM(abs, fabs)
SOFIE_LIBM(floor, floor)
SOFIE_LIBM(ceil, ceil)
SOFIE_LIBM(trunc, trunc)
SOFIE_LIBM(round_even, rint) // in the rounding mode that every program starts in
SOFIE_LIBM(expm1, expm1)
SOFIE_LIBM(log1p, log1p)
SOFIE_LIBM(sin, sin)
SOFIE_LIBM(cos, cos)
SOFIE_LIBM(tan, tan)
SOFIE_LIBM(asin, asin)
SOFIE_LIBM(acos, acos)
SOFIE_LIBM(atan, atan)
SOFIE_LIBM(sinh, sinh)
SOFIE_LIBM(cosh, cosh)
SOFIE_LIBM(asinh, asinh)
SOFIE_LIBM(acosh, acosh)
SOFIE_LIBM(atanh, atanh)
SOFIE_LIBM_2(pow)
SOFIE_LIBM_2(copysign)

SOFIE_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
SOFIE_INLINE double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }

#undef SOFIE_LIBM
#undef SOFIE_LIBM_2

} // namespace detail

#undef SOFIE_INLINE

// What the kernels of one CPU are written in: its functions carry its target, since they take vectors by value.

#define SOFIE_INLINE SOFIE_TARGET inline __attribute__((always_inline))

// A kernel outside of loops stays a function: inlined beside the next one, what it stores and the other loads would be
// shuffled between registers, which g++ then spills in the middle of sums.
#define SOFIE_KERNEL SOFIE_TARGET inline __attribute__((noinline))

namespace detail {
using namespace shared;

// a or b, whichever is larger or smaller: b where they are equal or either is NaN, as the instructions of x86 do it.
template <class T> SOFIE_INLINE T larger(T a, T b) { return a > b ? a : b; }

template <class T> SOFIE_INLINE T smaller(T a, T b) { return a < b ? a : b; }

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// g++ finds these instructions for single elements only. -1 and 4: all lanes, whatever the rounding.
#define SOFIE_EXTREMA(element, bytes, maximum, minimum)                                                            \
   typedef element element##_##bytes##_v __attribute__((vector_size(bytes)));                                      \
   SOFIE_INLINE element##_##bytes##_v larger(element##_##bytes##_v a, element##_##bytes##_v b) { return maximum; } \
   SOFIE_INLINE element##_##bytes##_v smaller(element##_##bytes##_v a, element##_##bytes##_v b) { return minimum; }
#if SOFIE_LANES >= 4
SOFIE_EXTREMA(float, 16, __builtin_ia32_maxps(a, b), __builtin_ia32_minps(a, b))
SOFIE_EXTREMA(double, 16, __builtin_ia32_maxpd(a, b), __builtin_ia32_minpd(a, b))
#endif
#if SOFIE_LANES >= 8
SOFIE_EXTREMA(float, 32, __builtin_ia32_maxps256(a, b), __builtin_ia32_minps256(a, b))
SOFIE_EXTREMA(double, 32, __builtin_ia32_maxpd256(a, b), __builtin_ia32_minpd256(a, b))
#endif
#if SOFIE_LANES >= 16
SOFIE_EXTREMA(float, 64, __builtin_ia32_maxps512_mask(a, b, b, -1, 4), __builtin_ia32_minps512_mask(a, b, b, -1, 4))
SOFIE_EXTREMA(double, 64, __builtin_ia32_maxpd512_mask(a, b, b, -1, 4), __builtin_ia32_minpd512_mask(a, b, b, -1, 4))
#endif
#undef SOFIE_EXTREMA
#endif

// The larger and the smaller of two; NaN if either is NaN.
template <class T> SOFIE_INLINE T maximum(T a, T b) { return b != b ? b : larger(b, a); }

template <class T> SOFIE_INLINE T minimum(T a, T b) { return b != b ? b : smaller(b, a); }

// The larger and the smaller of two; the other one where one is NaN.
template <class T> SOFIE_INLINE T maximum_number(T a, T b) { return b != b ? a : larger(a, b); }

template <class T> SOFIE_INLINE T minimum_number(T a, T b) { return b != b ? a : smaller(a, b); }

// A vector's elements, or a number where they are smaller or larger than that.
template <class V, class T> SOFIE_INLINE V at_least(V x, T limit) { return larger(limit - V{}, x); }

template <class V, class T> SOFIE_INLINE V at_most(V x, T limit) { return smaller(limit - V{}, x); }

#if defined(SOFIE_EXACT)
// a * b, rounded before anything is added to it.
template <class A, class B> SOFIE_INLINE auto product(A a, B b)
{
   SOFIE_EXACT
   auto result = a * b;
#if defined(__clang__) && defined(__FAST_MATH__) && defined(__SSE2__)
   __asm__("" : "+v"(result));
#elif defined(__clang__) && defined(__FAST_MATH__) && defined(__aarch64__)
   __asm__("" : "+w"(result));
#endif
   return result;
}
#endif

} // namespace detail

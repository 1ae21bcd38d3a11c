// What the kernels of one CPU are written in: its functions carry its target, since they take vectors by value.

#define SOFIE_INLINE SOFIE_TARGET inline __attribute__((always_inline))

// A kernel outside of loops stays a function: inlined beside the next one, what it stores and the other loads would be
// shuffled between registers, which g++ then spills in the middle of sums.
#define SOFIE_KERNEL SOFIE_TARGET inline __attribute__((noinline))

namespace detail {
using namespace shared;

// The larger and the smaller of two; NaN if either is NaN.
template <class T> SOFIE_INLINE T maximum(T a, T b) { return ((a < b) | (b != b)) ? b : a; }

template <class T> SOFIE_INLINE T minimum(T a, T b) { return ((b < a) | (b != b)) ? b : a; }

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

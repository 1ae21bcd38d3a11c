// Multiply-adds that round alike on vectors, on single elements and in whatever loop they stand.
//
// Compilers fuse a product with its sum where they please: g++ within a basic block, so that unrolling or moving a
// product out of a loop changes the last bit. Here the code says it, and whether there is one rounding or two is
// decided by SOFIE_FMA alone: defined where the CPU of the kernels has the instruction.

#if defined(__clang__) && defined(__SSE2__) // elsewhere, older clangs have no float_control
#define SOFIE_STRICT _Pragma("float_control(precise, on)")
#elif defined(__clang__)
#define SOFIE_STRICT _Pragma("clang fp reassociate(off)")
#else
#define SOFIE_STRICT
#endif
#if defined(__clang__) && defined(SOFIE_FMA)
#define SOFIE_ONE_EXPRESSION SOFIE_STRICT _Pragma("clang fp contract(on)")
#elif defined(__clang__)
#define SOFIE_ONE_EXPRESSION SOFIE_STRICT _Pragma("clang fp contract(off)")
#else
#define SOFIE_ONE_EXPRESSION
#endif

namespace detail {

#if defined(SOFIE_FMA) && !defined(__clang__)
SOFIE_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

SOFIE_INLINE double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

// g++ has no operation for vectors that every CPU shares. -1 and 4: all lanes, rounded as everywhere.
#define SOFIE_FUSED(element, bytes, instruction)                                                       \
   typedef element element##_##bytes __attribute__((vector_size(bytes)));                              \
   SOFIE_INLINE element##_##bytes fused(element##_##bytes a, element##_##bytes b, element##_##bytes c) \
   {                                                                                                   \
      return instruction;                                                                              \
   }
#if defined(__x86_64__)
SOFIE_FUSED(float, 16, __builtin_ia32_vfmaddps(a, b, c))
SOFIE_FUSED(double, 16, __builtin_ia32_vfmaddpd(a, b, c))
SOFIE_FUSED(float, 32, __builtin_ia32_vfmaddps256(a, b, c))
SOFIE_FUSED(double, 32, __builtin_ia32_vfmaddpd256(a, b, c))
#if SOFIE_LANES >= 16
SOFIE_FUSED(float, 64, __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4))
SOFIE_FUSED(double, 64, __builtin_ia32_vfmaddpd512_mask(a, b, c, -1, 4))
#endif
#elif defined(__aarch64__)
SOFIE_FUSED(float, 16, __builtin_aarch64_fmav4sf(a, b, c))
SOFIE_FUSED(double, 16, __builtin_aarch64_fmav2df(a, b, c))
#endif
#undef SOFIE_FUSED
#endif

// a * b + c, in one rounding where the CPU has the instruction and in two elsewhere; a float stands for all lanes.
template <class A, class B, class C> SOFIE_INLINE auto multiply_add(A a, B b, C c)
{
#if defined(SOFIE_FMA) && !defined(__clang__)
   typedef decltype(a * b + c) Sum;
   return fused(a - Sum{}, b - Sum{}, c - Sum{});
#else
   SOFIE_ONE_EXPRESSION
   return a * b + c;
#endif
}

} // namespace detail

#undef SOFIE_ONE_EXPRESSION
#undef SOFIE_STRICT

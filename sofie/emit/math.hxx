// Elementary functions on float and on float vectors: exp, log, tanh, quick_tanh, sigmoid, erf and sqrt.
//
// Pasted inside a model's namespace, so that a generated header needs neither libm's vector variants nor an intrinsics
// header. A kernel calls the same name on a vector in the body of its loop and on a float in the tail; both must give
// the same bits, or an element's value would depend on its position in the tensor. Hence every function has one
// definition, a template over the type.
//
// Expects fma.hxx before it, SOFIE_TARGET (a target attribute or nothing) and SOFIE_LANES: the widest vector in floats,
// 1, 4, 8 or 16.
// SOFIE_EXACT, where it is defined, asks for the same bits on every CPU: then no product is fused with its sum.
// SOFIE_TARGET stands on every function because a vector wider than the translation unit's own target may only be
// passed by value between functions compiled for the wider one.
//
// How equal bits are kept:
//  - A multiplication followed by an addition is written multiply_add and nowhere else: that of fma.hxx, which has one
//    rounding or two as SOFIE_FMA says.
//  - opaque() ends every such step. It keeps the optimiser from fusing an addition with a second candidate, a product
//    of the caller included, and from reassociating under -ffast-math, which would cancel the rounding constant.
//  - clang tags each instruction with its floating-point permissions; SOFIE_STRICT_FLOAT withdraws them in its
//    function. g++ keeps them per function and drops them on inlining, so that neither a pragma nor
//    __attribute__((optimize)) can replace opaque() there.
//  - Under -ffast-math g++ turns vector divisions and square roots on x86 into estimates, unless the built-in function
//    of the instruction asks for it by name.
// Under -ffast-math the compiler may still lose NaNs, and the start-up code it links flushes denormals to zero.

#define SOFIE_MATH SOFIE_TARGET inline __attribute__((always_inline))

// Older clangs have float_control on x86 only. Elsewhere its other prohibitions matter to NaNs alone.
#if defined(__clang__) && defined(__SSE2__)
#define SOFIE_STRICT_FLOAT _Pragma("float_control(precise, on)") _Pragma("clang fp contract(off)")
#elif defined(__clang__)
#define SOFIE_STRICT_FLOAT _Pragma("clang fp reassociate(off) contract(off)")
#else
#define SOFIE_STRICT_FLOAT
#endif

// clang's built-in functions ignore float_control: under -ffast-math, square roots on x86 become estimates.
#if defined(__clang__) && defined(__SSE2__) && __FINITE_MATH_ONLY__
#define SOFIE_ESTIMATES_ROOT 1
#else
#define SOFIE_ESTIMATES_ROOT 0
#endif

// clang 17 and later have a root of any vector, and lately no longer the built-in functions of the instructions.
#define SOFIE_ELEMENTWISE_ROOT 0
#if defined(__clang__)
#if __has_builtin(__builtin_elementwise_sqrt)
#undef SOFIE_ELEMENTWISE_ROOT
#define SOFIE_ELEMENTWISE_ROOT 1
#endif
#endif

#if SOFIE_LANES >= 4
typedef float v4f32 __attribute__((vector_size(16)));
typedef int v4i32 __attribute__((vector_size(16)));
typedef unsigned v4u32 __attribute__((vector_size(16)));
#endif
#if SOFIE_LANES >= 8
typedef float v8f32 __attribute__((vector_size(32)));
typedef int v8i32 __attribute__((vector_size(32)));
typedef unsigned v8u32 __attribute__((vector_size(32)));
#endif
#if SOFIE_LANES >= 16
typedef float v16f32 __attribute__((vector_size(64)));
typedef int v16i32 __attribute__((vector_size(64)));
typedef unsigned v16u32 __attribute__((vector_size(64)));
#endif

namespace detail {
namespace math {

// The integers as wide as V. Bit patterns are computed on as unsigned, where wrapping is defined.
template <class V> struct Integers;
template <> struct Integers<float> {
   typedef int Signed;
   typedef unsigned Unsigned;
};
#if SOFIE_LANES >= 4
template <> struct Integers<v4f32> {
   typedef v4i32 Signed;
   typedef v4u32 Unsigned;
};
#endif
#if SOFIE_LANES >= 8
template <> struct Integers<v8f32> {
   typedef v8i32 Signed;
   typedef v8u32 Unsigned;
};
#endif
#if SOFIE_LANES >= 16
template <> struct Integers<v16f32> {
   typedef v16i32 Signed;
   typedef v16u32 Unsigned;
};
#endif

template <class To, class From> SOFIE_MATH To reinterpret(const From &from)
{
   static_assert(sizeof(To) == sizeof(From), "a bit pattern keeps its size");
   To to;
   __builtin_memcpy(&to, &from, sizeof to);
   return to;
}

template <class V> SOFIE_MATH typename Integers<V>::Unsigned bits(V value)
{
   return reinterpret<typename Integers<V>::Unsigned>(value);
}

template <class V> SOFIE_MATH typename Integers<V>::Signed signed_bits(V value)
{
   return reinterpret<typename Integers<V>::Signed>(value);
}

template <class V> SOFIE_MATH V splat(float value) { return V{} + value; }

// The value itself, of which the optimiser may assume nothing. Not __builtin_assoc_barrier: g++ drops that when it
// vectorises a loop over the scalar code.
template <class V> SOFIE_MATH V opaque(V value)
{
#if defined(__clang__) && !(defined(SOFIE_EXACT) && defined(__FAST_MATH__))
   // SOFIE_STRICT_FLOAT already keeps the optimiser to its word, but for -ffast-math, which fuses all the same.
#elif defined(__SSE2__)
   __asm__("" : "+x"(value));
#elif defined(__aarch64__)
   __asm__("" : "+w"(value));
#else
   __asm__("" : "+m"(value));
#endif
   return value;
}

// a * b + c, in one rounding where the target has the instruction and in two elsewhere. b and c may be float constants.
template <class V, class Factor, class Addend> SOFIE_MATH V multiply_add(V a, Factor b, Addend c)
{
#if defined(SOFIE_EXACT)
   SOFIE_STRICT_FLOAT
   const V product = opaque(a * b);
   return opaque(product + c);
#else
   return opaque(detail::multiply_add(a, b, c));
#endif
}

// a / b and the square root of x, correctly rounded.
SOFIE_MATH float quotient(float a, float b)
{
   SOFIE_STRICT_FLOAT
   return opaque(a / b);
}

SOFIE_MATH float square_root(float x)
{
#if SOFIE_ESTIMATES_ROOT
   // Of the double root there is no estimate, and rounding it gives the float root: it has more than twice the digits.
   double root = __builtin_sqrt(static_cast<double>(x));
   __asm__("" : "+x"(root));
   return static_cast<float>(root);
#else
   return opaque(__builtin_sqrtf(x));
#endif
}

// The vectors name the instruction: division against g++'s estimates, the root because without -fno-math-errno the
// compilers must not vectorise __builtin_sqrtf. clang has no built-in function for division and needs none.
#if SOFIE_LANES >= 4
SOFIE_MATH v4f32 quotient(v4f32 a, v4f32 b)
{
   SOFIE_STRICT_FLOAT
#if defined(__SSE2__) && !defined(__clang__)
   return __builtin_ia32_divps(a, b);
#else
   return a / b;
#endif
}

SOFIE_MATH v4f32 square_root(v4f32 x)
{
#if SOFIE_ELEMENTWISE_ROOT && !SOFIE_ESTIMATES_ROOT
   return __builtin_elementwise_sqrt(x);
#elif defined(__SSE2__) && !SOFIE_ESTIMATES_ROOT
   return __builtin_ia32_sqrtps(x);
#else
   for (int lane = 0; lane < 4; ++lane)
      x[lane] = square_root(x[lane]);
   return x;
#endif
}
#endif

#if SOFIE_LANES >= 8
SOFIE_MATH v8f32 quotient(v8f32 a, v8f32 b)
{
   SOFIE_STRICT_FLOAT
#if defined(__SSE2__) && !defined(__clang__)
   return __builtin_ia32_divps256(a, b);
#else
   return a / b;
#endif
}

SOFIE_MATH v8f32 square_root(v8f32 x)
{
#if SOFIE_ELEMENTWISE_ROOT && !SOFIE_ESTIMATES_ROOT
   return __builtin_elementwise_sqrt(x);
#elif defined(__SSE2__) && !SOFIE_ESTIMATES_ROOT
   return __builtin_ia32_sqrtps256(x);
#else
   for (int lane = 0; lane < 8; ++lane)
      x[lane] = square_root(x[lane]);
   return x;
#endif
}
#endif

#if SOFIE_LANES >= 16
SOFIE_MATH v16f32 quotient(v16f32 a, v16f32 b)
{
   SOFIE_STRICT_FLOAT
#if defined(__SSE2__) && !defined(__clang__)
   return __builtin_ia32_divps512_mask(a, b, a, -1, 4);
#else
   return a / b;
#endif
}

SOFIE_MATH v16f32 square_root(v16f32 x)
{
#if defined(__clang__) && defined(__SSE2__) && !SOFIE_ESTIMATES_ROOT
   return __builtin_ia32_sqrtps512(x, 4); // 4: round to nearest, as everywhere
#elif defined(__SSE2__) && !SOFIE_ESTIMATES_ROOT
   return __builtin_ia32_sqrtps512_mask(x, x, -1, 4);
#else
   for (int lane = 0; lane < 16; ++lane)
      x[lane] = square_root(x[lane]);
   return x;
#endif
}
#endif

// Lane by lane: chosen where the comparison that gave `mask` held, other elsewhere.
template <class Mask, class V> SOFIE_MATH V select(Mask mask, V chosen, V other) { return mask ? chosen : other; }

SOFIE_MATH float select(bool mask, float chosen, float other)
{
   const unsigned ones = 0u - static_cast<unsigned>(mask);
   return reinterpret<float>((bits(chosen) & ones) | (bits(other) & ~ones));
}

template <class V> SOFIE_MATH V magnitude(V x) { return reinterpret<V>(bits(x) & 0x7fffffffu); }

template <class V> SOFIE_MATH V with_sign_of(V value, V x)
{
   return reinterpret<V>(bits(value) | (bits(x) & 0x80000000u));
}

// Adding 1.5 * 2^23 to a float below 2^22 in magnitude rounds it to an integer, which then stands in the low bits.
constexpr float rounding_constant = 12582912.0f;
constexpr unsigned rounding_constant_bits = 0x4b400000u;

// The integer n nearest to x / ln 2, as the low bits of the result, and e^r - 1 for r = x - n ln 2.
// For |x| < 2^14; a NaN gives a NaN. ln 2 is split in two so that n times the first part is exact.
// (e^r - 1 - r) / r^2 is a degree-5 minimax fit on |r| <= ln(2) / 2, with a relative error of e^r of 1.1e-10.
template <class V> SOFIE_MATH typename Integers<V>::Unsigned reduced_expm1(V x, V &expm1_of_rest)
{
   SOFIE_STRICT_FLOAT
   const V shifted = multiply_add(x, 1.44269504088896341f, rounding_constant);
   const V n = opaque(shifted - rounding_constant);
   V r = multiply_add(n, -0.693359375f, x);
   r = multiply_add(n, 2.12194440e-4f, r);
   V p = multiply_add(r, 0x1.9e08c2p-13f, 0x1.6d5278p-10f);
   p = multiply_add(p, r, 0x1.11130cp-7f);
   p = multiply_add(p, r, 0x1.5554e4p-5f);
   p = multiply_add(p, r, 0x1.555554p-3f);
   p = multiply_add(p, r, 0.5f);
   expm1_of_rest = multiply_add(p, opaque(r * r), r);
   return bits(shifted) - rounding_constant_bits;
}

// 2^n for the normal exponents, -126 <= n <= 127.
template <class V> SOFIE_MATH V power_of_two(typename Integers<V>::Unsigned n)
{
   return reinterpret<V>((n + 127u) << 23);
}

// e^x over all floats. 2^n is applied in two factors because n reaches from -150, where the result is denormal and must
// be rounded once, to 128, where it overflows.
template <class V> SOFIE_MATH V exp(V x)
{
   SOFIE_STRICT_FLOAT
   x = opaque(x);
   x = select(x > splat<V>(89.0f), splat<V>(89.0f), x);
   x = select(x < splat<V>(-104.0f), splat<V>(-104.0f), x);
   V p;
   const auto n = reduced_expm1(opaque(x), p);
   const auto half = reinterpret<typename Integers<V>::Unsigned>(reinterpret<typename Integers<V>::Signed>(n) >> 1);
   p = opaque(p + 1.0f);
   p = opaque(p * power_of_two<V>(half));
   return opaque(p * power_of_two<V>(n - half));
}

// log x over all floats. x = 2^e m with 2/3 <= m < 4/3, so that e = 0 around x = 1 and nothing cancels there.
// (log(1 + f) - f) / f^2 is a degree-8 minimax fit on |f| <= 1/3, with a relative error of the logarithm of 4.6e-9.
template <class V> SOFIE_MATH V log(V x)
{
   SOFIE_STRICT_FLOAT
   typedef typename Integers<V>::Unsigned Unsigned;
   const auto pattern = signed_bits(x);

   // A denormal is its own bit pattern times 2^-149. Or-ing in the exponent of 2^23 makes a float of that integer
   // without arithmetic on the denormal, which may be flushed to zero.
   const V scaled = opaque(reinterpret<V>(bits(x) | 0x4b000000u) - 8388608.0f);
   const auto denormal = pattern < 0x00800000;
   const Unsigned normal = bits(select(denormal, scaled, x));
   const Unsigned above = normal - 0x3f2aaaabu; // the pattern of 2/3
   const V m = reinterpret<V>(normal - (above & 0xff800000u));
   const Unsigned e_bits = reinterpret<Unsigned>(reinterpret<typename Integers<V>::Signed>(above) >> 23);
   V e = opaque(reinterpret<V>(e_bits + rounding_constant_bits) - rounding_constant);
   e = opaque(e + select(denormal, splat<V>(-149.0f), splat<V>(0.0f)));

   const V f = opaque(m - 1.0f);
   V p = multiply_add(f, -0x1.07d56cp-3f, 0x1.1e6b14p-3f);
   p = multiply_add(p, f, -0x1.f32c56p-4f);
   p = multiply_add(p, f, 0x1.1ed5ccp-3f);
   p = multiply_add(p, f, -0x1.559c8cp-3f);
   p = multiply_add(p, f, 0x1.99d04ap-3f);
   p = multiply_add(p, f, -0x1.fffefap-3f);
   p = multiply_add(p, f, 0x1.555506p-2f);
   p = multiply_add(p, f, -0.5f);
   const V tail = multiply_add(p, opaque(f * f), opaque(e * -2.12194440e-4f));
   V result = multiply_add(e, 0.693359375f, opaque(f + tail));

   result = select(pattern >= 0x7f800000, x, result); // infinity and NaN
   result = select(pattern < 0, reinterpret<V>(Unsigned{} + 0x7fc00000u), result);
   return select((pattern & 0x7fffffff) == 0, reinterpret<V>(Unsigned{} + 0xff800000u), result);
}

// tanh |x| = (e^2|x| - 1) / (e^2|x| + 1), from e^y - 1 so that small arguments keep their digits; 1 from 9.02 on.
template <class V> SOFIE_MATH V tanh(V x)
{
   SOFIE_STRICT_FLOAT
   x = opaque(x);
   V y = magnitude(x);
   y = select(y > splat<V>(9.5f), splat<V>(9.5f), y);
   V p;
   const V scale = power_of_two<V>(reduced_expm1(opaque(y + y), p));
   const V expm1 = multiply_add(p, scale, opaque(scale - 1.0f));
   return with_sign_of(quotient(expm1, opaque(expm1 + 2.0f)), x);
}

// tanh x in two thirds of the time from argument to result, for one that waits for the other: x p(x^2) / q(x^2), a
// minimax fit up to 9.02, where tanh is 1, with a relative error of 2.2e-8. All coefficients are positive, so that nothing
// cancels; the result may be 1 + 2^-22.
template <class V> SOFIE_MATH V quick_tanh(V x)
{
   SOFIE_STRICT_FLOAT
   x = opaque(x);
   x = select(x > splat<V>(9.02f), splat<V>(9.02f), x);
   x = opaque(select(x < splat<V>(-9.02f), splat<V>(-9.02f), x));
   const V square = opaque(x * x), fourth = opaque(square * square);
   const V p_low = multiply_add(square, 0x1.1213c6p-3f, 1.0f);
   const V p_high = multiply_add(square, 0x1.5a356ep-16f, 0x1.ca6ad8p-9f);
   const V p = multiply_add(multiply_add(fourth, 0x1.cbdf62p-27f, opaque(p_high)), fourth, opaque(p_low));
   const V q_low = multiply_add(square, 0x1.de5f30p-2f, 1.0f);
   const V q_high = multiply_add(square, 0x1.58d2fep-12f, 0x1.a816b4p-6f);
   const V q = multiply_add(multiply_add(fourth, 0x1.a23b04p-21f, opaque(q_high)), fourth, opaque(q_low));
   return quotient(opaque(x * p), q);
}

// 1 / (1 + e^-x), from e^-|x| so that neither end overflows or cancels.
template <class V> SOFIE_MATH V sigmoid(V x)
{
   SOFIE_STRICT_FLOAT
   x = opaque(x);
   const V e = exp(with_sign_of(magnitude(x), splat<V>(-1.0f)));
   return quotient(select(x < splat<V>(0.0f), e, splat<V>(1.0f)), opaque(e + 1.0f));
}

// erf x. Below 0.92, x + x p(x^2) with a degree-5 minimax fit, whose relative error is 1.7e-8. Above, 1 - e^q(|x|) with
// a degree-7 fit to log(erfc), whose error in the result is 7.4e-10; from 3.92 on that is 1.
template <class V> SOFIE_MATH V erf(V x)
{
   SOFIE_STRICT_FLOAT
   x = opaque(x);
   const V square = opaque(x * x);
   V p = multiply_add(square, -0x1.39aca6p-11f, 0x1.4724d2p-8f);
   p = multiply_add(p, square, -0x1.b68850p-6f);
   p = multiply_add(p, square, 0x1.ce1a50p-4f);
   p = multiply_add(p, square, -0x1.8126e6p-2f);
   p = multiply_add(p, square, 0x1.06eba6p-3f);
   const V near_zero = multiply_add(p, x, opaque(x));

   V t = magnitude(x);
   const auto is_large = t > splat<V>(0.92f);
   t = opaque(select(t > splat<V>(4.0f), splat<V>(4.0f), t));
   V q = multiply_add(t, -0x1.78e162p-17f, 0x1.527e60p-12f);
   q = multiply_add(q, t, -0x1.dd6e38p-9f);
   q = multiply_add(q, t, 0x1.8551d2p-6f);
   q = multiply_add(q, t, -0x1.b3259cp-4f);
   q = multiply_add(q, t, -0x1.45328ap-1f);
   q = multiply_add(q, t, -0x1.20ef1cp+0f);
   V r;
   const V scale = power_of_two<V>(reduced_expm1(opaque(q * t), r));
   const V erfc = multiply_add(r, scale, opaque(scale));
   return select(is_large, with_sign_of(opaque(1.0f - erfc), x), near_zero);
}

} // namespace math
} // namespace detail

#define SOFIE_FUNCTIONS(V)                                              \
   SOFIE_MATH V exp(V x) { return detail::math::exp(x); }               \
   SOFIE_MATH V log(V x) { return detail::math::log(x); }               \
   SOFIE_MATH V tanh(V x) { return detail::math::tanh(x); }             \
   SOFIE_MATH V quick_tanh(V x) { return detail::math::quick_tanh(x); } \
   SOFIE_MATH V sigmoid(V x) { return detail::math::sigmoid(x); }       \
   SOFIE_MATH V erf(V x) { return detail::math::erf(x); }               \
   SOFIE_MATH V sqrt(V x) { return detail::math::square_root(x); }

SOFIE_FUNCTIONS(float)
#if SOFIE_LANES >= 4
SOFIE_FUNCTIONS(v4f32)
#endif
#if SOFIE_LANES >= 8
SOFIE_FUNCTIONS(v8f32)
#endif
#if SOFIE_LANES >= 16
SOFIE_FUNCTIONS(v16f32)
#endif

// double has no vectors here: a model in double is rare and libm is within 1 ULP.
SOFIE_MATH double exp(double x) { return __builtin_exp(x); }
SOFIE_MATH double log(double x) { return __builtin_log(x); }
SOFIE_MATH double tanh(double x) { return __builtin_tanh(x); }
SOFIE_MATH double quick_tanh(double x) { return __builtin_tanh(x); }
SOFIE_MATH double erf(double x) { return __builtin_erf(x); }
SOFIE_MATH double sqrt(double x) { return __builtin_sqrt(x); }
SOFIE_MATH double sigmoid(double x)
{
   const double e = __builtin_exp(-__builtin_fabs(x));
   return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

#undef SOFIE_FUNCTIONS
#undef SOFIE_ESTIMATES_ROOT
#undef SOFIE_ELEMENTWISE_ROOT
#undef SOFIE_STRICT_FLOAT
#undef SOFIE_MATH

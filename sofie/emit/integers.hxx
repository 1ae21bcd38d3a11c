// What kernels that mix types are written in: vectors of bytes, of 16 and of 32 bits, conversions between them and to
// floats, sums of products of 16 bits and of bytes, and doubles for as many lanes as a vector of floats has: two vectors.
//
// Expects lanes.hxx before it, SOFIE_LEVEL, the x86-64 level of the kernels' CPU or 0, and SOFIE_VNNI where that has dot
// products of bytes. The instructions are those that g++ does not find by itself. -1 and 4, 8: all lanes, rounded as
// everywhere.

#if defined(__x86_64__) && !defined(__clang__)
#define SOFIE_GNU_X86 SOFIE_LEVEL
#else
#define SOFIE_GNU_X86 0
#endif
#if defined(__x86_64__)
#define SOFIE_X86 SOFIE_LEVEL
#else
#define SOFIE_X86 0
#endif

namespace detail {

using shared::round_even;
using shared::shift_left;
using shared::shift_right;
using shared::wrapping_add;
using shared::wrapping_mul;
using shared::wrapping_sub;

// Four bytes as a word, or two numbers of 16 bits.
template <class T> SOFIE_INLINE std::int32_t load_word(const T *from)
{
   std::int32_t word{};
   __builtin_memcpy(&word, from, sizeof word);
   return word;
}

// Bytes of a word in even and in odd places, as 16 bits each.
SOFIE_INLINE std::int32_t of_halves(std::int32_t low, std::int32_t high)
{
   return static_cast<std::int32_t>((static_cast<std::uint32_t>(high) << 16) | static_cast<std::uint16_t>(low));
}
SOFIE_INLINE std::int32_t even_unsigned_bytes(std::int32_t x) { return x & 0x00ff00ff; }
SOFIE_INLINE std::int32_t odd_unsigned_bytes(std::int32_t x) { return even_unsigned_bytes(x >> 8); }
SOFIE_INLINE std::int32_t even_bytes(std::int32_t x)
{
   return of_halves(static_cast<std::int8_t>(x), static_cast<std::int8_t>(x >> 16));
}
SOFIE_INLINE std::int32_t odd_bytes(std::int32_t x) { return even_bytes(x >> 8); }

// Bytes as a word, the first as the lowest one.
SOFIE_INLINE std::int32_t join(std::int8_t a) { return static_cast<std::uint8_t>(a); }
template <class... Rest> SOFIE_INLINE std::int32_t join(std::int8_t a, Rest... rest)
{
   return static_cast<std::int32_t>(static_cast<std::uint8_t>(a) | (static_cast<std::uint32_t>(join(rest...)) << 8));
}

// The sum with the two products of the halves of two words, which have a sign.
SOFIE_INLINE std::int32_t dot_pairs(std::int32_t sum, std::int32_t x, std::int32_t w)
{
   const std::int32_t low = static_cast<std::int16_t>(x) * static_cast<std::int16_t>(w), high = (x >> 16) * (w >> 16);
   return static_cast<std::int32_t>(
       static_cast<std::uint32_t>(sum) + static_cast<std::uint32_t>(low) + static_cast<std::uint32_t>(high));
}

// The sum with the four products of the bytes of two words, of x without and of w with a sign.
SOFIE_INLINE std::int32_t dot(std::int32_t sum, std::int32_t x, std::int32_t w)
{
   std::uint32_t total = static_cast<std::uint32_t>(sum);
   for (int shift = 0; shift < 32; shift += 8) {
      const std::int32_t a = static_cast<std::uint8_t>(static_cast<std::uint32_t>(x) >> shift);
      const std::int32_t b = static_cast<std::int8_t>(static_cast<std::uint32_t>(w) >> shift);
      total += static_cast<std::uint32_t>(a * b);
   }
   return static_cast<std::int32_t>(total);
}

// The same where two neighbouring products always have 16 bits together.
SOFIE_INLINE std::int32_t narrow_dot(std::int32_t sum, std::int32_t x, std::int32_t w) { return dot(sum, x, w); }

// The sum as a byte: times `scale` plus `offset`, rounded to the nearest, of two to the even one, plus `zero`, in bounds.
template <int zero, int least, int most>
SOFIE_INLINE std::int8_t requantized(std::int32_t sum, double scale, double offset)
{
   const double whole = round_even(static_cast<double>(sum) * scale + offset);
   const int inside = static_cast<int>(smaller(larger(static_cast<double>(least - zero), whole), double(most - zero)));
   return static_cast<std::int8_t>(inside + zero);
}

// The same of a number over `scale`; of NaN, the least.
template <int zero, int least, int most> SOFIE_INLINE std::int8_t quantized(float number, float scale)
{
   const float above = maximum_number(number / scale, static_cast<float>(least - zero));
   const float inside = minimum_number(above, static_cast<float>(most - zero));
   return static_cast<std::int8_t>(static_cast<int>(round_even(inside)) + zero);
}

#if SOFIE_LANES >= 4
#define SOFIE_VECTOR(element, name, bytes) typedef element name __attribute__((vector_size(bytes)));
#define SOFIE_INTEGERS(n)                                                                                        \
   SOFIE_VECTOR(std::int8_t, i8x##n, n)                                                                          \
   SOFIE_VECTOR(std::uint8_t, u8x##n, n)                                                                         \
   SOFIE_VECTOR(std::int16_t, i16x##n, 2 * n)                                                                    \
   SOFIE_VECTOR(std::uint16_t, u16x##n, 2 * n)                                                                   \
   SOFIE_VECTOR(std::int32_t, i32x##n, 4 * n)                                                                    \
   SOFIE_VECTOR(std::uint32_t, u32x##n, 4 * n)                                                                   \
   SOFIE_VECTOR(float, f32x##n, 4 * n)                                                                           \
   SOFIE_INLINE i32x##n wrapping_add(i32x##n a, i32x##n b) { return i32x##n(u32x##n(a) + u32x##n(b)); }          \
   SOFIE_INLINE i32x##n wrapping_sub(i32x##n a, i32x##n b) { return i32x##n(u32x##n(a) - u32x##n(b)); }          \
   SOFIE_INLINE i32x##n wrapping_mul(i32x##n a, i32x##n b) { return i32x##n(u32x##n(a) * u32x##n(b)); }          \
   SOFIE_INLINE i32x##n unsigned_shift_right(i32x##n a, i32x##n b) { return i32x##n(u32x##n(a) >> u32x##n(b)); } \
   SOFIE_INLINE i32x##n shift_left(i32x##n a, i32x##n b) { return i32x##n(u32x##n(a) << u32x##n(b)); }           \
   SOFIE_INLINE i32x##n shift_right(i32x##n a, i32x##n b) { return a >> b; }                                     \
   SOFIE_INLINE i32x##n to_i32(i16x##n x) { return __builtin_convertvector(x, i32x##n); }                        \
   SOFIE_INLINE i32x##n unsigned_to_i32(i16x##n x) { return __builtin_convertvector(u16x##n(x), i32x##n); }      \
   SOFIE_INLINE i32x##n to_i32(f32x##n x) { return __builtin_convertvector(x, i32x##n); }                        \
   SOFIE_INLINE f32x##n to_f32(i32x##n x) { return __builtin_convertvector(x, f32x##n); }                        \
   template <class T> SOFIE_INLINE i32x##n load_words_x##n(const T *from)                                        \
   {                                                                                                             \
      i32x##n words{};                                                                                           \
      __builtin_memcpy(&words, from, sizeof words);                                                              \
      return words;                                                                                              \
   }                                                                                                             \
   SOFIE_INLINE i8x##n unsigned_maximum(i8x##n a, i8x##n b)                                                      \
   {                                                                                                             \
      return i8x##n(u8x##n(a) > u8x##n(b) ? u8x##n(a) : u8x##n(b));                                              \
   }                                                                                                             \
   SOFIE_INLINE i8x##n unsigned_minimum(i8x##n a, i8x##n b)                                                      \
   {                                                                                                             \
      return i8x##n(u8x##n(a) < u8x##n(b) ? u8x##n(a) : u8x##n(b));                                              \
   }
SOFIE_VECTOR(char, char_x16, 16)
SOFIE_VECTOR(long long, i64x2, 16)
template <class T, class V> SOFIE_INLINE T first_of(V x)
{
   T part{};
   __builtin_memcpy(&part, &x, sizeof part);
   return part;
}
SOFIE_INTEGERS(4)
SOFIE_INLINE i16x4 to_i16(i32x4 x) { return __builtin_convertvector(x, i16x4); }
#if SOFIE_LANES >= 8
SOFIE_INTEGERS(8)
#if SOFIE_X86 >= 3
SOFIE_VECTOR(char, char_x32, 32)
SOFIE_VECTOR(long long, i64x4, 32)
// The first word of each half, the second of each, and so on.
SOFIE_INLINE char_x16 words_in_turn(char_x32 x)
{
#if defined(__clang__)
   return char_x16(__builtin_shufflevector(i32x8(x), i32x8(x), 0, 4, 1, 5));
#else
   const i64x4 words = i64x4(x);
   const i32x4 low = i32x4(__builtin_ia32_extract128i256(words, 0)),
               high = i32x4(__builtin_ia32_extract128i256(words, 1));
   return char_x16(__builtin_ia32_punpckldq128(low, high));
#endif
}
#endif

#if SOFIE_GNU_X86 >= 3
// The lowest bytes of the numbers of each half, side by side, then both halves.
SOFIE_INLINE i8x8 to_i8(i32x8 x)
{
   constexpr char_x32 lowest = {0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
   return first_of<i8x8>(words_in_turn(__builtin_ia32_pshufb256(char_x32(x), lowest)));
}

SOFIE_INLINE i16x8 to_i16(i32x8 x)
{
   constexpr char_x32 lowest = {0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
                                0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1};
   const i64x4 near = i64x4(__builtin_ia32_pshufb256(char_x32(x), lowest));
   return i16x8(__builtin_ia32_extract128i256(__builtin_ia32_permdi256(near, 8), 0));
}
#else
SOFIE_INLINE i16x8 to_i16(i32x8 x) { return __builtin_convertvector(x, i16x8); }
SOFIE_INLINE i8x8 to_i8(i32x8 x) { return __builtin_convertvector(to_i16(x), i8x8); }
#endif
#endif
#if SOFIE_LANES >= 16
SOFIE_VECTOR(char, char_x64, 64)
SOFIE_VECTOR(std::int16_t, i16_of_64, 64)
SOFIE_INTEGERS(16)
SOFIE_INLINE i16x16 to_i16(i32x16 x) { return __builtin_convertvector(x, i16x16); }
#endif

// Bytes as 32 bits and back, where no instruction does it by way of 16 bits.
#define SOFIE_BY_16(n)                                                                           \
   SOFIE_INLINE i32x##n to_i32(i8x##n x) { return to_i32(__builtin_convertvector(x, i16x##n)); } \
   SOFIE_INLINE i32x##n unsigned_to_i32(i8x##n x)                                                \
   {                                                                                             \
      return to_i32(i16x##n(__builtin_convertvector(u8x##n(x), u16x##n)));                       \
   }
#define SOFIE_BYTES(n, word, words, bits)                                                                   \
   SOFIE_INLINE char_x16 first_bytes(i8x##n x)                                                              \
   {                                                                                                        \
      word first{};                                                                                         \
      __builtin_memcpy(&first, &x, sizeof x);                                                               \
      return char_x16(words{first});                                                                        \
   }                                                                                                        \
   SOFIE_INLINE i32x##n to_i32(i8x##n x) { return i32x##n(__builtin_ia32_pmovsxbd##bits(first_bytes(x))); } \
   SOFIE_INLINE i32x##n unsigned_to_i32(i8x##n x) { return i32x##n(__builtin_ia32_pmovzxbd##bits(first_bytes(x))); }
#if SOFIE_GNU_X86 >= 2
SOFIE_BYTES(4, std::int32_t, i32x4, 128)
#else
SOFIE_BY_16(4)
#endif
SOFIE_INLINE i8x4 to_i8(i32x4 x) { return __builtin_convertvector(to_i16(x), i8x4); }

#if SOFIE_LANES >= 8
#if SOFIE_GNU_X86 >= 3
SOFIE_BYTES(8, long long, i64x2, 256)
#else
SOFIE_BY_16(8)
#endif
#endif

#if SOFIE_LANES >= 16
#if SOFIE_GNU_X86 >= 4
SOFIE_INLINE i32x16 to_i32(i8x16 x) { return i32x16(__builtin_ia32_pmovsxbd512_mask(char_x16(x), i32x16{}, -1)); }

SOFIE_INLINE i32x16 unsigned_to_i32(i8x16 x)
{
   return i32x16(__builtin_ia32_pmovzxbd512_mask(char_x16(x), i32x16{}, -1));
}

SOFIE_INLINE i8x16 to_i8(i32x16 x) { return i8x16(__builtin_ia32_pmovdb512_mask(x, char_x16{}, -1)); }
#else
SOFIE_BY_16(16)
SOFIE_INLINE i8x16 to_i8(i32x16 x) { return __builtin_convertvector(to_i16(x), i8x16); }
#endif
#endif
#undef SOFIE_BYTES
#undef SOFIE_BY_16

// The nearest whole number, of two the even one.
#define SOFIE_ROUNDED(vector, instruction, element) \
   SOFIE_INLINE vector round_even(vector x) { SOFIE_ROUND_BY(instruction, element) }
#if SOFIE_X86 >= 2
#define SOFIE_ROUND_BY(instruction, element) return instruction;
#else
#define SOFIE_ROUND_BY(instruction, element)                          \
   for (unsigned lane = 0; lane < sizeof x / sizeof(element); ++lane) \
      x[lane] = round_even(static_cast<element>(x[lane]));            \
   return x;
#endif
SOFIE_VECTOR(double, f64x2, 16)
SOFIE_ROUNDED(f32x4, __builtin_ia32_roundps(x, 8), float)
SOFIE_ROUNDED(f64x2, __builtin_ia32_roundpd(x, 8), double)
#if SOFIE_LANES >= 8
SOFIE_VECTOR(double, f64x4, 32)
SOFIE_ROUNDED(f32x8, __builtin_ia32_roundps256(x, 8), float)
SOFIE_ROUNDED(f64x4, __builtin_ia32_roundpd256(x, 8), double)
#endif
#if SOFIE_LANES >= 16
SOFIE_VECTOR(double, f64x8, 64)
SOFIE_ROUNDED(f32x16, __builtin_ia32_rndscaleps_mask(x, 8, x, -1, 4), float)
SOFIE_ROUNDED(f64x8, __builtin_ia32_rndscalepd_mask(x, 8, x, -1, 4), double)
#endif
#undef SOFIE_ROUND_BY
#undef SOFIE_ROUNDED

// As many doubles as a vector of 32 bits has lanes.
template <class V> struct Pair {
   V low, high;

   SOFIE_INLINE double operator[](index lane) const
   {
      constexpr index half = sizeof(V) / sizeof(double);
      return lane < half ? low[lane] : high[lane - half];
   }
};

#define SOFIE_OPERATOR(op)                                                                                        \
   template <class V> SOFIE_INLINE Pair<V> operator op(Pair<V> a, Pair<V> b)                                      \
   {                                                                                                              \
      return {a.low op b.low, a.high op b.high};                                                                  \
   }                                                                                                              \
   template <class V> SOFIE_INLINE Pair<V> operator op(Pair<V> a, double b) { return {a.low op b, a.high op b}; } \
   template <class V> SOFIE_INLINE Pair<V> operator op(double a, Pair<V> b) { return {a op b.low, a op b.high}; }
SOFIE_OPERATOR(+)
SOFIE_OPERATOR(-)
SOFIE_OPERATOR(*)
SOFIE_OPERATOR(/)
#undef SOFIE_OPERATOR

template <class V> SOFIE_INLINE Pair<V> operator-(Pair<V> x) { return {-x.low, -x.high}; }

template <class V> SOFIE_INLINE Pair<V> round_even(Pair<V> x) { return {round_even(x.low), round_even(x.high)}; }

#define SOFIE_PAIRWISE(function)                                          \
   template <class V> SOFIE_INLINE Pair<V> function(Pair<V> a, Pair<V> b) \
   {                                                                      \
      return {function(a.low, b.low), function(a.high, b.high)};          \
   }
SOFIE_PAIRWISE(larger)
SOFIE_PAIRWISE(smaller)
SOFIE_PAIRWISE(maximum)
SOFIE_PAIRWISE(minimum)
SOFIE_PAIRWISE(maximum_number)
SOFIE_PAIRWISE(minimum_number)
#undef SOFIE_PAIRWISE

#if !defined(SOFIE_EXACT)
template <class V> SOFIE_INLINE Pair<V> multiply_add(Pair<V> a, Pair<V> b, Pair<V> c)
{
   return {multiply_add(a.low, b.low, c.low), multiply_add(a.high, b.high, c.high)};
}
#else
template <class V> SOFIE_INLINE Pair<V> product(Pair<V> a, Pair<V> b)
{
   return {product(a.low, b.low), product(a.high, b.high)};
}

template <class V> SOFIE_INLINE Pair<V> product(Pair<V> a, double b) { return {product(a.low, b), product(a.high, b)}; }

template <class V> SOFIE_INLINE Pair<V> product(double a, Pair<V> b) { return {product(a, b.low), product(a, b.high)}; }
#endif

template <class V> SOFIE_INLINE Pair<V> load_pair(const double *from)
{
   Pair<V> pair{};
   __builtin_memcpy(&pair.low, from, sizeof pair.low);
   __builtin_memcpy(&pair.high, from + sizeof pair.low / sizeof(double), sizeof pair.high);
   return pair;
}

template <class V> SOFIE_INLINE void store(double *to, Pair<V> pair)
{
   __builtin_memcpy(to, &pair.low, sizeof pair.low);
   __builtin_memcpy(to + sizeof pair.low / sizeof(double), &pair.high, sizeof pair.high);
}

#define SOFIE_FIRST_2 0, 1
#define SOFIE_LAST_2 2, 3
#define SOFIE_FIRST_4 SOFIE_FIRST_2, SOFIE_LAST_2
#define SOFIE_LAST_4 4, 5, 6, 7
#define SOFIE_FIRST_8 SOFIE_FIRST_4, SOFIE_LAST_4
#define SOFIE_LAST_8 8, 9, 10, 11, 12, 13, 14, 15
#if defined(__clang__) || __GNUC__ >= 12
#define SOFIE_SPLIT(vector, half, count)                                                                 \
   SOFIE_INLINE half first_half(vector x) { return __builtin_shufflevector(x, x, SOFIE_FIRST_##count); } \
   SOFIE_INLINE half last_half(vector x) { return __builtin_shufflevector(x, x, SOFIE_LAST_##count); }   \
   SOFIE_INLINE vector joined(half a, half b)                                                            \
   {                                                                                                     \
      return __builtin_shufflevector(a, b, SOFIE_FIRST_##count, SOFIE_LAST_##count);                     \
   }
#else
#define SOFIE_SPLIT(vector, half, count)             \
   SOFIE_INLINE half first_half(vector x)            \
   {                                                 \
      half part{};                                   \
      __builtin_memcpy(&part, &x, sizeof part);      \
      return part;                                   \
   }                                                 \
   SOFIE_INLINE half last_half(vector x)             \
   {                                                 \
      half parts[2];                                 \
      __builtin_memcpy(parts, &x, sizeof parts);     \
      return parts[1];                               \
   }                                                 \
   SOFIE_INLINE vector joined(half a, half b)        \
   {                                                 \
      const half parts[2] = {a, b};                  \
      vector whole{};                                \
      __builtin_memcpy(&whole, parts, sizeof whole); \
      return whole;                                  \
   }
#endif

// Halves as doubles, and doubles as the nearest integers, of two the even one.
#define SOFIE_HALF(n, vector_i32, vector_f32)    \
   SOFIE_VECTOR(std::int32_t, vector_i32, 4 * n) \
   SOFIE_VECTOR(float, vector_f32, 4 * n)        \
   SOFIE_INLINE f64x##n whole_f64(vector_f32 x) { return __builtin_convertvector(x, f64x##n); }
#define SOFIE_HALF_INTEGERS(n, widen, narrow)                       \
   SOFIE_INLINE f64x##n whole_f64(half_i32x##n x) { return widen; } \
   SOFIE_INLINE half_i32x##n nearest_half(f64x##n x) { return narrow; }
#define SOFIE_PLAIN_HALF(n) \
   SOFIE_HALF_INTEGERS(n, __builtin_convertvector(x, f64x##n), __builtin_convertvector(round_even(x), half_i32x##n))
SOFIE_HALF(2, half_i32x2, half_f32x2)
SOFIE_PLAIN_HALF(2)
#if SOFIE_LANES >= 8
SOFIE_HALF(4, half_i32x4, half_f32x4)
#if SOFIE_GNU_X86 >= 3
SOFIE_HALF_INTEGERS(4, __builtin_ia32_cvtdq2pd256(x), __builtin_ia32_cvtpd2dq256(x))
#else
SOFIE_PLAIN_HALF(4)
#endif
#endif
#if SOFIE_LANES >= 16
SOFIE_HALF(8, half_i32x8, half_f32x8)
#if SOFIE_GNU_X86 >= 4
SOFIE_HALF_INTEGERS(
    8,
    __builtin_ia32_cvtdq2pd512_mask(x, f64x8{}, -1),
    __builtin_ia32_cvtpd2dq512_mask(x, i32x8{}, -1, 4))
#else
SOFIE_PLAIN_HALF(8)
#endif
#endif
#undef SOFIE_PLAIN_HALF
#undef SOFIE_HALF_INTEGERS
#undef SOFIE_HALF

#define SOFIE_NEAREST(vector, whole, instruction) \
   SOFIE_INLINE whole nearest_i32(vector x) { return instruction; }
#if SOFIE_X86 >= 2
SOFIE_NEAREST(f32x4, i32x4, i32x4(__builtin_ia32_cvtps2dq(x)))
#if SOFIE_LANES >= 8
SOFIE_NEAREST(f32x8, i32x8, i32x8(__builtin_ia32_cvtps2dq256(x)))
#endif
#if SOFIE_LANES >= 16
SOFIE_NEAREST(f32x16, i32x16, i32x16(__builtin_ia32_cvtps2dq512_mask(x, i32x16{}, -1, 4)))
#endif
#else
SOFIE_NEAREST(f32x4, i32x4, to_i32(round_even(x)))
#if SOFIE_LANES >= 8
SOFIE_NEAREST(f32x8, i32x8, to_i32(round_even(x)))
#endif
#if SOFIE_LANES >= 16
SOFIE_NEAREST(f32x16, i32x16, to_i32(round_even(x)))
#endif
#endif
#undef SOFIE_NEAREST

#define SOFIE_DOUBLES(n, half)                                                                                        \
   SOFIE_SPLIT(i32x##n, half_i32x##half, half)                                                                        \
   SOFIE_SPLIT(f32x##n, half_f32x##half, half)                                                                        \
   SOFIE_INLINE Pair<f64x##half> to_f64(i32x##n x) { return {whole_f64(first_half(x)), whole_f64(last_half(x))}; }    \
   SOFIE_INLINE Pair<f64x##half> to_f64(f32x##n x) { return {whole_f64(first_half(x)), whole_f64(last_half(x))}; }    \
   SOFIE_INLINE i32x##n nearest_i32(Pair<f64x##half> x) { return joined(nearest_half(x.low), nearest_half(x.high)); } \
   SOFIE_INLINE i32x##n to_i32(Pair<f64x##half> x)                                                                    \
   {                                                                                                                  \
      return joined(                                                                                                  \
          __builtin_convertvector(x.low, half_i32x##half), __builtin_convertvector(x.high, half_i32x##half));         \
   }                                                                                                                  \
   SOFIE_INLINE f32x##n to_f32(Pair<f64x##half> x)                                                                    \
   {                                                                                                                  \
      return joined(                                                                                                  \
          __builtin_convertvector(x.low, half_f32x##half), __builtin_convertvector(x.high, half_f32x##half));         \
   }
#define SOFIE_WHOLE_DOUBLES(n)                                                            \
   SOFIE_INLINE f64x##n to_f64(i32x##n x) { return whole_f64(x); }                        \
   SOFIE_INLINE i32x##n nearest_i32(f64x##n x) { return nearest_half(x); }                \
   SOFIE_INLINE f64x##n to_f64(f32x##n x) { return __builtin_convertvector(x, f64x##n); } \
   SOFIE_INLINE i32x##n to_i32(f64x##n x) { return __builtin_convertvector(x, i32x##n); } \
   SOFIE_INLINE f32x##n to_f32(f64x##n x) { return __builtin_convertvector(x, f32x##n); }
#if SOFIE_LANES >= 16
SOFIE_WHOLE_DOUBLES(4)
SOFIE_WHOLE_DOUBLES(8)
SOFIE_DOUBLES(16, 8)
#elif SOFIE_LANES >= 8
SOFIE_WHOLE_DOUBLES(4)
SOFIE_DOUBLES(8, 4)
#else
SOFIE_DOUBLES(4, 2)
#endif
#undef SOFIE_WHOLE_DOUBLES

// Bytes of up to four vectors as words.
#define SOFIE_JOIN(n)                                                              \
   SOFIE_INLINE i32x##n join(i8x##n a) { return unsigned_to_i32(a); }              \
   template <class... Rest> SOFIE_INLINE i32x##n join(i8x##n a, Rest... rest)      \
   {                                                                               \
      return i32x##n(u32x##n(unsigned_to_i32(a)) | (u32x##n(join(rest...)) << 8)); \
   }
SOFIE_JOIN(4)
#if SOFIE_LANES >= 8
SOFIE_JOIN(8)
#endif
#if SOFIE_GNU_X86 >= 4
template <int place> SOFIE_INLINE char_x64 bytes_from(char_x64 words) { return words; }
template <int place, class... Rest> SOFIE_INLINE char_x64 bytes_from(char_x64 words, i8x16 a, Rest... rest)
{
   constexpr char_x64 lanes = {0,  0,  0,  0,  1,  1,  1,  1,  2,  2,  2,  2,  3,  3,  3,  3,  4,  4,  4,  4,  5,  5,
                               5,  5,  6,  6,  6,  6,  7,  7,  7,  7,  8,  8,  8,  8,  9,  9,  9,  9,  10, 10, 10, 10,
                               11, 11, 11, 11, 12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15};
   const char_x64 everywhere = char_x64(__builtin_ia32_broadcasti32x4_512(i32x4(a), i32x16{}, -1));
   return bytes_from<place + 1>(
       __builtin_ia32_pshufb512_mask(everywhere, lanes, words, 0x1111111111111111ull << place), rest...);
}
SOFIE_INLINE i32x16 join(i8x16 a) { return unsigned_to_i32(a); }
template <class... Rest> SOFIE_INLINE i32x16 join(i8x16 a, Rest... rest)
{
   return i32x16(bytes_from<0>(char_x64{}, a, rest...));
}
#elif SOFIE_LANES >= 16
SOFIE_JOIN(16)
#endif
#undef SOFIE_JOIN

// Small integers as floats.
#define SOFIE_SMALL(vector)                                                           \
   SOFIE_INLINE auto to_f32(vector x) { return to_f32(to_i32(x)); }                   \
   SOFIE_INLINE auto to_f64(vector x) { return to_f64(to_i32(x)); }                   \
   SOFIE_INLINE auto unsigned_to_f32(vector x) { return to_f32(unsigned_to_i32(x)); } \
   SOFIE_INLINE auto unsigned_to_f64(vector x) { return to_f64(unsigned_to_i32(x)); }
SOFIE_SMALL(i8x4)
SOFIE_SMALL(i16x4)
#if SOFIE_LANES >= 8
SOFIE_SMALL(i8x8)
SOFIE_SMALL(i16x8)
#endif
#if SOFIE_LANES >= 16
SOFIE_SMALL(i8x16)
SOFIE_SMALL(i16x16)
#endif
#undef SOFIE_SMALL
#undef SOFIE_DOUBLES
#undef SOFIE_SPLIT

// Sums and quotients as bytes, as above.
#define SOFIE_EXACTLY(n, requantize, quantize)                                                             \
   template <int zero, int least, int most, class S, class T>                                              \
   SOFIE_INLINE i8x##n requantize(i32x##n sum, S scale, T offset)                                          \
   {                                                                                                       \
      const auto number = to_f64(sum) * scale + offset;                                                    \
      const auto inside =                                                                                  \
          at_most(at_least(number, static_cast<double>(least - zero)), static_cast<double>(most - zero));  \
      return to_i8(wrapping_add(nearest_i32(inside), zero - i32x##n{}));                                   \
   }                                                                                                       \
   template <int zero, int least, int most, class S> SOFIE_INLINE i8x##n quantize(f32x##n number, S scale) \
   {                                                                                                       \
      const f32x##n above = maximum_number(number / scale, static_cast<float>(least - zero) - f32x##n{});  \
      const f32x##n inside = at_most(above, static_cast<float>(most - zero));                              \
      return to_i8(wrapping_add(nearest_i32(inside), zero - i32x##n{}));                                   \
   }
#if SOFIE_X86 >= 2
// Integers as bytes, with a sign and without; what no byte holds as the nearest that one does.
SOFIE_VECTOR(std::int16_t, i16_of_16, 16)
#define SOFIE_SATURATED(n, with_sign, without)                    \
   SOFIE_INLINE i8x##n saturated(i32x##n x) { return with_sign; } \
   SOFIE_INLINE i8x##n unsigned_saturated(i32x##n x) { return without; }
SOFIE_INLINE i16_of_16 saturated_halves(i32x4 x) { return i16_of_16(__builtin_ia32_packssdw128(x, x)); }
SOFIE_SATURATED(
    4,
    first_of<i8x4>(__builtin_ia32_packsswb128(saturated_halves(x), saturated_halves(x))),
    first_of<i8x4>(__builtin_ia32_packuswb128(saturated_halves(x), saturated_halves(x))))
#if SOFIE_LANES >= 8
SOFIE_VECTOR(std::int16_t, i16_of_32, 32)
SOFIE_INLINE i16_of_32 saturated_halves(i32x8 x) { return i16_of_32(__builtin_ia32_packssdw256(x, x)); }
SOFIE_SATURATED(
    8,
    first_of<i8x8>(words_in_turn(__builtin_ia32_packsswb256(saturated_halves(x), saturated_halves(x)))),
    first_of<i8x8>(words_in_turn(__builtin_ia32_packuswb256(saturated_halves(x), saturated_halves(x)))))
#endif
#if SOFIE_LANES >= 16
SOFIE_SATURATED(
    16,
    i8x16(__builtin_ia32_pmovsdb512_mask(x, char_x16{}, -1)),
    i8x16(__builtin_ia32_pmovusdb512_mask(larger(x, i32x16{}), char_x16{}, -1)))
#endif
#undef SOFIE_SATURATED

// In bounds that are not those of a byte, too.
template <int least, int most, class V> SOFIE_INLINE auto in_bounds(V x)
{
   if (least == 0 && most == 255)
      return unsigned_saturated(x);
   if (least == -128 && most == 127)
      return saturated(x);
   return to_i8(smaller(larger(x, least - V{}), most - V{}));
}

// By float32's products, in steps of 2^-11, unless a number is so near to a half that they may be on its other side: a
// half more than it is then a whole one. So it is for NaN, and for what 32 bits do not hold.
#if defined(SOFIE_EXACT)
#define SOFIE_SCALED(sum, scale, offset) sum *scale + offset
#else
#define SOFIE_SCALED(sum, scale, offset) multiply_add(sum, scale, offset)
#endif
#define SOFIE_BY_STEPS(n, any, exactly)              \
   const u32x##n steps = u32x##n(nearest_i32(near)); \
   if (__builtin_expect(any, 0))                     \
      return exactly;                                \
   return in_bounds<least, most>(i32x##n(steps) >> 11);
#define SOFIE_QUANTIZED(n, any)                                                                                      \
   template <class V> SOFIE_INLINE f32x##n single_x##n(V x) { return to_f32(x); }                                    \
   SOFIE_INLINE f32x##n single_x##n(double x) { return static_cast<float>(x) - f32x##n{}; }                          \
   SOFIE_INLINE auto exact_x##n(const double *from)                                                                  \
   {                                                                                                                 \
      decltype(to_f64(i32x##n{})) numbers{};                                                                         \
      __builtin_memcpy(&numbers, from, sizeof numbers);                                                              \
      return numbers;                                                                                                \
   }                                                                                                                 \
   template <class V> SOFIE_INLINE V exact_x##n(V x) { return x; }                                                   \
   SOFIE_EXACTLY(n, requantized_exactly, quantized_exactly)                                                          \
   template <int zero, int least, int most, class S, class T, class A, class B>                                      \
   SOFIE_INLINE i8x##n requantized_x##n(i32x##n sum, S scaled, T first, A scale, B offset)                           \
   {                                                                                                                 \
      const f32x##n near = SOFIE_SCALED(to_f32(sum), scaled, first);                                                 \
      SOFIE_BY_STEPS(n, any, (requantized_exactly<zero, least, most>(sum, exact_x##n(scale), exact_x##n(offset))))   \
   }                                                                                                                 \
   template <int zero, int least, int most, class S, class T>                                                        \
   SOFIE_INLINE i8x##n requantized(i32x##n sum, S scale, T offset)                                                   \
   {                                                                                                                 \
      return requantized_x##n<zero, least, most>(                                                                    \
          sum, single_x##n(scale * 2048.0), single_x##n(offset * 2048.0 + (zero * 2048.0 + 1024.0)), scale, offset); \
   }                                                                                                                 \
   template <int zero, int least, int most, class S> SOFIE_INLINE i8x##n quantized(f32x##n number, S scale)          \
   {                                                                                                                 \
      const f32x##n near =                                                                                           \
          SOFIE_SCALED(number, (2048.0f / scale - f32x##n{}), (zero * 2048.0f + 1024.0f - f32x##n{}));               \
      SOFIE_BY_STEPS(n, any, (quantized_exactly<zero, least, most>(number, scale)))                                  \
   }
// Of two vectors side by side.
SOFIE_INLINE const double *after(const double *from, index lanes) { return from + lanes; }
SOFIE_INLINE double after(double x, index) { return x; }
#define SOFIE_PAIR_QUANTIZED(n, twice, bytes, any, with_sign, without)                                              \
   SOFIE_VECTOR(std::int8_t, bytes, twice)                                                                          \
   SOFIE_INLINE bytes side_by_side(i8x##n a, i8x##n b)                                                              \
   {                                                                                                                \
      bytes both{};                                                                                                 \
      __builtin_memcpy(&both, &a, n);                                                                               \
      __builtin_memcpy(reinterpret_cast<char *>(&both) + n, &b, n);                                                 \
      return both;                                                                                                  \
   }                                                                                                                \
   template <int least, int most> SOFIE_INLINE bytes in_bounds(i32x##n a, i32x##n b)                                \
   {                                                                                                                \
      if (least == 0 && most == 255)                                                                                \
         return without;                                                                                            \
      if (least == -128 && most == 127)                                                                             \
         return with_sign;                                                                                          \
      return side_by_side(in_bounds<least, most>(a), in_bounds<least, most>(b));                                    \
   }                                                                                                                \
   template <int zero, int least, int most, class S, class T, class A, class B>                                     \
   SOFIE_INLINE bytes requantized_x##twice(                                                                         \
       i32x##n a, i32x##n b, S scaled_a, S scaled_b, T first_a, T first_b, A scale, B offset)                       \
   {                                                                                                                \
      const u32x##n near_a = u32x##n(nearest_i32(SOFIE_SCALED(to_f32(a), scaled_a, first_a)));                      \
      const u32x##n near_b = u32x##n(nearest_i32(SOFIE_SCALED(to_f32(b), scaled_b, first_b)));                      \
      if (__builtin_expect(any, 0))                                                                                 \
         return side_by_side(                                                                                       \
             requantized_exactly<zero, least, most>(a, exact_x##n(scale), exact_x##n(offset)),                      \
             requantized_exactly<zero, least, most>(b, exact_x##n(after(scale, n)), exact_x##n(after(offset, n)))); \
      return in_bounds<least, most>(i32x##n(near_a) >> 11, i32x##n(near_b) >> 11);                                  \
   }
#define SOFIE_SMALLER_STEP(n) \
   SOFIE_INLINE u32x##n smaller_step(u32x##n a, u32x##n b) { return a < b ? a : b; }
SOFIE_QUANTIZED(4, __builtin_ia32_movmskps(f32x4((steps & 2047u) == 0u)))
SOFIE_SMALLER_STEP(4)
SOFIE_INLINE i16_of_16 saturated_halves(i32x4 a, i32x4 b) { return i16_of_16(__builtin_ia32_packssdw128(a, b)); }
SOFIE_PAIR_QUANTIZED(
    4,
    8,
    i8_of_8,
    __builtin_ia32_movmskps(f32x4(smaller_step(near_a << 21, near_b << 21) == 0u)),
    first_of<i8_of_8>(__builtin_ia32_packsswb128(saturated_halves(a, b), saturated_halves(a, b))),
    first_of<i8_of_8>(__builtin_ia32_packuswb128(saturated_halves(a, b), saturated_halves(a, b))))
#if SOFIE_LANES >= 8
SOFIE_QUANTIZED(8, __builtin_ia32_movmskps256(f32x8((steps & 2047u) == 0u)))
SOFIE_SMALLER_STEP(8)
SOFIE_INLINE i16_of_32 saturated_halves(i32x8 a, i32x8 b) { return i16_of_32(__builtin_ia32_packssdw256(a, b)); }
SOFIE_PAIR_QUANTIZED(
    8,
    16,
    i8_of_16,
    __builtin_ia32_movmskps256(f32x8(smaller_step(near_a << 21, near_b << 21) == 0u)),
    i8_of_16(words_in_turn(__builtin_ia32_packsswb256(saturated_halves(a, b), saturated_halves(a, b)))),
    i8_of_16(words_in_turn(__builtin_ia32_packuswb256(saturated_halves(a, b), saturated_halves(a, b)))))
#endif
#if SOFIE_LANES >= 16
#if defined(__clang__)
SOFIE_INLINE unsigned short next_to_half(u32x16 steps)
{
   return __builtin_ia32_cmpd512_mask(i32x16(steps & 2047u), i32x16{}, 0, -1);
}
SOFIE_INLINE i16_of_64 saturated_halves(i32x16 a, i32x16 b) { return i16_of_64(__builtin_ia32_packssdw512(a, b)); }
#define SOFIE_PACK(name, x) char_x64(__builtin_ia32_##name##512(x, x))
#else
SOFIE_INLINE unsigned short next_to_half(u32x16 steps)
{
   return __builtin_ia32_ptestnmd512(i32x16(steps), 2047 - i32x16{}, -1);
}
SOFIE_INLINE i16_of_64 saturated_halves(i32x16 a, i32x16 b)
{
   return __builtin_ia32_packssdw512_mask(a, b, i16_of_64{}, -1);
}
#define SOFIE_PACK(name, x) __builtin_ia32_##name##512_mask(x, x, char_x64{}, -1)
#endif
// The first word of each quarter, then the second of each.
SOFIE_INLINE char_x32 words_in_turn(char_x64 x)
{
#if defined(__clang__) || __GNUC__ >= 12
   return char_x32(__builtin_shufflevector(i32x16(x), i32x16(x), 0, 4, 8, 12, 1, 5, 9, 13));
#else
   constexpr i32x16 turn = {0, 4, 8, 12, 1, 5, 9, 13};
   return first_of<char_x32>(__builtin_ia32_permvarsi512_mask(i32x16(x), turn, i32x16{}, -1));
#endif
}
SOFIE_QUANTIZED(16, next_to_half(steps))
SOFIE_PAIR_QUANTIZED(
    16,
    32,
    i8_of_32,
    !__builtin_ia32_kortestzhi(next_to_half(near_a), next_to_half(near_b)),
    i8_of_32(words_in_turn(SOFIE_PACK(packsswb, saturated_halves(a, b)))),
    i8_of_32(words_in_turn(SOFIE_PACK(packuswb, saturated_halves(a, b)))))
#undef SOFIE_PACK
#endif
#undef SOFIE_PAIR_QUANTIZED
#undef SOFIE_SMALLER_STEP
#undef SOFIE_QUANTIZED
#undef SOFIE_BY_STEPS
#undef SOFIE_SCALED
#else
SOFIE_EXACTLY(4, requantized, quantized)
#if SOFIE_LANES >= 8
SOFIE_EXACTLY(8, requantized, quantized)
#endif
#if SOFIE_LANES >= 16
SOFIE_EXACTLY(16, requantized, quantized)
#endif
#endif
#undef SOFIE_EXACTLY

// Dot products of halves and of bytes in vectors of words.
#define SOFIE_HALVES(n, multiply_add)                                                                             \
   SOFIE_VECTOR(std::int16_t, halves_x##n, 4 * n)                                                                 \
   SOFIE_VECTOR(std::uint16_t, unsigned_halves_x##n, 4 * n)                                                       \
   SOFIE_INLINE i32x##n even_bytes(i32x##n x) { return i32x##n(halves_x##n(unsigned_halves_x##n(x) << 8) >> 8); } \
   SOFIE_INLINE i32x##n odd_bytes(i32x##n x) { return i32x##n(halves_x##n(x) >> 8); }                             \
   SOFIE_INLINE i32x##n even_unsigned_bytes(i32x##n x) { return i32x##n(unsigned_halves_x##n(x) & 255); }         \
   SOFIE_INLINE i32x##n odd_unsigned_bytes(i32x##n x) { return i32x##n(unsigned_halves_x##n(x) >> 8); }           \
   SOFIE_INLINE i32x##n dot_pairs(i32x##n sum, i32x##n x, i32x##n w) { return multiply_add; }
#define SOFIE_BY_MADD(n, multiply, add) \
   SOFIE_HALVES(n, i32x##n(add(sum, i32x##n(multiply(halves_x##n(x), halves_x##n(w))))))
#if SOFIE_GNU_X86
// The sum as an instruction: g++ would add the two products of a word first, and run out of 16 registers.
#define SOFIE_ADD(bits) __builtin_ia32_paddd##bits
#else
#define SOFIE_ADD(bits) wrapping_add
#endif
#define SOFIE_BY_PRODUCTS(n)                                                                                    \
   SOFIE_HALVES(                                                                                                \
       n,                                                                                                       \
       i32x##n(                                                                                                 \
           u32x##n(sum) + u32x##n(i32x##n(u32x##n(x) << 16) >> 16) * u32x##n(i32x##n(u32x##n(w) << 16) >> 16) + \
           u32x##n(x >> 16) * u32x##n(w >> 16)))
#if defined(__clang__)
#define SOFIE_VNNI_SUM(name, bits, lanes) __builtin_ia32_##name##bits(sum, x, w)
#else
#define SOFIE_VNNI_SUM(name, bits, lanes) __builtin_ia32_##name##_v##lanes##si(sum, x, w)
#endif
#if defined(__x86_64__) && defined(SOFIE_VNNI)
SOFIE_HALVES(4, SOFIE_VNNI_SUM(vpdpwssd, 128, 4))
SOFIE_HALVES(8, SOFIE_VNNI_SUM(vpdpwssd, 256, 8))
#if SOFIE_LANES >= 16
SOFIE_HALVES(16, SOFIE_VNNI_SUM(vpdpwssd, 512, 16))
#endif
#else
#if SOFIE_X86 >= 2
SOFIE_BY_MADD(4, __builtin_ia32_pmaddwd128, SOFIE_ADD(128))
#else
SOFIE_BY_PRODUCTS(4)
#endif
#if SOFIE_X86 >= 3
SOFIE_BY_MADD(8, __builtin_ia32_pmaddwd256, SOFIE_ADD(256))
#elif SOFIE_LANES >= 8
SOFIE_BY_PRODUCTS(8)
#endif
#if SOFIE_X86 >= 4 && defined(__clang__)
SOFIE_BY_MADD(16, __builtin_ia32_pmaddwd512, wrapping_add)
#elif SOFIE_X86 >= 4
SOFIE_INLINE i32x16 multiply_halves(i16_of_64 a, i16_of_64 b)
{
   return __builtin_ia32_pmaddwd512_mask(a, b, i32x16{}, -1);
}
SOFIE_BY_MADD(16, multiply_halves, wrapping_add)
#elif SOFIE_LANES >= 16
SOFIE_BY_PRODUCTS(16)
#endif
#endif
#undef SOFIE_BY_PRODUCTS
#undef SOFIE_ADD
#undef SOFIE_BY_MADD
#undef SOFIE_HALVES

#define SOFIE_DOT(n, expression) \
   SOFIE_INLINE i32x##n dot(i32x##n sum, i32x##n x, i32x##n w) { return expression; }
#define SOFIE_DOT_BY_SHIFTS(n)                                                                        \
   SOFIE_INLINE i32x##n dot(i32x##n sum, i32x##n x, i32x##n w)                                        \
   {                                                                                                  \
      u32x##n total = u32x##n(sum);                                                                   \
      for (int shift = 0; shift < 32; shift += 8)                                                     \
         total += ((u32x##n(x) >> shift) & 255) * u32x##n(i32x##n(u32x##n(w) << (24 - shift)) >> 24); \
      return i32x##n(total);                                                                          \
   }
#define SOFIE_DOT_BY_HALVES(n) \
   SOFIE_DOT(n, dot_pairs(dot_pairs(sum, even_unsigned_bytes(x), even_bytes(w)), odd_unsigned_bytes(x), odd_bytes(w)))
#if defined(__x86_64__) && defined(SOFIE_VNNI)
SOFIE_DOT(4, SOFIE_VNNI_SUM(vpdpbusd, 128, 4))
SOFIE_DOT(8, SOFIE_VNNI_SUM(vpdpbusd, 256, 8))
#if SOFIE_LANES >= 16
SOFIE_DOT(16, SOFIE_VNNI_SUM(vpdpbusd, 512, 16))
#endif
#else
#if SOFIE_X86 >= 2
SOFIE_DOT_BY_HALVES(4)
#elif defined(__aarch64__) && defined(__ARM_FEATURE_MATMUL_INT8)
SOFIE_INLINE i32x4 dot(i32x4 sum, i32x4 x, i32x4 w)
{
   __asm__("usdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(w));
   return sum;
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
// Of bytes with a sign: x - 128, and 64 w twice.
SOFIE_INLINE i32x4 dot(i32x4 sum, i32x4 x, i32x4 w)
{
   const u32x4 moved = u32x4(x) ^ 0x80808080u, half = 0x40404040u - u32x4{};
   __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(moved), "w"(w));
   __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(half), "w"(w));
   __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(half), "w"(w));
   return sum;
}
#else
SOFIE_DOT_BY_SHIFTS(4)
#endif
#if SOFIE_X86 >= 3
SOFIE_DOT_BY_HALVES(8)
#elif SOFIE_LANES >= 8
SOFIE_DOT_BY_SHIFTS(8)
#endif
#if SOFIE_X86 >= 4
SOFIE_DOT_BY_HALVES(16)
#elif SOFIE_LANES >= 16
SOFIE_DOT_BY_SHIFTS(16)
#endif
#endif
// The same where two neighbouring products always have 16 bits together.
#define SOFIE_NARROW_DOT(n, expression) \
   SOFIE_INLINE i32x##n narrow_dot(i32x##n sum, i32x##n x, i32x##n w) { return expression; }
#if defined(SOFIE_VNNI) || SOFIE_X86 < 2
SOFIE_NARROW_DOT(4, dot(sum, x, w))
#if SOFIE_LANES >= 8
SOFIE_NARROW_DOT(8, dot(sum, x, w))
#endif
#if SOFIE_LANES >= 16
SOFIE_NARROW_DOT(16, dot(sum, x, w))
#endif
#else
SOFIE_NARROW_DOT(4, dot_pairs(sum, i32x4(__builtin_ia32_pmaddubsw128(char_x16(x), char_x16(w))), 0x00010001 - i32x4{}))
#if SOFIE_LANES >= 8
SOFIE_NARROW_DOT(8, dot_pairs(sum, i32x8(__builtin_ia32_pmaddubsw256(char_x32(x), char_x32(w))), 0x00010001 - i32x8{}))
#endif
#if SOFIE_LANES >= 16
SOFIE_INLINE i32x16 add_bytes(i32x16 x, i32x16 w)
{
#if defined(__clang__)
   return i32x16(__builtin_ia32_pmaddubsw512(char_x64(x), char_x64(w)));
#else
   return i32x16(__builtin_ia32_pmaddubsw512_mask(char_x64(x), char_x64(w), i16_of_64{}, -1));
#endif
}
SOFIE_NARROW_DOT(16, dot_pairs(sum, add_bytes(x, w), 0x00010001 - i32x16{}))
#endif
#endif
#undef SOFIE_NARROW_DOT
#undef SOFIE_VNNI_SUM
#undef SOFIE_DOT_BY_HALVES
#undef SOFIE_DOT_BY_SHIFTS
#undef SOFIE_DOT
#undef SOFIE_INTEGERS
#undef SOFIE_FIRST_2
#undef SOFIE_LAST_2
#undef SOFIE_FIRST_4
#undef SOFIE_LAST_4
#undef SOFIE_FIRST_8
#undef SOFIE_LAST_8
#undef SOFIE_VECTOR
#endif

} // namespace detail
#undef SOFIE_X86
#undef SOFIE_GNU_X86

// Vectors of floats of 16 bits, as codes.hxx has single ones: by instructions where the CPU has them.
//
// Expects codes.hxx and integers.hxx before it, and SOFIE_LEVEL, the x86-64 level of the kernels' CPU or 0.
namespace detail {

#define SOFIE_CODES(n, name)                                              \
   SOFIE_INLINE f32x##n decode_##name(i16x##n codes)                      \
   {                                                                      \
      return codes_to_##name<f32x##n>(u32x##n(unsigned_to_i32(codes)));   \
   }                                                                      \
   SOFIE_INLINE i16x##n encode_##name(f32x##n numbers)                    \
   {                                                                      \
      return to_i16(i32x##n(name##_to_codes<f32x##n, u32x##n>(numbers))); \
   }
#define SOFIE_HALVES(n, to_numbers, to_codes)                            \
   SOFIE_INLINE f32x##n decode_f16(i16x##n codes) { return to_numbers; } \
   SOFIE_INLINE i16x##n encode_f16(f32x##n numbers) { return to_codes; }

#if SOFIE_LANES >= 4
SOFIE_CODES(4, bf16)
#if defined(__x86_64__) && SOFIE_LEVEL >= 3
SOFIE_INLINE i16x8 filled_up(i16x4 x) { return i16x8{x[0], x[1], x[2], x[3]}; }
SOFIE_INLINE i16x4 lower(i16x8 x) { return i16x4{x[0], x[1], x[2], x[3]}; }

SOFIE_HALVES(4, __builtin_ia32_vcvtph2ps(filled_up(codes)), lower(__builtin_ia32_vcvtps2ph(numbers, 0)))
#elif defined(__aarch64__)
SOFIE_INLINE f32x4 decode_f16(i16x4 codes)
{
   f32x4 numbers;
   __asm__("fcvtl %0.4s, %1.4h" : "=w"(numbers) : "w"(codes));
   return numbers;
}

SOFIE_INLINE i16x4 encode_f16(f32x4 numbers)
{
   i16x4 codes;
   __asm__("fcvtn %0.4h, %1.4s" : "=w"(codes) : "w"(numbers));
   return codes;
}
#else
SOFIE_CODES(4, f16)
#endif
#endif

#if SOFIE_LANES >= 8
SOFIE_CODES(8, bf16)
#if defined(__x86_64__) && SOFIE_LEVEL >= 3
SOFIE_HALVES(8, __builtin_ia32_vcvtph2ps256(codes), __builtin_ia32_vcvtps2ph256(numbers, 0))
#else
SOFIE_CODES(8, f16)
#endif
#endif

#if SOFIE_LANES >= 16
SOFIE_CODES(16, bf16)
#if defined(__x86_64__) && SOFIE_LEVEL >= 4
SOFIE_HALVES(
    16,
    __builtin_ia32_vcvtph2ps512_mask(codes, f32x16{}, -1, 4),
    __builtin_ia32_vcvtps2ph512_mask(numbers, 0, i16x16{}, -1))
#else
SOFIE_CODES(16, f16)
#endif
#endif

#undef SOFIE_HALVES
#undef SOFIE_CODES

} // namespace detail

// Floats of 16 bits, as the bits that stand for them: float32, exactly, and back to the nearest, of two the even one.
//
// Functions with `codes` work on unsigned integers of 32 bits, or on vectors of them, and as many floats.
namespace detail {

#ifdef SOFIE_LANES // vectors are passed as their CPU does
template <class To, class From> SOFIE_INLINE To bit_cast(From from)
{
   To to{};
   __builtin_memcpy(&to, &from, sizeof to);
   return to;
}
#endif

template <class F, class U> SOFIE_INLINE F codes_to_f16(U codes)
{
   const U magnitude = (codes & 0x7fffu) << 13, least = U{} + 0x38800000u; // 2^-14, the least normal number
   const U small = bit_cast<U>(bit_cast<F>(magnitude + least) - bit_cast<F>(least));
   U bits = magnitude < 0x800000u ? small : magnitude + 0x38000000u;
   bits = magnitude < 0xf800000u ? bits : magnitude | 0x7f800000u;
   return bit_cast<F>(bits | (codes & 0x8000u) << 16);
}

template <class F, class U> SOFIE_INLINE U f16_to_codes(F numbers)
{
   const U bits = bit_cast<U>(numbers), magnitude = bits & 0x7fffffffu, half = U{} + 0x3f000000u;
   const U normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
   const U small = bit_cast<U>(bit_cast<F>(magnitude) + bit_cast<F>(half)) - half; // in steps of 2^-24
   U codes = magnitude < 0x38800000u ? small : normal;
   codes = magnitude < 0x477ff000u ? codes : U{} + 0x7c00u; // 65520, which is nearer to infinity
   codes = magnitude <= 0x7f800000u ? codes : U{} + 0x7e00u;
   return codes | (bits >> 16 & 0x8000u);
}

template <class F, class U> SOFIE_INLINE F codes_to_bf16(U codes) { return bit_cast<F>(codes << 16); }

template <class F, class U> SOFIE_INLINE U bf16_to_codes(F numbers)
{
   const U bits = bit_cast<U>(numbers), upper = bits >> 16;
   return (bits & 0x7fffffffu) <= 0x7f800000u ? (bits + 0x7fffu + (upper & 1u)) >> 16 : upper | 0x7fc0u;
}

SOFIE_INLINE float decode_f16(std::int16_t code)
{
#if defined(__NVCC__) && defined(__CUDA_ARCH__)
   float number;
   asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(code));
   return number;
#else
   return codes_to_f16<float>(static_cast<std::uint32_t>(static_cast<std::uint16_t>(code)));
#endif
}

SOFIE_INLINE std::int16_t encode_f16(float number)
{
#if defined(__NVCC__) && defined(__CUDA_ARCH__)
   std::int16_t code;
   asm("cvt.rn.f16.f32 %0, %1;" : "=h"(code) : "f"(number));
   return code;
#else
   return static_cast<std::int16_t>(f16_to_codes<float, std::uint32_t>(number));
#endif
}

SOFIE_INLINE float decode_bf16(std::int16_t code)
{
   return codes_to_bf16<float>(static_cast<std::uint32_t>(static_cast<std::uint16_t>(code)));
}

SOFIE_INLINE std::int16_t encode_bf16(float number)
{
   return static_cast<std::int16_t>(bf16_to_codes<float, std::uint32_t>(number));
}

} // namespace detail

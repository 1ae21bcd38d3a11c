// Words of four bytes, or of two halves, their products, and sums as bytes.
namespace detail {

// Four neighbouring bytes; one access where the first lies at a multiple of four.
template <class Byte> __device__ __forceinline__ std::int32_t load_word(const Byte *from)
{
   static_assert(sizeof(Byte) == 1, "a word is made of bytes");
   std::int32_t word;
   if (reinterpret_cast<std::uintptr_t>(from) % 4 == 0)
      memcpy(&word, __builtin_assume_aligned(from, 4), 4);
   else
      memcpy(&word, from, 4);
   return word;
}

// The low bytes of four numbers, or the low halves of two, as a word.
__device__ __forceinline__ std::int32_t join(int a, int b, int c, int d)
{
   const auto low = [](int number) { return static_cast<unsigned>(number) & 0xffu; };
   return bit_cast<std::int32_t>(low(a) | low(b) << 8 | low(c) << 16 | low(d) << 24);
}

__device__ __forceinline__ std::int32_t join(int a, int b)
{
   return bit_cast<std::int32_t>((static_cast<unsigned>(a) & 0xffffu) | static_cast<unsigned>(b) << 16);
}

// sum + x[0] w[0] + .. + x[3] w[3]: the bytes of x have no sign, those of w have one.
__device__ __forceinline__ std::int32_t dot(std::int32_t sum, std::int32_t x, std::int32_t w)
{
#ifdef __NVCC__
   asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(x), "r"(w));
#else
   for (int k = 0; k < 32; k += 8) {
      const int byte = static_cast<signed char>(bit_cast<unsigned>(w) >> k & 0xffu);
      sum = wrapping_add(sum, static_cast<std::int32_t>(bit_cast<unsigned>(x) >> k & 0xffu) * byte);
   }
#endif
   return sum;
}

// The sum as a byte: times `scale` plus `offset`, rounded to the nearest, of two to the even one, plus `zero`, in bounds.
// In float32, unless the number is so near to a half that only float64 tells where it goes: a half more than it, added
// to 6144, is a number of steps of 2^-11, and then a whole one.
template <int zero, int least, int most>
__device__ __forceinline__ std::int8_t requantized(std::int32_t sum, double scale, double offset)
{
   const float number = fmaf(static_cast<float>(sum), static_cast<float>(scale), static_cast<float>(offset));
   const float inside = fminf(fmaxf(number, static_cast<float>(least - zero)), static_cast<float>(most - zero));
   const unsigned steps = bit_cast<unsigned>(inside + (6144.5f + static_cast<float>(zero)));
   if (steps & 2047u)
      return static_cast<std::int8_t>(steps >> 11 & 0xffu);
   const double exact = rint(static_cast<double>(sum) * scale + offset);
   const double whole = fmin(fmax(exact, static_cast<double>(least - zero)), static_cast<double>(most - zero));
   return static_cast<std::int8_t>(static_cast<int>(whole) + zero);
}

// The same of a number over `scale`; of NaN, the least.
template <int zero, int least, int most> __device__ __forceinline__ std::int8_t quantized(float number, float scale)
{
   const float inside = fminf(fmaxf(number / scale, static_cast<float>(least - zero)), static_cast<float>(most - zero));
   return static_cast<std::int8_t>(static_cast<int>(rintf(inside)) + zero);
}

} // namespace detail

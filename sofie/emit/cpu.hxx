// Which x86-64 level this machine and its operating system run: 4 (AVX-512), 3 (AVX2 and FMA), or 2.
//
// Asked by cpuid and xgetbv themselves: the compilers' own built-in functions for it need a run-time library that ROOT's
// interpreter does not link.

namespace detail {

struct CpuidAnswer {
   unsigned a, b, c, d;
};

inline CpuidAnswer cpuid(unsigned leaf)
{
   CpuidAnswer answer{};
   __asm__("cpuid" : "=a"(answer.a), "=b"(answer.b), "=c"(answer.c), "=d"(answer.d) : "a"(leaf), "c"(0));
   return answer;
}

inline int x86_level()
{
   if (cpuid(0).a < 7)
      return 2;
   const CpuidAnswer basic = cpuid(1), extended = cpuid(7);
   constexpr unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28;
   if ((basic.c & (fma | osxsave | avx)) != (fma | osxsave | avx))
      return 2;
   unsigned saved, high;
   __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
   static_cast<void>(high);
   constexpr unsigned ymm = 0x06, zmm = 0xe0;
   if ((saved & ymm) != ymm || !(extended.b & (1u << 5)))
      return 2;
   constexpr unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; // F, DQ, BW, VL
   return (extended.b & avx512) == avx512 && (saved & zmm) == zmm ? 4 : 3;
}

} // namespace detail

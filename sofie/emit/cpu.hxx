// Which x86-64 level this machine and its operating system run: 4 (AVX-512), 3 (AVX2 and FMA), 2 (SSE4.2), or 1.
//
// Asked by cpuid and xgetbv themselves: the compilers' own built-in functions for it need a run-time library that ROOT's
// interpreter does not link. What is asked for are the features that the kernels' attributes name.

namespace detail {

#if defined(__x86_64__)
struct CpuidAnswer {
   unsigned a, b, c, d;
};

inline CpuidAnswer cpuid(unsigned leaf, unsigned part = 0)
{
   CpuidAnswer answer{};
   __asm__("cpuid" : "=a"(answer.a), "=b"(answer.b), "=c"(answer.c), "=d"(answer.d) : "a"(leaf), "c"(part));
   return answer;
}

inline int x86_level()
{
   const unsigned leaves = cpuid(0).a;
   const CpuidAnswer basic = cpuid(1);
   constexpr unsigned v2 = 1u << 0 | 1u << 9 | 1u << 19 | 1u << 20 | 1u << 23; // SSE3, SSSE3, SSE4.1, SSE4.2, POPCNT
   if ((basic.c & v2) != v2)
      return 1;
   constexpr unsigned v3 = 1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29; // FMA, MOVBE, OSXSAVE, AVX, F16C
   if (leaves < 7 || (basic.c & v3) != v3 || cpuid(0x80000000u).a < 0x80000001u)
      return 2;
   const CpuidAnswer extended = cpuid(7);
   constexpr unsigned v3_extended = 1u << 3 | 1u << 5 | 1u << 8; // BMI1, AVX2, BMI2
   constexpr unsigned lzcnt = 1u << 5;
   unsigned saved, high;
   __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
   static_cast<void>(high);
   constexpr unsigned ymm = 0x06, zmm = 0xe6; // registers that the operating system keeps
   if ((extended.b & v3_extended) != v3_extended || !(cpuid(0x80000001u).c & lzcnt) || (saved & ymm) != ymm)
      return 2;
   constexpr unsigned v4 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31; // F, DQ, CD, BW, VL
   return (extended.b & v4) == v4 && (saved & zmm) == zmm ? 4 : 3;
}

// Whether a machine of that level has dot products of bytes: AVX-VNNI for level 3, AVX512-VNNI for 4.
inline bool x86_vnni(int level)
{
   if (x86_level() < level)
      return false;
   const CpuidAnswer extended = cpuid(7);
   return level >= 4 ? extended.c & 1u << 11 : extended.a >= 1 && cpuid(7, 1).a & 1u << 4;
}
#else
inline int x86_level() { return 1; } // no x86-64

inline bool x86_vnni(int) { return false; }
#endif

} // namespace detail

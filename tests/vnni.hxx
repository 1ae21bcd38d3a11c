// The instructions of VNNI on 128 and 256 bits in plain C++, for machines that do not have them. To be included first.

typedef int test_i32x4 __attribute__((vector_size(16)));
typedef int test_i32x8 __attribute__((vector_size(32)));

// The sums with the products of the parts of words, `bits` wide: x of type X, w of type W.
template <class X, class W, class V> __attribute__((always_inline)) inline V test_dot(V sum, V x, V w, int bits)
{
   for (unsigned lane = 0; lane < sizeof(V) / sizeof(int); ++lane)
      for (int shift = 0; shift < 32; shift += bits) {
         const int a = static_cast<X>(static_cast<unsigned>(x[lane]) >> shift);
         const int b = static_cast<W>(static_cast<unsigned>(w[lane]) >> shift);
         sum[lane] = static_cast<int>(static_cast<unsigned>(sum[lane]) + static_cast<unsigned>(a * b));
      }
   return sum;
}

#define test_dot_bytes(sum, x, w) test_dot<unsigned char, signed char>(sum, x, w, 8)
#define test_dot_halves(sum, x, w) test_dot<short, short>(sum, x, w, 16)
// As g++ calls them, and clang.
#define __builtin_ia32_vpdpbusd_v4si test_dot_bytes
#define __builtin_ia32_vpdpbusd_v8si test_dot_bytes
#define __builtin_ia32_vpdpwssd_v4si test_dot_halves
#define __builtin_ia32_vpdpwssd_v8si test_dot_halves
#define __builtin_ia32_vpdpbusd128 test_dot_bytes
#define __builtin_ia32_vpdpbusd256 test_dot_bytes
#define __builtin_ia32_vpdpwssd128 test_dot_halves
#define __builtin_ia32_vpdpwssd256 test_dot_halves

// Asynchronous copies to shared memory, and products of matrices by tensor cores: PTX, and what stands for it elsewhere.
// Expects codes.hxx before it.
namespace detail {

#ifndef __CUDACC__ // CUDA is emulated
using namespace cuda_host::instructions;
#else

__device__ __forceinline__ unsigned shared_address(const void *p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// Copies 16 or 4 bytes; zeros where `valid` is false, and `from` is not read. The copies since the last commit are a
// group; a wait leaves the N groups that were committed last in flight.
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ void cp_async16(void *to, const void *from, bool valid = true)
{
   asm volatile(
       "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
       : "memory");
}

__device__ __forceinline__ void cp_async4(void *to, const void *from, bool valid = true)
{
   asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 4 : 0)
                : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N> __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
#else // Turing: plain copies
__device__ __forceinline__ void cp_async16(void *to, const void *from, bool valid = true)
{
   *static_cast<uint4 *>(to) = valid ? *static_cast<const uint4 *>(from) : make_uint4(0, 0, 0, 0);
}

__device__ __forceinline__ void cp_async4(void *to, const void *from, bool valid = true)
{
   *static_cast<unsigned *>(to) = valid ? *static_cast<const unsigned *>(from) : 0u;
}

__device__ __forceinline__ void cp_async_commit() {}

template <int N> __device__ __forceinline__ void cp_async_wait() {}
#endif

// Four matrices of 8 x 8 halves (or 8 x 4 floats): lane l brings the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void *row)
{
   asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                : "r"(shared_address(row))
                : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void *row)
{
   asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                : "r"(shared_address(row))
                : "memory");
}

// d += a b, 16 x 8 sums of 32 products of bytes: those of u8 have no sign, those of s8 have one.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define SOFIE_BYTES(left, right)                                                                                      \
   __device__ __forceinline__ void mma_##left##right(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])     \
   {                                                                                                                  \
      asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." #left "." #right                                          \
                   ".s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                             \
                   : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                                   \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                               \
   }
#else // Turing: eight rows and 16 products at a time
#define SOFIE_BYTES(left, right)                                                                                      \
   __device__ __forceinline__ void mma_##left##right(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])     \
   {                                                                                                                  \
      for (int k = 0; k < 4; ++k)                                                                                     \
         asm volatile("mma.sync.aligned.m8n8k16.row.col.s32." #left "." #right ".s32 {%0, %1}, {%2}, {%3}, {%0, %1};" \
                      : "+r"(d[k % 2 * 2]), "+r"(d[k % 2 * 2 + 1])                                                    \
                      : "r"(a[k]), "r"(b[k / 2]));                                                                    \
   }
#endif
SOFIE_BYTES(u8, s8)
SOFIE_BYTES(s8, u8)
#undef SOFIE_BYTES

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
// d += a b, 16 x 8 results in float: of 16 terms in bf16 or fp16, or of 8 in tf32.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
   asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                "{%0, %1, %2, %3};"
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_fp16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
   asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                "{%0, %1, %2, %3};"
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
   asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                "{%0, %1, %2, %3};"
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// To the nearest tf32 (ties away from zero): of any other float, mma ignores the low 13 bits.
__device__ __forceinline__ unsigned to_tf32(float x)
{
   unsigned r;
   asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
   return r;
}

// Two floats, rounded to the nearest, in one register.
__device__ __forceinline__ unsigned pack_bf16(float low, float high)
{
   unsigned r;
   asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
   return r;
}

__device__ __forceinline__ unsigned pack_fp16(float low, float high)
{
   unsigned r;
   asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
   return r;
}
#else // Turing has halves alone, and eight terms at a time; for bfloat16, lanes ask each other for their words
__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
   const int lane = static_cast<int>(threadIdx.x % 32);
   for (int k = 0; k < 8; ++k) {
      unsigned rows[2], columns[2];
      for (int i = 0; i < 2; ++i) {
         rows[i] = __shfl_sync(0xffffffffu, a[k / 4 * 2 + i], lane / 4 * 4 + k % 4);
         columns[i] = __shfl_sync(0xffffffffu, b[k / 4], (lane % 4 * 2 + i) * 4 + k % 4);
      }
      for (int i = 0; i < 4; ++i) {
         const unsigned row = rows[i / 2], column = columns[i % 2];
         d[i] = fmaf(bit_cast<float>(row << 16), bit_cast<float>(column << 16), d[i]);
         d[i] = fmaf(bit_cast<float>(row & 0xffff0000u), bit_cast<float>(column & 0xffff0000u), d[i]);
      }
   }
}

__device__ __forceinline__ unsigned pack_bf16(float low, float high)
{
   return bf16_to_codes<float, unsigned>(low) | bf16_to_codes<float, unsigned>(high) << 16;
}

__device__ __forceinline__ void mma_fp16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
   for (int k = 0; k < 2; ++k)
      asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                   "{%0, %1, %2, %3};"
                   : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                   : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[k]));
}

__device__ __forceinline__ unsigned pack_fp16(float low, float high)
{
   unsigned r;
   asm("{ .reg .b16 l, h; cvt.rn.f16.f32 l, %1; cvt.rn.f16.f32 h, %2; mov.b32 %0, {l, h}; }"
       : "=r"(r)
       : "f"(low), "f"(high));
   return r;
}
#endif

#endif

// Floats as the words that tensor cores take.
#define SOFIE_BITS(unsigned_word) bit_cast<std::int32_t>(unsigned_word)

__device__ __forceinline__ std::int32_t narrow_fp16(float low, float high) { return SOFIE_BITS(pack_fp16(low, high)); }

__device__ __forceinline__ std::int32_t narrow_bf16(float low, float high) { return SOFIE_BITS(pack_bf16(low, high)); }

// d += a b on the registers of a thread: four results, four words of one factor and two of the other.
#define SOFIE_PRODUCT(precision, T)                                                                                 \
   __device__ __forceinline__ void product_##precision(T *d, const std::int32_t *a, const std::int32_t *b)          \
   {                                                                                                                \
      T sums[4] = {d[0], d[1], d[2], d[3]};                                                                         \
      const unsigned x[4] = {bit_cast<unsigned>(a[0]), bit_cast<unsigned>(a[1]), bit_cast<unsigned>(a[2]),          \
                             bit_cast<unsigned>(a[3])};                                                             \
      const unsigned w[2] = {bit_cast<unsigned>(b[0]), bit_cast<unsigned>(b[1])};                                   \
      mma_##precision(sums, x, w);                                                                                  \
      for (int i = 0; i < 4; ++i)                                                                                   \
         d[i] = sums[i];                                                                                            \
   }

SOFIE_PRODUCT(u8s8, int)
SOFIE_PRODUCT(s8u8, int)
SOFIE_PRODUCT(fp16, float)
SOFIE_PRODUCT(bf16, float)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
__device__ __forceinline__ std::int32_t narrow_tf32(float x) { return SOFIE_BITS(to_tf32(x)); }
SOFIE_PRODUCT(tf32, float)
#endif

#undef SOFIE_PRODUCT
#undef SOFIE_BITS

} // namespace detail

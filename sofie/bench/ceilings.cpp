// A core's ceilings: float32 multiply-adds, and bytes read from each level of memory. Prints a line "peak GFLOP/s", then
// lines "bandwidth BYTES GB/s" for growing sets of bytes that are read over and over. SOFIE_LANES and SOFIE_TARGET are
// those that kernels are written with.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

// The constraint of a vector register in inline assembly.
#if defined(__x86_64__)
#define SOFIE_REGISTER "v"
#elif defined(__aarch64__)
#define SOFIE_REGISTER "w"
#else
#define SOFIE_REGISTER "m"
#endif

namespace {

constexpr int lanes = SOFIE_LANES;
typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
constexpr int rounds = 40;

double now()
{
   return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Twelve chains of multiply-adds hide their latency. As an array the compilers keep them in memory, so each has a name.
SOFIE_TARGET double multiply_adds(float seed)
{
   constexpr int steps = 200000, chains = 12;
   const Vector f = Vector{} + 0.999f, t = Vector{} + seed;
   Vector a = t, b = t * 2, c = t * 3, d = t * 4, e = t * 5, g = t * 6, h = t * 7, i = t * 8, j = t * 9, k = t * 10,
          l = t * 11, m = t * 12;
   const double start = now();
   for (int step = 0; step < steps; ++step) {
      a = a * f + t, b = b * f + t, c = c * f + t, d = d * f + t, e = e * f + t, g = g * f + t;
      h = h * f + t, i = i * f + t, j = j * f + t, k = k * f + t, l = l * f + t, m = m * f + t;
   }
   const Vector sum = ((a + b) + (c + d)) + ((e + g) + (h + i)) + ((j + k) + (l + m));
   __asm__ volatile("" : : SOFIE_REGISTER(sum));
   const double seconds = now() - start;
   return 2.0 * lanes * chains * steps / seconds;
}

// Reads `vectors` vectors over and over; `passes` is enough of them for the clock.
SOFIE_TARGET double read(const Vector *data, std::size_t vectors, std::size_t passes)
{
   const double start = now();
   for (std::size_t pass = 0; pass < passes; ++pass) {
      for (std::size_t k = 0; k + 8 <= vectors; k += 8) {
#pragma GCC unroll 8
         for (int j = 0; j < 8; ++j) {
            const Vector value = data[k + j];
            __asm__ volatile("" : : SOFIE_REGISTER(value));
         }
      }
   }
   const double seconds = now() - start;
   return static_cast<double>(vectors * sizeof(Vector)) * static_cast<double>(passes) / seconds;
}

} // namespace

int main(int, char **words)
{
   const float seed = words[0] == nullptr ? 2.0f : 1.0f;
   double peak = 0;
   for (int k = 0; k < rounds; ++k)
      peak = std::max(peak, multiply_adds(seed));
   std::printf("peak %.6g\n", peak * 1e-9);
   constexpr std::size_t largest = std::size_t(64) << 20;
   auto *const data = static_cast<float *>(std::aligned_alloc(64, largest));
   if (data == nullptr)
      return 2;
   std::fill(data, data + largest / sizeof(float), 1.0f);
   for (std::size_t bytes = std::size_t(16) << 10; bytes <= largest; bytes += bytes / 2) {
      const std::size_t vectors = bytes / sizeof(Vector);
      const std::size_t passes = std::max<std::size_t>(1, (std::size_t(8) << 20) / bytes);
      double best = 0;
      for (int k = 0; k < rounds; ++k)
         best = std::max(best, read(reinterpret_cast<const Vector *>(data), vectors, passes));
      std::printf("bandwidth %zu %.6g\n", bytes, best * 1e-9);
   }
   return 0;
}

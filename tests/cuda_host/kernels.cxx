// Runs the kernels of kernels.cuh by name: 0 where all is right, 1 with the line of what is not. Also CUDA, for nvcc.
#include "kernels.cuh"

#include <cstdio>
#include <vector>

namespace {

using model::Fault;

int wrong = 0;

void expect(bool holds, int line)
{
   if (!holds) {
      std::printf("kernels.cxx:%d does not hold\n", line);
      wrong = 1;
   }
}
#define EXPECT(...) expect(__VA_ARGS__, __LINE__)
#define SUCCEEDS(...) expect((__VA_ARGS__) == cudaSuccess, __LINE__)

// An array on the device.
template <class T> class Array {
public:
   explicit Array(const std::vector<T> &values) : size_(values.size())
   {
      SUCCEEDS(cudaMalloc(reinterpret_cast<void **>(&data_), size_ * sizeof(T)));
      set(values);
   }
   explicit Array(std::size_t size) : size_(size)
   {
      SUCCEEDS(cudaMalloc(reinterpret_cast<void **>(&data_), size * sizeof(T)));
   }
   Array(const Array &) = delete;
   Array &operator=(const Array &) = delete;
   ~Array() { SUCCEEDS(cudaFree(data_)); }

   T *data() const { return data_; }
   void set(const std::vector<T> &values)
   {
      SUCCEEDS(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
   }
   std::vector<T> get() const
   {
      std::vector<T> values(size_);
      SUCCEEDS(cudaGetLastError());
      SUCCEEDS(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
      return values;
   }

private:
   T *data_ = nullptr;
   std::size_t size_;
};

// Numbers between -1 and 1 that look random.
std::vector<float> noise(std::size_t size)
{
   std::vector<float> values(size);
   unsigned state = 12345;
   for (float &x : values) {
      state = state * 1664525u + 1013904223u;
      x = static_cast<float>(static_cast<int>(state >> 8) - (1 << 23)) / (1 << 23);
   }
   return values;
}

// Whether the distance of `got` from A[m][k] B[k][n] in float64 is less than `bound` of its length. No root is taken:
// MemorySanitizer holds what the library's functions return to be defined.
bool is_near(
    double bound,
    const std::vector<float> &got,
    const std::vector<float> &a,
    const std::vector<float> &b,
    std::size_t m,
    std::size_t n,
    std::size_t k)
{
   double error = 0.0, length = 0.0;
   for (std::size_t i = 0; i < m; ++i)
      for (std::size_t j = 0; j < n; ++j) {
         double sum = 0.0;
         for (std::size_t q = 0; q < k; ++q)
            sum += static_cast<double>(a[i * k + q]) * b[q * n + j];
         error += (sum - got[i * n + j]) * (sum - got[i * n + j]);
         length += sum * sum;
      }
   return error < bound * bound * length;
}

template <Fault fault> void row_sum()
{
   constexpr int rows = 3, n = 1000;
   // where a word is not written, only what it is filled with is not 0
   const std::vector<float> x = fault == Fault::unwritten ? std::vector<float>(rows * n, 0.0f) : noise(rows * n);
   const Array<float> there(x), y(rows);
   SOFIE_LAUNCH(model::kernels::row_sum<fault>, rows, 256, 32, nullptr, y.data(), there.data(), n);
   const std::vector<float> got = y.get();
   for (int r = 0; r < rows; ++r) {
      double sum = 0.0;
      for (int k = 0; k < n; ++k)
         sum += x[static_cast<std::size_t>(r * n + k)];
      EXPECT(std::abs(sum - got[static_cast<std::size_t>(r)]) < 1e-3);
   }
}

template <Fault fault> void twice()
{
   const std::vector<float> x = noise(100);
   const Array<float> there(x), y(100);
   SOFIE_LAUNCH(model::kernels::twice<fault>, 4, 32, 0, nullptr, y.data(), there.data(), 100);
   if (fault == Fault::none) {
      const std::vector<float> got = y.get();
      for (std::size_t k = 0; k < got.size(); ++k)
         EXPECT(got[k] == 2.0f * x[k]);
   }
}

void few_blocks()
{
   const Array<float> x(std::vector<float>(100, 0.0f)), y(100);
   SOFIE_LAUNCH(model::kernels::twice<Fault::none>, 3, 32, 0, nullptr, y.data(), x.data(), 100);
   for (const float value : y.get())
      EXPECT(value == 0.0f);
}

template <Fault fault> void eights()
{
   const std::vector<float> x(256, 1.0f);
   const Array<float> there(x), y(32);
   SOFIE_LAUNCH(model::kernels::eights<fault>, 1, 32, 0, nullptr, y.data(), there.data(), 8);
   for (const float sum : y.get())
      EXPECT(sum == 8.0f || fault != Fault::none);
}

template <Fault fault> void product()
{
   constexpr int m = 24, n = 32, k = 80;
   const std::vector<float> a = noise(m * k), b = noise(k * n);
   const Array<float> left(a), right(b), c(m * n);
   SOFIE_LAUNCH(
       model::kernels::product<fault>, dim3(2, 2), 64, 6144, nullptr, c.data(), left.data(), right.data(), m, n, k);
   EXPECT(is_near(1e-6, c.get(), a, b, m, n, k));
}

void matrices()
{
   const std::vector<float> a = noise(16 * 32), b = noise(32 * 8);
   const Array<float> left(a), right(b), d(16 * 8);
   SOFIE_LAUNCH(model::kernels::matrix_halves<true>, 1, 32, 1792, nullptr, d.data(), left.data(), right.data());
   EXPECT(is_near(5e-3, d.get(), a, b, 16, 8, 32));
   SOFIE_LAUNCH(model::kernels::matrix_halves<false>, 1, 32, 1792, nullptr, d.data(), left.data(), right.data());
   EXPECT(is_near(6e-4, d.get(), a, b, 16, 8, 32));
   SOFIE_LAUNCH(model::kernels::matrix_tf32, 1, 32, 2304, nullptr, d.data(), left.data(), right.data());
   EXPECT(is_near(6e-4, d.get(), a, b, 16, 8, 32));
}

void rounding()
{
   struct Case {
      float x;
      unsigned bf16, fp16, tf32;
   };
   const float tiny = std::ldexp(1.0f, -24);
   const std::vector<Case> cases = {
       {1.0f, 0x3f80, 0x3c00, 0x3f800000},
       {1.0f + 1.0f / 256, 0x3f80, 0x3c04, 0x3f808000},  // bf16: a tie, to the even one below
       {1.0f + 3.0f / 256, 0x3f82, 0x3c0c, 0x3f818000},  // and above
       {1.0f + 1.0f / 2048, 0x3f80, 0x3c00, 0x3f802000}, // fp16: to the even one; tf32: away from zero
       {1.0f + 3.0f / 2048, 0x3f80, 0x3c02, 0x3f804000},
       {65519.0f, 0x4780, 0x7bff, 0x477fe000},
       {65520.0f, 0x4780, 0x7c00, 0x47800000}, // fp16: infinite
       {tiny, 0x3380, 0x0001, 0x33800000},     // fp16: subnormal
       {tiny / 2, 0x3300, 0x0000, 0x33000000},
       {1.5f * tiny, 0x33c0, 0x0002, 0x33c00000},
       {1023.5f * tiny, 0x3880, 0x0400, 0x387fe000}, // fp16: up to the first normal one
       {INFINITY, 0x7f80, 0x7c00, 0x7f800000}};
   std::vector<float> x(32, 0.0f);
   for (std::size_t k = 0; k < cases.size(); ++k)
      x[k] = cases[k].x;
   const Array<float> there(x);
   const Array<unsigned> y(96);
   SOFIE_LAUNCH(model::kernels::rounded, 1, 32, 0, nullptr, y.data(), there.data());
   const std::vector<unsigned> got = y.get();
   for (std::size_t k = 0; k < cases.size(); ++k) {
      EXPECT(got[3 * k] == (cases[k].bf16 | (cases[k].bf16 | 0x8000u) << 16));
      EXPECT(got[3 * k + 1] == (cases[k].fp16 | (cases[k].fp16 | 0x8000u) << 16));
      EXPECT(got[3 * k + 2] == cases[k].tf32);
   }
}

void shuffles()
{
   const Array<double> y(48 * 6);
   SOFIE_LAUNCH(model::kernels::shuffles, 1, 48, 0, nullptr, y.data());
   const std::vector<double> got = y.get();
   for (int t = 0; t < 48; ++t) {
      const double *at = &got[static_cast<std::size_t>(6 * t)];
      const int lane = t % 32, first = t - lane;
      EXPECT(at[0] == std::ldexp(1.0, 40) + first + 3);
      EXPECT(at[1] == (lane < 2 ? t : t - 2));
      EXPECT(at[2] == (lane < 12 ? t + 2 : t));
      EXPECT(at[3] == first + (lane ^ 5));
      unsigned votes = 0;
      for (int k = 0; k < 32 && first + k < 48; ++k)
         votes |= ((first + k) % 3 == 0 ? 1u : 0u) << k;
      EXPECT(at[4] == votes);
      EXPECT(at[5] == (t % 8 == 7 ? t : t + 1));
   }
}

void atomics()
{
   constexpr int threads = 24 * 24;
   const Array<int> count(std::vector<int>{0});
   const Array<unsigned> most(std::vector<unsigned>{0}), places(threads);
   const Array<float> sum(std::vector<float>{0.0f});
   const Array<double> precise(std::vector<double>{0.0});
   const Array<unsigned long long> wide(std::vector<unsigned long long>{0});
   SOFIE_LAUNCH(
       model::kernels::atomics,
       dim3(2, 3, 4),
       dim3(4, 3, 2),
       0,
       nullptr,
       count.data(),
       most.data(),
       sum.data(),
       precise.data(),
       wide.data(),
       places.data());
   EXPECT(count.get()[0] == threads);
   EXPECT(most.get()[0] == threads - 1);
   EXPECT(sum.get()[0] == threads * 0.5f);
   EXPECT(precise.get()[0] == threads * 0.25);
   EXPECT(wide.get()[0] == (static_cast<unsigned long long>(threads) << 33));
   const std::vector<unsigned> got = places.get();
   for (unsigned k = 0; k < got.size(); ++k)
      EXPECT(got[k] == k);
}

void order()
{
   const Array<int> count(std::vector<int>{0}), order(96);
   SOFIE_LAUNCH(model::kernels::arrivals, 3, 32, 0, nullptr, count.data(), order.data());
   for (const int thread : order.get())
      std::printf("%d ", thread);
}

// A captured launch does nothing until the graph is launched, and then has the arguments that it was recorded with.
void graph()
{
   const std::vector<float> x = noise(64);
   const Array<float> there(x), between(std::vector<float>(64, 0.0f)), y(std::vector<float>(64, 0.0f));
   cudaStream_t stream = nullptr;
   cudaGraph_t made = nullptr;
   cudaGraphExec_t exec = nullptr;
   cudaStreamCaptureStatus status{};
   SUCCEEDS(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
   SUCCEEDS(cudaStreamIsCapturing(stream, &status));
   EXPECT(status == cudaStreamCaptureStatusNone);
   SUCCEEDS(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
   SUCCEEDS(cudaStreamIsCapturing(stream, &status));
   EXPECT(status == cudaStreamCaptureStatusActive);
   int n = 64;
   SOFIE_LAUNCH(model::kernels::twice<Fault::none>, 2, 32, 0, stream, between.data(), there.data(), n);
   n = 0;
   SUCCEEDS(cudaMemsetAsync(y.data(), 0, 64 * sizeof(float), stream));
   SUCCEEDS(cudaMemcpyAsync(y.data(), between.data(), 60 * sizeof(float), cudaMemcpyDeviceToDevice, stream));
   SUCCEEDS(cudaGetLastError());
   SUCCEEDS(cudaStreamEndCapture(stream, &made));
   for (const Array<float> *array : {&between, &y})
      for (const float value : array->get())
         EXPECT(value == 0.0f);
   SUCCEEDS(cudaGraphInstantiate(&exec, made, 0));
   SUCCEEDS(cudaGraphDestroy(made));
   for (const float factor : {1.0f, 3.0f}) {
      std::vector<float> scaled = x;
      for (float &value : scaled)
         value *= factor;
      SUCCEEDS(cudaMemcpy(there.data(), scaled.data(), 64 * sizeof(float), cudaMemcpyHostToDevice));
      SUCCEEDS(cudaGraphLaunch(exec, stream));
      SUCCEEDS(cudaStreamSynchronize(stream));
      const std::vector<float> got = y.get();
      for (std::size_t k = 0; k < 64; ++k)
         EXPECT(got[k] == (k < 60 ? 2.0f * scaled[k] : 0.0f));
   }
   SUCCEEDS(cudaGraphExecDestroy(exec));

   // what may wait is refused, and the capture is lost
   for (int act = 0; act < 3; ++act) {
      void *memory = nullptr;
      float value = 0.0f;
      SUCCEEDS(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      const cudaError_t got = act == 0   ? cudaMalloc(&memory, 64)
                              : act == 1 ? cudaMemcpy(&value, y.data(), sizeof value, cudaMemcpyDeviceToHost)
                                         : cudaStreamSynchronize(stream);
      EXPECT(got == cudaErrorStreamCaptureUnsupported);
      EXPECT(cudaGetLastError() == cudaErrorStreamCaptureUnsupported);
      EXPECT(cudaStreamEndCapture(stream, &made) == cudaErrorStreamCaptureInvalidated);
      EXPECT(made == nullptr);
      static_cast<void>(cudaGetLastError());
   }
   SUCCEEDS(cudaStreamDestroy(stream));
   EXPECT(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeThreadLocal) == cudaErrorStreamCaptureUnsupported);
   static_cast<void>(cudaGetLastError());
}

// Launches that a device refuses: 48 KB of shared memory need no leave, more does, and more than 227 KB is never had.
void limits()
{
   const Array<float> y(32);
   const auto launched = [&](int bytes) {
      SOFIE_LAUNCH(model::kernels::large, 1, 32, static_cast<std::size_t>(bytes), nullptr, y.data(), bytes);
      const cudaError_t seen = cudaPeekAtLastError();
      EXPECT(cudaGetLastError() == seen && cudaGetLastError() == cudaSuccess);
      return seen;
   };
   constexpr int kilo = 1024;
   EXPECT(launched(48 * kilo) == cudaSuccess);
   EXPECT(y.get()[31] == 31.0f);
   EXPECT(launched(48 * kilo + 4) == cudaErrorInvalidValue);
   SUCCEEDS(cudaFuncSetAttribute(model::kernels::large, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * kilo));
   EXPECT(launched(64 * kilo) == cudaSuccess);
   EXPECT(launched(64 * kilo + 4) == cudaErrorInvalidValue);
   const auto more =
       cudaFuncSetAttribute(model::kernels::large, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * kilo + 4);
   EXPECT(more == cudaErrorInvalidValue && cudaGetLastError() == cudaErrorInvalidValue);
   SOFIE_LAUNCH(model::kernels::large, 0, 32, 128, nullptr, y.data(), 128);
   EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
   SOFIE_LAUNCH(model::kernels::large, 1, 1025, 128, nullptr, y.data(), 128);
   EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
   std::vector<float> host(32);
   const auto turned = cudaMemcpy(host.data(), y.data(), sizeof(float), cudaMemcpyHostToDevice);
   EXPECT(turned == cudaErrorInvalidValue && cudaGetLastError() == cudaErrorInvalidValue);
}

struct Named {
   const char *name;
   void (*run)();
};

const Named programs[] = {
    {"row_sum", row_sum<Fault::none>},
    {"twice", twice<Fault::none>},
    {"eights", eights<Fault::none>},
    {"product", product<Fault::none>},
    {"matrices", matrices},
    {"rounding", rounding},
    {"shuffles", shuffles},
    {"atomics", atomics},
    {"order", order},
    {"graph", graph},
    {"limits", limits},
    {"no_barrier", row_sum<Fault::no_barrier>},
    {"early_return", row_sum<Fault::early_return>},
    {"other_line", row_sum<Fault::other_line>},
    {"shared_index", row_sum<Fault::shared_index>},
    {"unwritten", row_sum<Fault::unwritten>},
    {"few_blocks", few_blocks},
    {"global_read", row_sum<Fault::global_read>},
    {"global_write", row_sum<Fault::global_write>},
    {"register_index", eights<Fault::register_index>},
    {"no_ring_barrier", product<Fault::no_ring_barrier>},
    {"lax_wait", product<Fault::lax_wait>},
    {"blocks_race", twice<Fault::blocks_race>}};

// Runs a program; false where there is none of this name.
bool run(const char *name)
{
   for (const Named &program : programs)
      if (std::strcmp(program.name, name) == 0) {
         program.run();
         return true;
      }
   return false;
}

} // namespace

int main(int count, char **names)
{
   try {
      for (int k = 1; k < count; ++k)
         EXPECT(run(names[k]));
   } catch (const std::exception &error) {
      std::printf("%s\n", error.what());
      return 2;
   }
   return wrong;
}

// What the generated program of a model calls: it draws inputs, checks the outputs and takes the time; see harness.cu.
#pragma once
#ifndef SOFIE_LAUNCH
#include <cuda_runtime.h>
#endif
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace harness {

// A 64-bit number that follows from a place: splitmix64. tests/gpu/inputs.py has the same.
inline std::uint64_t scrambled(std::uint64_t place)
{
   std::uint64_t z = (place + 1) * 0x9e3779b97f4a7c15u;
   z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
   z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
   return z ^ (z >> 31);
}

// Nearly normal: the sum of four 16-bit numbers, less its mean, over its deviation.
inline void draw(std::uint64_t bits, float &value)
{
   const std::uint64_t sum = (bits & 65535) + (bits >> 16 & 65535) + (bits >> 32 & 65535) + (bits >> 48);
   value = static_cast<float>(static_cast<std::int64_t>(sum) - 131070) * (1.0f / 37837.0f);
}
inline void draw(std::uint64_t bits, std::int64_t &value) { value = static_cast<std::int64_t>(bits % 64); }

// An input or output: how many elements of how many bytes, how one is drawn, and how one is read.
struct Tensor {
   std::size_t count, bytes;
   void (*fill)(void *values, std::size_t count, std::uint64_t first);
   double (*at)(const void *values, std::size_t k);
};

template <class T> Tensor tensor(std::size_t count)
{
   const auto fill = [](void *values, std::size_t n, std::uint64_t first) {
      for (std::size_t k = 0; k < n; ++k)
         draw(scrambled(first + k), static_cast<T *>(values)[k]);
   };
   const auto at = [](const void *values, std::size_t k) { return static_cast<double>(static_cast<const T *>(values)[k]); };
   return {count, sizeof(T), fill, at};
}

// folder: has the model's weights and what is expected of it. rounds, seconds: how often and how long the time is taken.
struct Plan {
   std::string folder, model;
   int rounds;
   double seconds;
};

// Puts one inference on the default stream; the pointers are of the device.
using Call = std::function<void(void *const *inputs, void *const *outputs)>;

// Prints a line of JSON; returns whether all outputs are right.
bool measure(const Plan &plan, const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs, const Call &call);

using Run = bool (*)(const Plan &plan);

// Makes a model known to `main` under its name.
bool add(const char *model, Run run);

} // namespace harness

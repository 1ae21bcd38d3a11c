// The protocol of a worker: a process that holds one model in one system and times it when it is asked to.
//
//    worker FOLDER OUTPUT [...]
//
// FOLDER/ports says how many sets of inputs there are, then a line per tensor: input or output, the number of ONNX's
// element type, bytes per element, rank, extents. FOLDER/input_K holds all sets of input K, one after the other. The
// worker writes the outputs of the first set to OUTPUT_K, says "ready" with the seconds of the set-up, and then answers
// each number of seconds on its standard input with a round: the median and the least nanoseconds per call, and how
// many samples of how many calls there were.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace worker {

inline double now()
{
   return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

[[noreturn]] inline void fail(const std::string &sentence)
{
   std::fprintf(stderr, "%s\n", sentence.c_str());
   std::exit(2);
}

// Memory on a multiple of 64 bytes that lives as long as the process.
inline unsigned char *memory(std::size_t bytes)
{
   const std::size_t rounded = (bytes + 64) / 64 * 64;
   auto *const start = static_cast<unsigned char *>(std::aligned_alloc(64, rounded));
   if (start == nullptr)
      fail("there is no memory for the tensors");
   std::memset(start, 0, rounded);
   return start;
}

struct Tensor {
   int type = 0;
   std::vector<std::int64_t> shape;
   std::size_t bytes = 0;
   unsigned char *data = nullptr;
   unsigned char *sets = nullptr; // of an input: all that it will be

   template <class Element> Element *as() const { return reinterpret_cast<Element *>(data); }
};

struct Tensors {
   std::vector<Tensor> inputs, outputs;
   std::size_t sets = 0, next = 0;

   explicit Tensors(const std::string &folder)
   {
      std::ifstream ports(folder + "/ports");
      ports >> sets;
      std::string side;
      Tensor tensor;
      std::size_t rank = 0;
      while (ports >> side >> tensor.type >> tensor.bytes >> rank) {
         tensor.shape.resize(rank);
         for (auto &extent : tensor.shape) {
            ports >> extent;
            tensor.bytes *= static_cast<std::size_t>(extent);
         }
         tensor.data = memory(tensor.bytes);
         if (side == "input")
            tensor.sets = read(folder + "/input_" + std::to_string(inputs.size()), tensor.bytes * sets);
         (side == "input" ? inputs : outputs).push_back(tensor);
      }
      if (sets == 0 || outputs.empty())
         fail(folder + "/ports does not say what the tensors are");
      feed();
   }

   // Puts the next set of inputs where the model reads it.
   void feed()
   {
      for (const auto &input : inputs)
         std::memcpy(input.data, input.sets + next * input.bytes, input.bytes);
      next = (next + 1) % sets;
   }

   void save(const std::string &prefix) const
   {
      for (std::size_t k = 0; k < outputs.size(); ++k) {
         std::ofstream file(prefix + "_" + std::to_string(k), std::ios::binary);
         file.write(outputs[k].as<const char>(), static_cast<std::streamsize>(outputs[k].bytes));
         if (!file)
            fail("the outputs cannot be written to " + prefix);
      }
   }

private:
   static unsigned char *read(const std::string &name, std::size_t bytes)
   {
      std::ifstream file(name, std::ios::binary);
      auto *const start = memory(bytes);
      if (!file.read(reinterpret_cast<char *>(start), static_cast<std::streamsize>(bytes)))
         fail(name + " is shorter than the model's inputs");
      return start;
   }
};

// One round: warms up for a quarter of the time, then samples groups of calls that are long enough for the clock, each
// group on inputs that it has not just seen.
template <class Run> void round(Tensors &tensors, double seconds, Run &run)
{
   constexpr double sample = 20e-6;
   std::size_t calls = 0;
   const double start = now();
   do {
      run();
      ++calls;
   } while (now() - start < seconds / 4);
   const double per_call = (now() - start) / static_cast<double>(calls);
   const std::size_t fewest = per_call > 3 * seconds ? 1 : 3;
   const auto group = std::max<std::size_t>(1, static_cast<std::size_t>(sample / per_call));
   std::vector<double> times;
   const double begin = now();
   while (times.size() < fewest || now() - begin < seconds) {
      tensors.feed();
      const double before = now();
      for (std::size_t k = 0; k < group; ++k)
         run();
      times.push_back((now() - before) / static_cast<double>(group));
   }
   std::sort(times.begin(), times.end());
   std::printf("%.9g %.9g %zu %zu\n", times[times.size() / 2] * 1e9, times[0] * 1e9, times.size(), group);
   std::fflush(stdout);
}

// Answers until the input ends. `setup` is the time in seconds that the system took to get ready.
template <class Run> int serve(Tensors &tensors, const std::string &output, double setup, Run &&run)
{
   run();
   tensors.save(output);
   std::printf("ready %.9g\n", setup);
   std::fflush(stdout);
   double seconds = 0;
   while (std::scanf("%lf", &seconds) == 1)
      round(tensors, seconds, run);
   std::fflush(stdout);
   std::_Exit(0); // some systems' threads do not survive an orderly end
}

} // namespace worker

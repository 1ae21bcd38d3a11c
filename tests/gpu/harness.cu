// FOLDER MODEL [ROUNDS SECONDS]: checks a model and takes its time. Returns 0 where it is right, 1 where it is wrong and 2
// where it cannot be run.
#include "harness.hxx"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <stdexcept>

namespace harness {

namespace {

constexpr std::size_t how_many_sets = 4; // a session keeps the graphs of the last 8
constexpr double warm_up = 0.1;
constexpr std::size_t most_calls = 20000, most_waits = 200;

void check(cudaError_t status, const char *what)
{
   if (status != cudaSuccess)
      throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

double now()
{
   return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values)
{
   std::sort(values.begin(), values.end());
   return values[values.size() / 2];
}

struct Free {
   void operator()(void *memory) const { cudaFree(memory); }
};
using Memory = std::unique_ptr<void, Free>;

// Memory of the device whose every element is no number.
Memory memory_of(const Tensor &tensor)
{
   void *memory = nullptr;
   check(cudaMalloc(&memory, std::max<std::size_t>(tensor.count * tensor.bytes, 1)), "memory of the device");
   return Memory(memory);
}

void poison(void *memory, const Tensor &tensor)
{
   check(cudaMemsetAsync(memory, 0xff, tensor.count * tensor.bytes), "memory of the device");
}

void wait() { check(cudaStreamSynchronize(nullptr), "the stream"); }

// A set of inputs on the device, with outputs of its own.
struct Set {
   std::vector<Memory> memory;
   std::vector<void *> in, out;
};

Set drawn(std::size_t number, const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs)
{
   Set set;
   for (std::size_t k = 0; k < inputs.size(); ++k) {
      std::vector<unsigned char> values(inputs[k].count * inputs[k].bytes);
      inputs[k].fill(values.data(), inputs[k].count, (number * 64 + k) << 40);
      set.memory.push_back(memory_of(inputs[k]));
      set.in.push_back(set.memory.back().get());
      check(cudaMemcpy(set.in.back(), values.data(), values.size(), cudaMemcpyHostToDevice), "an input");
   }
   for (const Tensor &output : outputs) {
      set.memory.push_back(memory_of(output));
      set.out.push_back(set.memory.back().get());
      poison(set.out.back(), output);
   }
   return set;
}

// Some rows of an output as they should be, for the first set of inputs.
struct Expected {
   std::vector<std::int64_t> rows;
   std::vector<double> values;
};

template <class T> std::vector<T> read(std::ifstream &file, std::size_t count)
{
   std::vector<T> values(count);
   file.read(reinterpret_cast<char *>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
   if (!file)
      throw std::runtime_error("the file of what is expected is not whole: prepare the folder again");
   return values;
}

// The file starts with the error that is allowed.
std::vector<Expected> expected_of(const Plan &plan, std::size_t outputs, double &allowed)
{
   std::ifstream file(plan.folder + "/" + plan.model + ".expected", std::ios::binary);
   allowed = read<double>(file, 1)[0];
   std::vector<Expected> found(outputs);
   for (Expected &expected : found) {
      const std::vector<std::int64_t> shape = read<std::int64_t>(file, 2);
      expected.rows = read<std::int64_t>(file, static_cast<std::size_t>(shape[0]));
      expected.values = read<double>(file, static_cast<std::size_t>(shape[0] * shape[1]));
   }
   return found;
}

// The largest difference from what is expected over the largest element; infinite where something is no number.
double error_of(const Set &set, const std::vector<Tensor> &outputs, const std::vector<Expected> &all)
{
   double worst = 0;
   for (std::size_t j = 0; j < outputs.size(); ++j) {
      std::vector<unsigned char> values(outputs[j].count * outputs[j].bytes);
      check(cudaMemcpy(values.data(), set.out[j], values.size(), cudaMemcpyDeviceToHost), "an output");
      const std::size_t width = all[j].values.size() / std::max<std::size_t>(all[j].rows.size(), 1);
      double most = 0, distance = 0;
      for (std::size_t k = 0; k < all[j].values.size(); ++k) {
         const std::size_t place = static_cast<std::size_t>(all[j].rows[k / width]) * width + k % width;
         if (place >= outputs[j].count)
            throw std::runtime_error("the file of what is expected is another model's: prepare the folder again");
         const double difference = std::fabs(outputs[j].at(values.data(), place) - all[j].values[k]);
         most = std::max(most, std::fabs(all[j].values[k]));
         distance = std::isnan(difference) ? INFINITY : std::max(distance, difference);
      }
      worst = std::max(worst, distance / (most > 0 ? most : 1));
   }
   return worst;
}

class Event {
public:
   Event() { check(cudaEventCreate(&event_), "an event"); }
   Event(const Event &) = delete;
   Event &operator=(const Event &) = delete;
   ~Event() { cudaEventDestroy(event_); }
   void record() { check(cudaEventRecord(event_, nullptr), "an event"); }
   // Seconds from another event to this one, which is waited for.
   double since(const Event &start)
   {
      float milliseconds = 0;
      check(cudaEventSynchronize(event_), "an event");
      check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "the time");
      return milliseconds * 1e-3;
   }

private:
   cudaEvent_t event_ = nullptr;
};

// us: of a call among calls one behind the other. spread: between rounds, over it. wait_us: of a call that is waited for.
struct Times {
   double us, spread, wait_us;
   std::size_t calls;
};

Times times_of(const Plan &plan, std::vector<Set> &sets, const Call &call)
{
   const auto run = [&](std::size_t k) { call(sets[k % sets.size()].in.data(), sets[k % sets.size()].out.data()); };
   std::size_t calls = 0;
   double start = now(), before;
   do {
      before = now();
      for (std::size_t k = 0; k < sets.size(); ++k)
         run(k);
      wait();
      calls += sets.size();
   } while (now() - start < std::min(warm_up, plan.seconds * 5));
   const double one = (now() - before) / static_cast<double>(sets.size());
   calls = std::min(std::max(static_cast<std::size_t>(plan.seconds / one), sets.size()), most_calls);
   std::vector<double> rounds, waits;
   for (int round = 0; round < plan.rounds; ++round) {
      Event first, last;
      first.record();
      for (std::size_t k = 0; k < calls; ++k)
         run(k);
      last.record();
      rounds.push_back(last.since(first) / static_cast<double>(calls) * 1e6);
   }
   for (std::size_t k = 0; k < std::min(calls, most_waits); ++k) {
      start = now();
      run(k);
      wait();
      waits.push_back((now() - start) * 1e6);
   }
   const auto ends = std::minmax_element(rounds.begin(), rounds.end());
   const double us = median(rounds);
   return {us, (*ends.second - *ends.first) / us, median(waits), calls};
}

std::string number(double value)
{
   char text[32];
   std::snprintf(text, sizeof text, "%.6g", value);
   return std::isfinite(value) ? text : "null";
}

std::map<std::string, Run> &models()
{
   static std::map<std::string, Run> all;
   return all;
}

} // namespace

bool add(const char *model, Run run) { return models().emplace(model, run).second; }

bool measure(const Plan &plan, const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs, const Call &call)
{
   double allowed = 0;
   const std::vector<Expected> expected = expected_of(plan, outputs.size(), allowed);
   std::vector<Set> sets;
   for (std::size_t k = 0; k < how_many_sets; ++k)
      sets.push_back(drawn(k, inputs, outputs));
   const auto error = [&] {
      call(sets[0].in.data(), sets[0].out.data());
      wait();
      return error_of(sets[0], outputs, expected);
   };
   double worst = error(); // of the first call, which makes a graph
   const Times times = times_of(plan, sets, call);
   for (std::size_t j = 0; j < outputs.size(); ++j)
      poison(sets[0].out[j], outputs[j]);
   worst = std::max(worst, error()); // of a graph that has run many times
   const bool right = worst <= allowed;
   std::printf(
       "{\"model\": \"%s\", \"right\": %s, \"error\": %s, \"allowed\": %s, \"us\": %s, \"spread\": %s, \"wait_us\": %s, "
       "\"calls\": %zu}\n",
       plan.model.c_str(), right ? "true" : "false", number(worst).c_str(), number(allowed).c_str(),
       number(times.us).c_str(), number(times.spread).c_str(), number(times.wait_us).c_str(), times.calls);
   return right;
}

} // namespace harness

int main(int count, char **words)
{
   using namespace harness;
   const auto found = count > 2 ? models().find(words[2]) : models().end();
   if (found == models().end()) {
      std::fprintf(stderr, "FOLDER MODEL [ROUNDS SECONDS]; the models:");
      for (const auto &model : models())
         std::fprintf(stderr, " %s", model.first.c_str());
      std::fprintf(stderr, "\n");
      return 2;
   }
   const Plan plan{words[1], words[2], count > 3 ? std::atoi(words[3]) : 9, count > 4 ? std::atof(words[4]) : 0.02};
   try {
      return found->second(plan) ? 0 : 1;
   } catch (const std::exception &error) {
      std::fprintf(stderr, "%s: %s\n", words[2], error.what());
      return 2;
   }
}

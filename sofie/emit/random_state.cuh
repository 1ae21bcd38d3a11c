// What random numbers follow from: the seed and the number of the call, in memory of the device, where kernels read
// them. A launch counts the calls, so that a graph that is run again draws anew.

namespace detail {

static __global__ void begin_numbers(std::int64_t *state, std::int64_t seed, std::int64_t call)
{
   state[0] = seed;
   state[1] = call;
}

static __global__ void next_call(std::int64_t *state) { ++state[1]; }

class RandomState {
public:
   // Of seed 0, for whatever stream comes.
   RandomState() : memory_(device_memory(2 * sizeof(std::int64_t)))
   {
      begin(0, 0, nullptr);
      check(cudaStreamSynchronize(nullptr), "random numbers");
   }

   const std::int64_t *data() const noexcept { return state(); }

   void begin(std::uint64_t seed, std::uint64_t call, cudaStream_t stream)
   {
      const std::int64_t first = static_cast<std::int64_t>(seed), second = static_cast<std::int64_t>(call);
      SOFIE_LAUNCH(detail::begin_numbers, 1, 1, 0, stream, state(), first, second);
      check(cudaGetLastError(), "random numbers");
   }

   void advance(cudaStream_t stream)
   {
      SOFIE_LAUNCH(detail::next_call, 1, 1, 0, stream, state());
      check(cudaGetLastError(), "random numbers");
   }

private:
   std::int64_t *state() const noexcept { return reinterpret_cast<std::int64_t *>(memory_.get()); }

   std::shared_ptr<unsigned char> memory_;
};

} // namespace detail

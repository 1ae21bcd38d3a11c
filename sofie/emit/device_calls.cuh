// What Python calls of a model on a device. No exception crosses: a function returns whether all went well, and
// sofie_error tells the calling thread what did not.

namespace {

thread_local std::string error;

template <class Act> int done(const Act &act) noexcept
{
   try {
      act();
      return 1;
   } catch (const std::exception &thrown) {
      error = thrown.what();
   } catch (...) {
      error = "an unknown error";
   }
   return 0;
}

// Makes a device the current one for as long as a call lasts.
class Current {
public:
   explicit Current(int device)
   {
      detail::check(cudaGetDevice(&before_), "the device");
      if (before_ != device)
         detail::check(cudaSetDevice(device), "the device");
   }
   Current(const Current &) = delete;
   Current &operator=(const Current &) = delete;
   ~Current() { cudaSetDevice(before_); }

private:
   int before_ = 0;
};

// An event that nobody takes the time of, on what is on the stream so far.
inline cudaEvent_t event_on(cudaStream_t stream)
{
   cudaEvent_t event = nullptr;
   detail::check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
   const cudaError_t status = cudaEventRecord(event, stream);
   if (status != cudaSuccess) {
      cudaEventDestroy(event);
      detail::check(status, "an event");
   }
   return event;
}

} // namespace

extern "C" {

const char *sofie_error() { return error.c_str(); }

// A session on the device that is current.
int sofie_create(const unsigned char *weights, int *device, void **session)
{
   return done([&] {
      detail::check(cudaGetDevice(device), "the device");
      *session = new Session(DeviceWeights(Weights(weights)));
   });
}

int sofie_free(int device, void *session)
{
   return done([&] {
      const Current current(device);
      delete static_cast<Session *>(session);
   });
}

// Inputs and outputs of the host; behind the outputs come the places of extents that the run finds.
int sofie_infer(int device, void *session, const std::int64_t *sizes, const void *const *in, void *const *out)
{
   return done([&] {
      const Current current(device);
      infer(*static_cast<Session *>(session), sizes, in, out);
   });
}

// Inputs and outputs of the device, on a stream.
int sofie_infer_device(
    int device, void *session, const std::int64_t *sizes, const void *const *in, void *const *out, void *stream)
{
   return done([&] {
      const Current current(device);
      infer_device(*static_cast<Session *>(session), sizes, in, out, static_cast<cudaStream_t>(stream));
   });
}

// Begins the random numbers of a seed, with those of a call.
int sofie_seed(int device, void *session, std::uint64_t seed, std::uint64_t call)
{
   return done([&] {
      const Current current(device);
      begin_numbers(*static_cast<Session *>(session), seed, call);
   });
}

int sofie_allocate(int device, std::size_t bytes, void **memory)
{
   return done([&] {
      const Current current(device);
      detail::check(cudaMalloc(memory, bytes), "memory of the device");
   });
}

int sofie_release(int device, void *memory)
{
   return done([&] {
      const Current current(device);
      detail::check(cudaFree(memory), "memory of the device");
   });
}

// Waits for what is on the default stream.
int sofie_copy(int device, void *to, const void *from, std::size_t bytes, int back)
{
   return done([&] {
      const Current current(device);
      detail::check(
          cudaMemcpy(to, from, bytes, back ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice), "a copy of an array");
   });
}

// What comes to the stream `after` waits for what is on `before`.
int sofie_order(int device, void *before, void *after)
{
   return done([&] {
      const Current current(device);
      const cudaEvent_t event = event_on(static_cast<cudaStream_t>(before));
      const cudaError_t status = cudaStreamWaitEvent(static_cast<cudaStream_t>(after), event, 0);
      cudaEventDestroy(event);
      detail::check(status, "the order of two streams");
   });
}

// Marks the place that a stream has come to.
int sofie_mark(int device, void *stream, void **mark)
{
   return done([&] {
      const Current current(device);
      *mark = event_on(static_cast<cudaStream_t>(stream));
   });
}

// Whether the stream has passed the mark, which then is no more.
int sofie_passed(int device, void *mark, int *passed)
{
   return done([&] {
      const Current current(device);
      const cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(mark));
      *passed = status != cudaErrorNotReady;
      if (*passed)
         cudaEventDestroy(static_cast<cudaEvent_t>(mark));
      else
         cudaGetLastError(); // it is no error
      detail::check(*passed ? status : cudaSuccess, "the stream");
   });
}

} // extern "C"

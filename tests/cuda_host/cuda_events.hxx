// What `sofie.cuda_jit` and `tests/gpu` use of CUDA besides what an emitted .cuh does: one device, and events that are
// past when they are recorded, since nothing here runs behind the host's back.
#pragma once
#include <chrono>

struct CUevent_st {
   bool recorded, timed;
   std::chrono::steady_clock::time_point at;
};
constexpr cudaError_t cudaErrorNotReady = static_cast<cudaError_t>(600);
using cudaEvent_t = CUevent_st *;
constexpr unsigned cudaEventDisableTiming = 2;

inline cudaError_t cudaGetDevice(int *device)
{
   *device = 0;
   return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidConfiguration; }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
   *event = new CUevent_st{false, (flags & cudaEventDisableTiming) == 0, {}};
   return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
inline cudaError_t cudaEventDestroy(cudaEvent_t event)
{
   delete event;
   return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
   event->recorded = true;
   event->at = std::chrono::steady_clock::now();
   return cudaSuccess;
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) { return event->recorded ? cudaSuccess : cudaErrorNotReady; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) { return cudaEventQuery(event); }
inline cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t first, cudaEvent_t last)
{
   if (!first->recorded || !last->recorded || !first->timed || !last->timed)
      return cudaErrorInvalidResourceHandle;
   *milliseconds = std::chrono::duration<float, std::milli>(last->at - first->at).count();
   return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned)
{
   return event->recorded ? cudaSuccess : cudaErrorInvalidConfiguration;
}

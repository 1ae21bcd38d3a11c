// HIP on the CPU: its names for what cuda_host.hxx emulates.
#pragma once
#include "cuda_host.hxx"
#include <stdexcept>

#define hipError_t cudaError_t
#define hipFree cudaFree
#define hipFuncAttributeMaxDynamicSharedMemorySize cudaFuncAttributeMaxDynamicSharedMemorySize
#define hipFuncSetAttribute cudaFuncSetAttribute
#define hipGetErrorString cudaGetErrorString
#define hipGetLastError cudaGetLastError
#define hipGraphDestroy cudaGraphDestroy
#define hipGraphExecDestroy cudaGraphExecDestroy
#define hipGraphExec_t cudaGraphExec_t
#define hipGraphInstantiateWithFlags cudaGraphInstantiateWithFlags
#define hipGraphLaunch cudaGraphLaunch
#define hipGraph_t cudaGraph_t
#define hipMalloc cudaMalloc
#define hipMemcpy cudaMemcpy
#define hipMemcpyAsync cudaMemcpyAsync
#define hipMemcpyDeviceToHost cudaMemcpyDeviceToHost
#define hipMemcpyHostToDevice cudaMemcpyHostToDevice
#define hipMemsetAsync cudaMemsetAsync
#define hipStreamBeginCapture cudaStreamBeginCapture
#define hipStreamCaptureModeThreadLocal cudaStreamCaptureModeThreadLocal
#define hipStreamCaptureStatus cudaStreamCaptureStatus
#define hipStreamCaptureStatusNone cudaStreamCaptureStatusNone
#define hipStreamCreateWithFlags cudaStreamCreateWithFlags
#define hipStreamDestroy cudaStreamDestroy
#define hipStreamEndCapture cudaStreamEndCapture
#define hipStreamIsCapturing cudaStreamIsCapturing
#define hipStreamNonBlocking cudaStreamNonBlocking
#define hipStreamSynchronize cudaStreamSynchronize
#define hipStream_t cudaStream_t
#define hipSuccess cudaSuccess

// A width that is not that of a warp here is a fault of the text: on a card of 64 lanes it would be another sum.
#define SOFIE_HIP_SHUFFLE(name)                              \
   template <class T> T name(T value, int lane, int width)   \
   {                                                         \
      if (width != 32)                                       \
         throw std::runtime_error(#name ": not of 32 lanes"); \
      return name##_sync(0xffffffffu, value, lane);          \
   }
SOFIE_HIP_SHUFFLE(__shfl)
SOFIE_HIP_SHUFFLE(__shfl_xor)
SOFIE_HIP_SHUFFLE(__shfl_down)
#undef SOFIE_HIP_SHUFFLE

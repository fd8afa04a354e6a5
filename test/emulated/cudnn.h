#pragma once
// As much of cuDNN as a device asks for when it is opened; its engines are not emulated, see ops.cpp.
#include "cuda_runtime.h"

using cudnnHandle_t = struct EmulatedCudnn*;
enum cudnnStatus_t {
  CUDNN_STATUS_SUCCESS,
  CUDNN_STATUS_ALLOC_FAILED,
  CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED,
  CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED,
};

inline cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  *handle = nullptr;
  return CUDNN_STATUS_SUCCESS;
}
inline cudnnStatus_t cudnnDestroy(cudnnHandle_t) { return CUDNN_STATUS_SUCCESS; }
inline cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; }
inline size_t cudnnGetVersion() { return 0; }
inline const char* cudnnGetErrorString(cudnnStatus_t) { return "an error"; }
inline void cudnnGetLastErrorString(char*, size_t) {}

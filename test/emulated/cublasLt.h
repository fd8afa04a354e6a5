#pragma once
// As much of cuBLASLt as a device asks for when it is opened; its products are not emulated, see ops.cpp.
#include <cstddef>

using cublasLtHandle_t = struct EmulatedCublasLt*;
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_ALLOC_FAILED };

inline cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
inline size_t cublasLtGetVersion() { return 0; }
inline const char* cublasLtGetStatusString(cublasStatus_t) { return "an error"; }
inline const char* cublasLtGetStatusName(cublasStatus_t) { return "an error"; }

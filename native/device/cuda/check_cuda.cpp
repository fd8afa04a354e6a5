#include "device/cuda/check_cuda.h"

#include <string>

#include "base/error.h"

namespace ddad {

void checkCuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw Error(status == cudaErrorMemoryAllocation ? "ERR_MEMORY" : "ERR_DEVICE",
              std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")");
}

void checkCublas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(status == CUBLAS_STATUS_ALLOC_FAILED ? "ERR_MEMORY" : "ERR_DEVICE",
              std::string("cuBLASLt: ") + what + ": " + cublasLtGetStatusString(status) + " (" +
                  cublasLtGetStatusName(status) + ")");
}

void checkCudnn(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char last[512] = "";
  cudnnGetLastErrorString(last, sizeof last);
  last[sizeof last - 1] = '\0';
  const bool memory = status == CUDNN_STATUS_ALLOC_FAILED ||
                      status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
                      status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
  throw Error(memory ? "ERR_MEMORY" : "ERR_DEVICE", std::string("cuDNN: ") + what + ": " + cudnnGetErrorString(status) +
                                                        (*last ? std::string(" (") + last + ")" : std::string()));
}

}  // namespace ddad

#pragma once
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <cudnn.h>

namespace ddad {

/// Throw ERR_DEVICE with what was tried and what the library says (ERR_MEMORY where memory is short).
void checkCuda(cudaError_t status, const char* what);
void checkCublas(cublasStatus_t status, const char* what);
void checkCudnn(cudnnStatus_t status, const char* what);

}  // namespace ddad

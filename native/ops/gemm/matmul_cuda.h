#pragma once
// Matrix products through cuBLASLt, rows one after the other in memory: C = alpha op(A) op(B) + beta D (+ bias).
#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "device/cuda/device_cuda.h"
#include "graph/op.h"
#include "ops/cudnn/dnn_graph_cuda.h"

namespace ddad {

struct MatmulSpec {
  int64_t m, n, k;                              // C is [m, n], op(A) [m, k], op(B) [k, n]
  bool transposeA = false, transposeB = false;  // A lies as [k, m], B as [n, k]
  int64_t rowA, rowB, rowC;                     // values from one row in memory to the next
  DnnType in = DnnType::kFloat32, out = DnnType::kFloat32;
  DnnMath math = DnnMath::kTensorCores;  // kFloat32: exact products
  int64_t batch = 1;
  int64_t strideA = 0, strideB = 0, strideC = 0;  // values from one matrix of the batch to the next
  bool bias = false;                              // n values of type `out`, added to each row
  bool adds = false;                              // beta may be other than 0
  bool layoutOnly = false;                        // asked for its memory alone: no algorithm is looked for
  int alignment = 16;                             // bytes that every pointer is a multiple of: 4, 8 or 16 (2: bf16)
};

/// One product, its algorithm chosen: what the table of choices names, else the fastest of the first few that cuBLASLt
/// proposes, measured, else its first.
class Matmul {
 public:
  Matmul(const CudaDevice& device, const MatmulSpec& spec);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  /// Floats of scratch that run needs, room to align it included.
  int64_t workspaceFloats() const { return workspaceBytes_ > 0 ? (workspaceBytes_ + 3) / 4 + 64 : 0; }
  double flops() const;

  /// Enqueues it. `addend` lies as C does and may be C; it is read where beta is not 0 only. Throws ERR_DEVICE.
  void run(const void* a, const void* b, void* c, float* workspace, float alpha = 1.0f, float beta = 0.0f,
           const void* addend = nullptr, const void* bias = nullptr) const;

 private:
  static constexpr size_t kAlgorithmWords = sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t);

  void release() noexcept;
  void describe();
  void choose();
  cublasStatus_t start(const cublasLtMatmulAlgo_t& algorithm, const void* a, const void* b, void* c, void* workspace,
                       size_t workspaceBytes, float alpha, float beta, const void* addend, const void* bias) const;
  bool restore(const std::string& text);
  std::string key() const;

  const CudaDevice& device_;
  MatmulSpec spec_;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, c_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
  int64_t workspaceBytes_ = 0;
};

/// A product of an op.
inline std::unique_ptr<Matmul> makeMatmul(const OpContext& context, MatmulSpec spec) {
  spec.layoutOnly = context.layoutOnly;
  return std::make_unique<Matmul>(cudaDevice(*context.device), spec);
}

/// The largest power of two up to 16 that divides an offset in bytes.
inline int alignmentOf(int64_t bytes) {
  int alignment = 16;
  while (bytes % alignment != 0) alignment /= 2;
  return alignment;
}

/// What the device's products of float32 operands are computed in.
inline DnnMath floatMath(const Device& device) {
  return device.precision() == Precision::kFloat32 ? DnnMath::kFloat32 : DnnMath::kTensorCores;
}

}  // namespace ddad

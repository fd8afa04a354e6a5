#include "ops/gemm/matmul_cuda.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>

#include "device/cuda/measure_cuda.h"

namespace ddad {
namespace {

constexpr size_t kMostWorkspace = size_t{64} << 20;
constexpr int kMostCandidates = 8;

cudaDataType_t dataType(DnnType type) { return type == DnnType::kBf16 ? CUDA_R_16BF : CUDA_R_32F; }

/// cuBLASLt's matrices stand in columns: one of `rows` rows in memory is its transpose there.
cublasLtMatrixLayout_t layout(DnnType type, int64_t rows, int64_t columns, int64_t row, int64_t batch, int64_t stride) {
  cublasLtMatrixLayout_t made = nullptr;
  checkCublas(cublasLtMatrixLayoutCreate(&made, dataType(type), static_cast<uint64_t>(columns),
                                         static_cast<uint64_t>(rows), row),
              "describing a matrix");
  if (batch <= 1) return made;
  const auto count = static_cast<int32_t>(batch);
  auto status = cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
  if (status == CUBLAS_STATUS_SUCCESS)
    status =
        cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
  if (status != CUBLAS_STATUS_SUCCESS) cublasLtMatrixLayoutDestroy(made);
  checkCublas(status, "describing matrices");
  return made;
}

template <class T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  checkCublas(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value), "describing a product");
}
template <class T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  checkCublas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
              "describing what algorithms are wanted");
}

/// Bytes from the first to behind the last value of a matrix, or of a batch of them.
int64_t extent(DnnType type, int64_t rows, int64_t columns, int64_t row, int64_t batch, int64_t stride) {
  return ((batch - 1) * stride + (rows - 1) * row + columns) * dnnBytes(type);
}

}  // namespace

Matmul::Matmul(const CudaDevice& device, const MatmulSpec& spec) : device_(device), spec_(spec) {
  try {
    if (spec.layoutOnly) return;
    describe();
    choose();
  } catch (...) {
    release();
    throw;
  }
}

Matmul::~Matmul() { release(); }

void Matmul::release() noexcept {
  if (a_) cublasLtMatrixLayoutDestroy(a_);
  if (b_) cublasLtMatrixLayoutDestroy(b_);
  if (c_) cublasLtMatrixLayoutDestroy(c_);
  if (operation_) cublasLtMatmulDescDestroy(operation_);
}

double Matmul::flops() const {
  return 2.0 * static_cast<double>(spec_.batch * spec_.m) * static_cast<double>(spec_.n * spec_.k);
}

void Matmul::describe() {
  const MatmulSpec& s = spec_;
  const bool tf32 = s.in == DnnType::kFloat32 && s.math == DnnMath::kTensorCores;
  checkCublas(
      cublasLtMatmulDescCreate(&operation_, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
      "describing a product");
  // Seen in columns, C^T = op(B)^T op(A)^T: B comes first, and the flags stay.
  set(operation_, CUBLASLT_MATMUL_DESC_TRANSA, s.transposeB ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(operation_, CUBLASLT_MATMUL_DESC_TRANSB, s.transposeA ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (s.bias) set(operation_, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  a_ = s.transposeA ? layout(s.in, s.k, s.m, s.rowA, s.batch, s.strideA)
                    : layout(s.in, s.m, s.k, s.rowA, s.batch, s.strideA);
  b_ = s.transposeB ? layout(s.in, s.n, s.k, s.rowB, s.batch, s.strideB)
                    : layout(s.in, s.k, s.n, s.rowB, s.batch, s.strideB);
  c_ = layout(s.out, s.m, s.n, s.rowC, s.batch, s.strideC);
}

std::string Matmul::key() const {
  const MatmulSpec& s = spec_;
  const auto text = [](int64_t x) { return std::to_string(x); };
  std::string key = "cublas " + text(static_cast<int64_t>(cublasLtGetVersion())) + " " + text(s.m) + "x" + text(s.n) +
                    "x" + text(s.k) + (s.transposeA ? " t" : " n") + (s.transposeB ? "t" : "n") + " rows " +
                    text(s.rowA) + " " + text(s.rowB) + " " + text(s.rowC);
  if (s.batch > 1)
    key += " batch " + text(s.batch) + " strides " + text(s.strideA) + " " + text(s.strideB) + " " + text(s.strideC);
  key += s.in == DnnType::kBf16 ? ", bf16" : s.math == DnnMath::kFloat32 ? ", float32" : ", tf32";
  key += s.out == DnnType::kBf16 ? " to bf16" : " to float32";
  if (s.bias) key += ", bias";
  if (s.adds) key += ", adds";
  return key + ", aligned to " + text(s.alignment);
}

bool Matmul::restore(const std::string& text) {
  cublasLtMatmulAlgo_t algorithm{};
  if (text.size() != 16 * kAlgorithmWords) return false;
  for (size_t i = 0; i < kAlgorithmWords; ++i) {
    uint64_t word = 0;
    for (size_t j = 0; j < 16; ++j) {
      const char digit = text[16 * i + j];
      if (digit >= '0' && digit <= '9')
        word = word * 16 + static_cast<uint64_t>(digit - '0');
      else if (digit >= 'a' && digit <= 'f')
        word = word * 16 + static_cast<uint64_t>(digit - 'a' + 10);
      else
        return false;
    }
    algorithm.data[i] = word;
  }
  cublasLtMatmulHeuristicResult_t result{};
  if (cublasLtMatmulAlgoCheck(device_.cublasLt(), operation_, b_, a_, c_, c_, &algorithm, &result) !=
          CUBLAS_STATUS_SUCCESS ||
      result.state != CUBLAS_STATUS_SUCCESS || result.workspaceSize > kMostWorkspace)
    return false;
  algorithm_ = algorithm;
  workspaceBytes_ = static_cast<int64_t>(result.workspaceSize);
  return true;
}

namespace {

std::string textOf(const cublasLtMatmulAlgo_t& algorithm) {
  std::string text;
  for (const uint64_t word : algorithm.data) {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(word));
    text += digits;
  }
  return text;
}

/// Choices of this process, by device and key: ops of one shape take the same algorithm.
struct Chosen {
  std::mutex mutex;
  std::map<std::string, std::string> texts;
};
Chosen& chosenHere() {
  static auto* const chosen = new Chosen;  // never destroyed: a thread may outlive the statics at exit
  return *chosen;
}

}  // namespace

void Matmul::choose() {
  device_.stream();  // makes the GPU current
  int ordinal = 0;
  checkCuda(cudaGetDevice(&ordinal), "asking for the current GPU");
  Choices* const choices = device_.recording() ? nullptr : device_.choices();
  const std::string name = key();
  const std::string local = std::to_string(ordinal) + (choices ? " measured " : " first ") + name;
  const std::lock_guard<std::mutex> guard(chosenHere().mutex);
  if (const auto found = chosenHere().texts.find(local); found != chosenHere().texts.end() && restore(found->second))
    return;
  if (choices)
    if (const auto text = choices->find(name); text && restore(*text)) {
      chosenHere().texts[local] = *text;
      return;
    }

  cublasLtMatmulPreference_t preference = nullptr;
  checkCublas(cublasLtMatmulPreferenceCreate(&preference), "describing what algorithms are wanted");
  std::array<cublasLtMatmulHeuristicResult_t, kMostCandidates> results{};
  int count = 0;
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  try {
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
    // partial sums are added in float32, in a fixed order
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    const auto alignment = static_cast<uint32_t>(spec_.alignment);
    for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                             CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set(preference, which, alignment);
    status = cublasLtMatmulAlgoGetHeuristic(device_.cublasLt(), operation_, b_, a_, c_, c_, preference, kMostCandidates,
                                            results.data(), &count);
  } catch (...) {
    cublasLtMatmulPreferenceDestroy(preference);
    throw;
  }
  cublasLtMatmulPreferenceDestroy(preference);
  const auto end = std::remove_if(results.begin(), results.begin() + std::max(count, 0), [](const auto& result) {
    return result.state != CUBLAS_STATUS_SUCCESS || result.workspaceSize > kMostWorkspace;
  });
  if (status != CUBLAS_STATUS_SUCCESS || end == results.begin())
    throw Error("ERR_DEVICE",
                "cuBLASLt has no algorithm for the product " + name + ": " + cublasLtGetStatusString(status));

  auto best = results.begin();
  if (choices && end - results.begin() > 1) {
    const MatmulSpec& s = spec_;
    const auto padded = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
    const int64_t a = padded(s.transposeA ? extent(s.in, s.k, s.m, s.rowA, s.batch, s.strideA)
                                          : extent(s.in, s.m, s.k, s.rowA, s.batch, s.strideA));
    const int64_t b = padded(s.transposeB ? extent(s.in, s.n, s.k, s.rowB, s.batch, s.strideB)
                                          : extent(s.in, s.k, s.n, s.rowB, s.batch, s.strideB));
    const int64_t c = padded(extent(s.out, s.m, s.n, s.rowC, s.batch, s.strideC));
    const int64_t bias = padded(s.n * dnnBytes(s.out));
    size_t workspace = 0;
    for (auto result = results.begin(); result != end; ++result) workspace = std::max(workspace, result->workspaceSize);
    const TrialMemory memory(device_, a + b + c + bias + static_cast<int64_t>(workspace));
    if (char* const at = memory.data()) {
      float bestTime = std::numeric_limits<float>::infinity();
      for (auto result = results.begin(); result != end; ++result) {
        const float time = measure(
            device_,
            [&] {
              return start(result->algo, at, at + a, at + a + b, at + a + b + c + bias, result->workspaceSize, 1.0f,
                           s.adds ? 1.0f : 0.0f, at + a + b, at + a + b + c) == CUBLAS_STATUS_SUCCESS;
            },
            bestTime);
        if (time < bestTime) {
          best = result;
          bestTime = time;
        }
      }
    }
  }
  std::string text = textOf(best->algo);
  algorithm_ = best->algo;
  workspaceBytes_ = static_cast<int64_t>(best->workspaceSize);
  // Another process may have been first: then its choice holds, so that all of them compute the same.
  if (choices)
    if (const auto kept = choices->keep(name, text); kept && *kept != text && restore(*kept)) text = *kept;
  chosenHere().texts[local] = text;
}

cublasStatus_t Matmul::start(const cublasLtMatmulAlgo_t& algorithm, const void* a, const void* b, void* c,
                             void* workspace, size_t workspaceBytes, float alpha, float beta, const void* addend,
                             const void* bias) const {
  if (spec_.bias) {
    const cublasStatus_t status =
        cublasLtMatmulDescSetAttribute(operation_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  return cublasLtMatmul(device_.cublasLt(), operation_, &alpha, b, b_, a, a_, &beta, addend ? addend : c, c_, c, c_,
                        &algorithm, workspace, workspaceBytes, device_.stream());
}

void Matmul::run(const void* a, const void* b, void* c, float* workspace, float alpha, float beta, const void* addend,
                 const void* bias) const {
  const cublasStatus_t status = start(algorithm_, a, b, c, workspaceBytes_ > 0 ? alignedWorkspace(workspace) : nullptr,
                                      static_cast<size_t>(workspaceBytes_), alpha, beta, addend, bias);
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error("ERR_DEVICE",
                "cuBLASLt could not compute the product " + key() + ": " + cublasLtGetStatusString(status));
}

}  // namespace ddad

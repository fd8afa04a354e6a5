#pragma once
// A compiled op: one record of the graph at fixed shapes, with its memory bound before the first step.
#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "graph/graph.h"

namespace ddad {

/// Shape of a bound tensor; vectors have height = width = 1.
struct Shape {
  int64_t n = 0, h = 1, w = 1, c = 0;
  int64_t pixels() const { return n * h * w; }
  int64_t size() const { return pixels() * c; }
};

/// What an op knows when it is compiled.
struct OpContext {
  const Device* device;
  const OpRecord* record;
  std::vector<Shape> in;
  Shape out;
  bool training;                    // backward will be called
  std::vector<bool> inputGradient;  // per input: is its gradient wanted
  bool paramGradient;
  std::vector<bool> inHalf = {};  // per input: its values and its gradient are bf16, not float32
  bool outHalf = false;           // the same of the output
  bool layoutOnly = false;        // asked for its memory alone: nothing is measured or allocated for it
};

/// Memory of one op, on its device; a pointer to floats is one to bf16 where the context says so. Gradients follow the
/// op's own call order: where accumulate[i] is set, inGrad[i] is added to, otherwise overwritten. inGrad[i] may equal
/// outGrad for a residual input: then the gradient is already in place.
struct OpBuffers {
  std::vector<const float*> in;
  float* out = nullptr;
  const float* outGrad = nullptr;
  std::vector<float*> inGrad;
  std::vector<bool> accumulate;
  std::vector<const float*> param;     // float32, in the device's layout
  std::vector<const void*> paramHalf;  // the same rounded to bf16; null where the plan computes in float32
  std::vector<float*> paramGrad;       // overwritten by backward; null where not wanted
  float* saved = nullptr;              // written by forward, read by backward
  float* workspace = nullptr;          // forward's scratch
  float* backwardWorkspace = nullptr;  // backward's scratch
  float* packed = nullptr;             // written by prepare, read by forward and backward
};

/// How an op's packed weights lie. A plan takes over those of another one where layout and size are the same.
enum class PackedLayout {
  kNone,
  kGemmPanels,  // of ops/gemm
  kWinograd,    // transformed tiles
  kOnednn,      // blocks of oneDNN's choice
  kTapsFirst,   // [taps, channels]
};

class Op {
 public:
  explicit Op(OpContext context) : context_(std::move(context)) {}
  virtual ~Op() = default;
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;

  virtual int64_t savedFloats() const { return 0; }
  virtual int64_t forwardWorkspaceFloats() const { return 0; }
  virtual int64_t backwardWorkspaceFloats() const { return 0; }
  virtual int64_t packedFloats() const { return 0; }
  virtual PackedLayout packedLayout() const { return PackedLayout::kNone; }
  /// Whether backward reads the input's value (not only its gradient's place).
  virtual bool backwardReadsInput(int) const { return true; }
  virtual bool backwardReadsOutput() const { return false; }
  /// Whether the output may be written over input i (same shape, never read after its element is written).
  virtual bool mayOverwrite(int) const { return false; }
  /// Whether the gradient of input i is the gradient of the output, unchanged.
  virtual bool gradientPassesThrough(int) const { return false; }
  /// Multiply-adds counted as two, forward only.
  virtual double flops() const { return 0; }
  /// Name of the kernel chosen.
  virtual const char* kernelName() const { return "own"; }

  virtual void bind(const OpBuffers& buffers) { buffers_ = buffers; }
  /// Brings the weights into the kernel's layout; called whenever they have changed.
  virtual void prepare() {}
  virtual void forward() = 0;
  virtual void backward() = 0;

  const OpContext& context() const { return context_; }

 protected:
  int threads() const { return context_.device->threads(); }
  const OpAttributes& attr() const { return context_.record->attr; }

  OpContext context_;
  OpBuffers buffers_;
};

}  // namespace ddad

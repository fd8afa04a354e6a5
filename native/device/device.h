#pragma once
// Where the engine computes. A device is opened by name, shared by every model that runs on it, and outlives them.
#include <cstdint>
#include <memory>
#include <string>

namespace ddad {

/// What products are computed in: float32; float32 rounded to TensorFloat-32 on its way into a product; bfloat16, which
/// activations are kept in too. Sums, weights and the optimiser's state are float32 in all of them. The CPU has
/// float32.
enum class Precision { kFloat32, kTf32, kBf16 };
const char* precisionName(Precision precision);

class DeviceOps;            // graph/device_ops.h
struct NoiseFunctions;      // noise/noise_functions.h
struct FeatureFunctions;    // backbone/feature_functions.h
struct OptimizerFunctions;  // train/optimizer_functions.h

/// What a device with kernels of its own has for each layer, as the layer defines it; null where the layer's own loops,
/// those of the CPU, do the work.
struct DeviceFunctions {
  const DeviceOps* ops = nullptr;
  const NoiseFunctions* noise = nullptr;
  const FeatureFunctions* features = nullptr;
  const OptimizerFunctions* optimizer = nullptr;
};

/// Work of a device that is done again and again: recorded once, then replayed.
class Recording {
 public:
  virtual ~Recording() = default;
  /// Runs `work(context)`, which enqueues the same work on the same memory each time it is called, or its recording.
  virtual void run(void (*work)(void*), void* context) = 0;
};

/// Copies from the host into one array of a device, beside the work that is enqueued: on a GPU they run while it
/// computes.
class AsyncUpload {
 public:
  virtual ~AsyncUpload() = default;
  /// The next copy begins after everything enqueued so far, which may use the array.
  virtual void fence() = 0;
  /// Waits until the last copy has read its `from`.
  virtual void wait() = 0;
  /// Enqueued: what is enqueued from now on sees the values; `from` must stay as it is until wait, or until synchronize
  /// of the device.
  virtual void start(void* to, const void* from, int64_t bytes) = 0;
};

/// Memory of a device is used in the order in which work was enqueued; the host waits for it with synchronize only.
class Device : public std::enable_shared_from_this<Device> {
 public:
  Device(int threads, Precision precision) : precision_(precision), threads_(threads) {}
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  Precision precision() const { return precision_; }
  /// Compute threads of the host.
  int threads() const { return threads_; }

  /// Whether the host reads and writes the device's memory: then both are one, and copies between them do nothing.
  virtual bool sharesHostMemory() const = 0;
  /// Whether convolution weights lie as [out, kernel, kernel, in] in the device's parameter blocks, not [out, in,
  /// kernel, kernel] as in checkpoints.
  virtual bool weightsChannelsLast() const = 0;
  /// A device like this one for a share of the work: `threads` of the host's threads.
  virtual std::shared_ptr<Device> share(int threads) const = 0;
  /// How many independent images it works on at a time, each on a share of its own.
  virtual int concurrentImages() const = 0;

  /// Zeroed memory of the device, 256-byte aligned (64 on the CPU). Throws ERR_MEMORY, saying how much there is.
  virtual void* allocate(int64_t bytes) const = 0;
  virtual void release(void* memory) const noexcept = 0;
  /// Memory of the host that copies to and from the device run beside the host's work from.
  virtual void* allocateStaging(int64_t bytes) const = 0;
  virtual void releaseStaging(void* memory) const noexcept = 0;
  /// Enqueued: `from` and `to` must stay as they are until synchronize.
  virtual void upload(void* to, const void* from, int64_t bytes) const = 0;
  virtual void download(void* to, const void* from, int64_t bytes) const = 0;
  virtual void copy(void* to, const void* from, int64_t bytes) const = 0;
  virtual void clear(void* to, int64_t bytes) const = 0;
  /// Null where the host's memory is shared, and nothing needs to be copied.
  virtual std::unique_ptr<AsyncUpload> asyncUpload() const = 0;
  /// Waits for everything enqueued. Throws ERR_DEVICE where something failed.
  virtual void synchronize() const = 0;
  /// Null where recording gains nothing.
  virtual std::unique_ptr<Recording> record() const = 0;
  /// Bytes that can be allocated now.
  virtual int64_t availableBytes() const = 0;

  virtual const DeviceFunctions& functions() const = 0;

 private:
  Precision precision_;
  int threads_;
};

/// float32, tf32 or bf16; throws ERR_OPTION for anything else.
Precision precisionOf(const std::string& name);

/// Processors that this process may use.
int availableProcessors();

}  // namespace ddad

#pragma once
// Memory of a device, and memory that the host and a device have in common.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "device/device.h"

namespace ddad {

/// One zeroed block of floats in a device's memory.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Throws ERR_MEMORY.
  DeviceBuffer(const Device& device, int64_t count) : device_(device.shared_from_this()), count_(count) {
    if (count > 0) data_ = static_cast<float*>(device.allocate(bytes()));
  }
  ~DeviceBuffer() {
    if (data_) device_->release(data_);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  float* data() noexcept { return data_; }
  const float* data() const noexcept { return data_; }
  int64_t size() const noexcept { return count_; }
  int64_t bytes() const noexcept { return count_ * static_cast<int64_t>(sizeof(float)); }

 private:
  std::shared_ptr<const Device> device_;
  float* data_ = nullptr;
  int64_t count_ = 0;
};

/// An array that the host and the device both see: one block where the device shares the host's memory, else a block on
/// each side, the host's such that copies run beside its work. `T` is plain data.
template <class T>
class Mirrored {
 public:
  Mirrored() = default;
  Mirrored(const Device& device, int64_t count) : device_(device.shared_from_this()), count_(count) {
    if (count <= 0) return;
    on_ = static_cast<T*>(device.allocate(bytes()));
    try {
      host_ = device.sharesHostMemory() ? on_ : static_cast<T*>(device.allocateStaging(bytes()));
    } catch (...) {
      device.release(on_);
      throw;
    }
  }
  ~Mirrored() {
    if (host_ && host_ != on_) device_->releaseStaging(host_);
    if (on_) device_->release(on_);
  }
  Mirrored(Mirrored&& other) noexcept { *this = std::move(other); }
  Mirrored& operator=(Mirrored&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(host_, other.host_);
    std::swap(on_, other.on_);
    std::swap(count_, other.count_);
    return *this;
  }
  T* host() noexcept { return host_; }
  const T* host() const noexcept { return host_; }
  T* device() noexcept { return on_; }
  const T* device() const noexcept { return on_; }
  int64_t size() const noexcept { return count_; }
  int64_t bytes() const noexcept { return count_ * static_cast<int64_t>(sizeof(T)); }

  /// Enqueue a copy of `count` values from `first` on; the host's stay as they are until Device::synchronize.
  void upload(int64_t first, int64_t count) {
    if (host_ != on_) device_->upload(on_ + first, host_ + first, count * static_cast<int64_t>(sizeof(T)));
  }
  void upload() { upload(0, count_); }
  /// The host reads them after Device::synchronize.
  void download(int64_t first, int64_t count) {
    if (host_ != on_) device_->download(host_ + first, on_ + first, count * static_cast<int64_t>(sizeof(T)));
  }
  void download() { download(0, count_); }

 private:
  std::shared_ptr<const Device> device_;
  T *host_ = nullptr, *on_ = nullptr;
  int64_t count_ = 0;
};

/// Takes values of a device's memory to the host, after everything enqueued.
inline void copyToHost(const Device& device, const float* from, int64_t count, std::vector<float>& to) {
  to.resize(static_cast<size_t>(count));
  device.download(to.data(), from, count * static_cast<int64_t>(sizeof(float)));
  device.synchronize();
}
inline std::vector<float> hostCopy(const Device& device, const float* from, int64_t count) {
  std::vector<float> values;
  copyToHost(device, from, count, values);
  return values;
}

/// Uploads arrays of the caller to a device. Two copies take turns, so that the host fills one, and the device
/// receives it, while what was enqueued before still uses the other.
class UploadBuffer {
 public:
  UploadBuffer() = default;
  /// For at most `most` floats at a time.
  UploadBuffer(const Device& device, int64_t most) {
    if (device.sharesHostMemory() || most <= 0) return;
    for (Copy& copy : copies_) {
      copy.values = Mirrored<float>(device, most);
      copy.upload = device.asyncUpload();
      copy.upload->fence();  // by the zeroing of fresh memory
    }
  }
  /// Floats of the device's memory that one needs.
  static int64_t deviceFloats(const Device& device, int64_t most) { return device.sharesHostMemory() ? 0 : 2 * most; }
  /// `values` as the device sees them: themselves, or a copy that is being uploaded. The array may change when the call
  /// returns only where the device has a memory of its own. What is enqueued until the next call may use the copy.
  const float* upload(const float* values, int64_t count) {
    if (!copies_[0].upload) return values;
    copies_[turn_].upload->fence();
    turn_ = 1 - turn_;
    Copy& copy = copies_[turn_];
    copy.upload->wait();
    std::copy_n(values, count, copy.values.host());
    copy.upload->start(copy.values.device(), copy.values.host(), count * static_cast<int64_t>(sizeof(float)));
    return copy.values.device();
  }

 private:
  struct Copy {
    Mirrored<float> values;
    std::unique_ptr<AsyncUpload> upload;  // ends before the values do
  };
  Copy copies_[2];
  size_t turn_ = 0;
};

/// Downloads arrays of a device to the host.
class DownloadBuffer {
 public:
  /// `values` as the host sees them, after everything enqueued: themselves, or a copy, which is that of the last call.
  const float* download(const Device& device, const float* values, int64_t count) {
    if (device.sharesHostMemory()) return values;
    copyToHost(device, values, count, copy_);
    return copy_.data();
  }

 private:
  std::vector<float> copy_;
};

}  // namespace ddad

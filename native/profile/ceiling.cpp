#include "profile/ceiling.h"

#include <atomic>
#include <cstring>

#include "device/parallel.h"
#include "profile/ceiling_kernels.h"
#include "profile/profile.h"

namespace ddad {
namespace {

constexpr int64_t kCopyFloats = int64_t{1} << 24;  // 64 MiB: more than the last cache of most processors
constexpr int64_t kPieces = 64;
constexpr long kRounds = 1L << 20;

}  // namespace

CeilingProbe::CeilingProbe(const Device& device) : device_(device), from_(kCopyFloats), to_(kCopyFloats) {}

void CeilingProbe::sample() {
  const int threads = device_.threads();
  const auto kernel = DDAD_DISPATCH(multiplyAdds);
  std::atomic<float> sink{0};
  const Stopwatch multiplying;
  parallelFor(threads, threads, [&](int64_t) { sink.store(kernel(kRounds), std::memory_order_relaxed); });
  const double operations = static_cast<double>(DDAD_DISPATCH(multiplyAddOperations)()) * kRounds * threads;
  flops_.push_back(operations / multiplying.seconds());

  constexpr int64_t kPiece = kCopyFloats / kPieces;
  const Stopwatch copying;
  parallelFor(threads, kPieces, [&](int64_t i) {
    std::memcpy(to_.data() + i * kPiece, from_.data() + i * kPiece, kPiece * sizeof(float));
  });
  bytes_.push_back(2.0 * kCopyFloats * sizeof(float) / copying.seconds());
}

nlohmann::json profileCeiling(const Device& device, const Repetition& repetition, const Cancel& cancel) {
  CeilingProbe probe(device);
  repeat(repetition, cancel, [&](bool) { probe.sample(); });
  return {{"flopsPerSecond", probe.flopsPerSecond()}, {"bytesPerSecond", probe.bytesPerSecond()}};
}

}  // namespace ddad

#include "graph/finite.h"

#include "graph/device_ops.h"

namespace ddad {

bool allFinite(const Device& device, const float* x, int64_t n, Mirrored<int32_t>& flag) {
  device.clear(flag.device(), flag.bytes());
  opsOf(device).findNonFinite(device, x, n, flag.device());
  flag.download();
  device.synchronize();
  return flag.host()[0] == 0;
}

}  // namespace ddad

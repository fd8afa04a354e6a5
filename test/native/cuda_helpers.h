#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "device/open_device.h"
#include "doctest.h"

namespace ddad::testing {

/// The GPU; null where there is none, which is said once. DDAD_TEST_CUDA=required makes that a failure.
inline std::shared_ptr<Device> testGpu(Precision precision = Precision::kFloat32) {
  try {
    return openDevice("cuda", 2, precision);
  } catch (const Error& error) {
    const char* wanted = std::getenv("DDAD_TEST_CUDA");
    REQUIRE_MESSAGE((!wanted || std::string(wanted) != "required"), error.what());
    static bool said = false;
    if (!said) std::cout << "skipped: what needs a GPU: " << error.what() << std::endl;
    said = true;
    return nullptr;
  }
}

/// ||got - want|| / ||want||; a `want` of almost nothing counts as values of 1e-3.
inline double relativeDistance(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    difference += d * d;
    size += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  return std::sqrt(difference) / std::max(std::sqrt(size), 1e-3 * std::sqrt(static_cast<double>(want.size())));
}

}  // namespace ddad::testing

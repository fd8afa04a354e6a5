#include "backbone_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "backbone/efficientnet.h"
#include "device/device.h"
#include "device/open_device.h"
#include "file/checkpoint/checkpoint.h"
#include "graph/plan.h"
#include "nlohmann/json.hpp"

namespace ddad::bench {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

std::string kindOf(const OpRecord& record) {
  const std::string kernel = std::to_string(record.attr.kernel) + "x" + std::to_string(record.attr.kernel);
  switch (record.kind) {
    case OpKind::kDepthwiseConv:
      return "depthwise " + kernel;
    case OpKind::kSqueezeExcite:
      return "squeeze-excite";
    default:
      return "conv " + kernel;
  }
}

}  // namespace

int runBackboneBench(const char* weights, int batch, int size, int threads, int rounds) {
  const auto device = openDevice("cpu", threads);
  Backbone net = loadBackbone(*openTensorSource(weights));
  ParameterBlock block{std::move(net.parameters), AlignedBuffer()};
  Plan plan(*device, net.graph, {batch, size, size}, block);
  plan.prepare();
  float* input = plan.value(net.input);
  const auto fill = [&] {
    for (int64_t i = 0; i < plan.shape(net.input).size(); ++i) input[i] = std::sin(0.37f * static_cast<float>(i));
  };
  std::vector<double> whole;
  std::vector<std::vector<double>> ops(plan.ops().size());
  for (int round = 0; round <= rounds; ++round) {  // the first warms up
    fill();
    const double all = milliseconds([&] { plan.forward(Cancel()); });
    fill();
    for (size_t i = 0; i < ops.size(); ++i) {
      const double one = milliseconds([&] { plan.ops()[i]->forward(); });
      if (round > 0) ops[i].push_back(one);
    }
    if (round > 0) whole.push_back(all);
  }
  std::map<std::string, double> kinds;
  for (size_t i = 0; i < ops.size(); ++i) kinds[kindOf(net.graph.ops()[i])] += median(ops[i]);
  const nlohmann::json report = {{"threads", device->threads()},
                                 {"medianMs", median(whole)},
                                 {"fastestMs", *std::min_element(whole.begin(), whole.end())},
                                 {"gigaflop", plan.flops() / 1e9},
                                 {"opsMs", kinds}};
  std::cout << report.dump() << "\n";
  return 0;
}

}  // namespace ddad::bench

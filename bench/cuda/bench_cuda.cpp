// The engine on a GPU, without Node: how fast it is against what the card itself can do, and whether training follows
// the CPU's. Prints a JSON line for each result. See README.md.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <random>

#include "device/device_buffer.h"
#include "device/open_device.h"
#include "graph/op_kind.h"
#include "graph/plan.h"
#include "noise/schedule.h"
#include "profile/timing.h"
#include "score/score_pass.h"
#include "train/trainer.h"
#include "unet/initialize.h"

namespace {

using namespace ddad;
using nlohmann::json;

struct Options {
  std::string config, device = "cuda";
  Precision precision = Precision::kBf16;
  std::vector<std::string> what;
  int64_t batch = 8, images = 1, steps = 200, size = 64, times = 20;
  double lr = 0;  // of the parity run; 0: the configuration's
  int threads = 0;
};

std::vector<float> randomFloats(int64_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, 0.5f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = std::tanh(normal(engine));
  return values;
}

/// Photographs of nothing: waves of random frequency, some noise. What is learned from noise alone amplifies rounding.
std::vector<float> randomTextures(int64_t batch, int64_t size, int64_t channels, uint32_t seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  std::vector<float> values;
  const auto side = static_cast<float>(size);
  for (int64_t b = 0; b < batch; ++b) {
    const float fx = 2 + 6 * uniform(engine), fy = 2 + 6 * uniform(engine), p = 6.28f * uniform(engine),
                q = 6.28f * uniform(engine);
    for (int64_t y = 0; y < size; ++y)
      for (int64_t x = 0; x < size; ++x)
        for (int64_t c = 0; c < channels; ++c)
          values.push_back(std::tanh(
              0.6f * std::sin(6.28f * fx * static_cast<float>(x) / side + p) +
              0.4f * std::cos(6.28f * fy * static_cast<float>(y) / side + q + static_cast<float>(c)) + normal(engine)));
  }
  return values;
}

struct Times {
  std::vector<double> seconds;
  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
  json spread() const {
    const auto [low, high] = std::minmax_element(seconds.begin(), seconds.end());
    return {*low * 1e3, *high * 1e3};
  }
};

/// Three runs to warm up (the second is recorded, the third replayed), then `times` of them; `f` waits for the device.
template <class F>
Times measure(int64_t times, F f) {
  for (int i = 0; i < 3; ++i) f();
  Times result;
  for (int64_t i = 0; i < times; ++i) {
    const Stopwatch watch;
    f();
    result.seconds.push_back(watch.seconds());
  }
  return result;
}

void print(const Options& o, json line) {
  line["side"] = "ddad-native";
  line["precision"] = precisionName(o.precision);
  std::cout << line.dump() << std::endl;
}

/// Bytes a second of a large copy, read and written; FLOP a second of a large product, on random values.
double ceilings(const Options& o, const Device& device) {
  constexpr int64_t kFloats = int64_t{1} << 28, kSide = 8192;
  {
    const DeviceBuffer from(device, kFloats);
    DeviceBuffer to(device, kFloats);
    const Times copy = measure(10, [&] {
      for (int i = 0; i < 10; ++i) device.copy(to.data(), from.data(), from.bytes());
      device.synchronize();
    });
    print(o, {{"what", "copy"}, {"GBs", 10.0 * 2.0 * static_cast<double>(from.bytes()) / copy.median() / 1e9}});
  }
  Graph graph;
  const TensorId in = graph.addTensor("in", kSide, 0);
  graph.markInput(in);
  OpAttributes attr;
  attr.bias = false;
  const ParamId weight = graph.addParam("weight", {kSide, kSide, 1, 1});
  graph.markOutput(graph.addOp(OpKind::kConv, "product", {in}, kSide, 0, {weight}, attr));
  ParameterBlock block{AlignedBuffer(graph.parameterFloats())};
  const std::vector<float> values = randomFloats(kSide * kSide, 3);
  std::copy(values.begin(), values.end(), block.values.data());
  PlanOptions options{1, 64, 128};
  options.halfEnds = true;
  Plan plan(device, graph, options, block);
  // as many bits as there are, whatever they are read as: small random floats are small random bf16, twice as many
  device.upload(plan.value(in), values.data(), kSide * kSide * (device.precision() == Precision::kBf16 ? 2 : 4));
  plan.prepare();
  const Times product = measure(10, [&] {
    for (int i = 0; i < 10; ++i) plan.forward(Cancel());
    device.synchronize();
  });
  const double rate = 10.0 * plan.flops() / product.median();
  print(o, {{"what", "product"}, {"TFLOPs", rate / 1e12}});
  return rate;
}

void benchTraining(const Options& o, const std::shared_ptr<Device>& device, json config, double rate) {
  config["training"]["batchSize"] = o.batch;
  const json estimate = Trainer::estimateMemory(*device, config);
  const int64_t before = device->availableBytes();
  Trainer trainer(device, config);
  const std::vector<float> pixels = randomFloats(trainer.batchFloats(), 1);
  const Times times = measure(o.times, [&] { trainer.step(pixels.data(), nullptr, 1e-5, Cancel()); });
  device->synchronize();
  const int64_t used = before - device->availableBytes();
  PlanOptions options{o.batch, config["input"]["size"], config["input"]["size"]};
  const UNet net = buildUNet(UNetConfig::fromJson(config["unet"]));
  // backward takes twice what forward takes: a product for the data, one for the weights
  const double flops = 3.0 * Plan::needs(*device, net.graph, options).flops;
  print(o, {{"what", "train"},
            {"preset", config["preset"]},
            {"batch", o.batch},
            {"ms", times.median() * 1e3},
            {"spread", times.spread()},
            {"TFLOP", flops / 1e12},
            {"TFLOPs", flops / times.median() / 1e12},
            {"ofProduct", rate > 0 ? json(flops / times.median() / rate) : json(nullptr)},
            {"memory", trainer.memory()},
            {"estimate", estimate},
            {"used", used}});
}

/// A scoring pass as detectors run it: pixels of the host in, maps on the host out.
void benchScoring(const Options& o, const std::shared_ptr<Device>& device, json config, double rate) {
  config["score"]["normalization"] = "none";
  const ScoreConfig score = ScoreConfig::fromJson(config);
  const UNet net = buildUNet(score.unet);
  ParameterBlock block{AlignedBuffer(net.graph.parameterFloats())};
  initializeUNet(net, 1, block.values.data());
  const int64_t size = config["input"]["size"];
  ScorePass pass(*device, net, score, block, nullptr, o.images, size, size);
  pass.prepare();
  const std::vector<float> pixels = randomFloats(o.images * size * size * score.unet.inChannels, 2);
  std::copy(pixels.begin(), pixels.end(), pass.image(0));
  const std::vector<uint32_t> samples(static_cast<size_t>(o.images));
  const Times times = measure(o.times, [&] { pass.run(samples.data(), Cancel()); });
  const double flops = pass.plan().flops();
  print(o, {{"what", "score"},
            {"preset", config["preset"]},
            {"images", o.images},
            {"ms", times.median() * 1e3},
            {"spread", times.spread()},
            {"TFLOPs", flops / times.median() / 1e12},
            {"ofProduct", rate > 0 ? json(flops / times.median() / rate) : json(nullptr)}});
}

/// Where the time of a training step goes: each op by itself, summed over ops of a kind and kernel.
void benchOps(const Options& o, const std::shared_ptr<Device>& device, const json& config) {
  const UNet net = buildUNet(UNetConfig::fromJson(config["unet"]));
  ParameterBlock block{AlignedBuffer(net.graph.parameterFloats())};
  initializeUNet(net, 1, block.values.data());
  PlanOptions options{o.batch, config["input"]["size"], config["input"]["size"]};
  options.training = true;
  Plan plan(*device, net.graph, options, block);
  for (const TensorId id : {net.x, net.t}) plan.write(id, randomFloats(plan.shape(id).size(), 5).data());
  plan.prepare();
  plan.forward(Cancel());
  plan.writeGradient(net.out, randomFloats(plan.shape(net.out).size(), 6).data());
  plan.backward(Cancel());
  device->synchronize();
  struct Sum {
    double seconds = 0, flops = 0;
    int count = 0;
  };
  std::map<std::string, Sum> sums;
  constexpr int kRepeats = 5;
  for (const bool backward : {false, true})
    for (const auto& op : plan.ops()) {
      if (backward && !op->context().training) continue;
      const OpRecord& record = *op->context().record;
      std::string name = std::string(opKindName(record.kind)) + " " + op->kernelName();
      if (record.kind == OpKind::kConv) name += " " + std::to_string(record.attr.kernel) + "x";
      name += backward ? " backward" : " forward";
      device->synchronize();
      const Stopwatch watch;
      for (int i = 0; i < kRepeats; ++i) backward ? op->backward() : op->forward();
      device->synchronize();
      Sum& sum = sums[name];
      sum.seconds += watch.seconds() / kRepeats;
      sum.flops += op->flops() * (backward ? 2 : 1);
      sum.count += 1;
    }
  for (const auto& [name, sum] : sums)
    print(o, {{"what", "op"},
              {"name", name},
              {"count", sum.count},
              {"ms", sum.seconds * 1e3},
              {"TFLOPs", sum.flops / sum.seconds / 1e12}});
}

/// The same training on the CPU and on the GPU: the largest relative difference of the losses.
void parity(const Options& o, const std::shared_ptr<Device>& device, json config) {
  config["training"]["batchSize"] = o.batch;
  config["input"]["size"] = o.size;
  config["unet"]["imageSize"] = o.size;
  Trainer onGpu(device, config), onCpu(openDevice("cpu", o.threads), config);
  double worst = 0, last = 0;
  std::vector<double> grown;  // the largest so far, every 20 steps
  const Stopwatch watch;
  for (int64_t i = 0; i < o.steps; ++i) {
    const std::vector<float> pixels =
        randomTextures(o.batch, o.size, config["unet"]["inChannels"], static_cast<uint32_t>(i));
    const double lr = o.lr > 0 ? o.lr : config["training"]["lr"].get<double>();
    const double want = onCpu.step(pixels.data(), nullptr, lr, Cancel()).loss,
                 got = onGpu.step(pixels.data(), nullptr, lr, Cancel()).loss;
    const double difference = std::abs(got - want) / want;
    if (!(difference <= worst)) worst = difference;
    last = got;
    if (i % 20 == 19) grown.push_back(worst);
  }
  print(o, {{"what", "parity"},
            {"preset", config["preset"]},
            {"steps", o.steps},
            {"batch", o.batch},
            {"size", o.size},
            {"lr", o.lr > 0 ? o.lr : config["training"]["lr"].get<double>()},
            {"largestRelativeDifference", worst},
            {"everyTwentySteps", grown},
            {"lastLoss", last},
            {"seconds", watch.seconds()}});
}

Options parse(int argc, char** argv) {
  Options o;
  const auto value = [&](int& i) -> std::string {
    if (i + 1 >= argc) throw Error("ERR_OPTION", std::string(argv[i]) + ": expected a value");
    return argv[++i];
  };
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--device")
      o.device = value(i);
    else if (name == "--precision")
      o.precision = precisionOf(value(i));
    else if (name == "--batch")
      o.batch = std::stoll(value(i));
    else if (name == "--images")
      o.images = std::stoll(value(i));
    else if (name == "--steps")
      o.steps = std::stoll(value(i));
    else if (name == "--size")
      o.size = std::stoll(value(i));
    else if (name == "--times")
      o.times = std::stoll(value(i));
    else if (name == "--lr")
      o.lr = std::stod(value(i));
    else if (name == "--threads")
      o.threads = std::stoi(value(i));
    else if (name == "--what")
      o.what.push_back(value(i));
    else if (o.config.empty() && name.rfind("--", 0) != 0)
      o.config = name;
    else
      throw Error("ERR_OPTION", "unknown option " + name);
  }
  if (o.config.empty() || o.what.empty())
    throw Error(
        "ERR_OPTION",
        "usage: ddad_bench_cuda CONFIG.json --what ceilings|train|score|ops|parity … [--device cuda] [--precision "
        "bf16] [--batch 8] [--images 1] [--times 20] [--steps 200] [--size 64] [--lr X] [--threads 0]");
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options o = parse(argc, argv);
    std::ifstream file(o.config);
    const json config = json::parse(file);
    const auto device = openDevice(o.device, o.threads, o.precision);
    double rate = 0;
    for (const std::string& what : o.what) {
      if (what == "ceilings")
        rate = ceilings(o, *device);
      else if (what == "train")
        benchTraining(o, device, config, rate);
      else if (what == "score")
        benchScoring(o, device, config, rate);
      else if (what == "ops")
        benchOps(o, device, config);
      else if (what == "parity")
        parity(o, device, config);
      else
        throw Error("ERR_OPTION", "--what: expected ceilings, train, score, ops or parity, got " + what);
    }
    return 0;
  } catch (const Error& error) {
    std::cerr << error.code() << ": " << error.what() << std::endl;
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
  }
  return 1;
}

// Our side of bench/peers (its README defines the protocol): a process that answers JSON lines on stdin.
#include "peer_worker.h"

#include <chrono>
#include <cmath>
#include <iostream>

#include "device/dispatch.h"
#include "device/open_device.h"
#include "file/safetensors.h"
#include "graph/parameters.h"
#include "json_lines.h"
#include "score/image/pixels.h"
#include "score/score_pass.h"
#include "train/trainer.h"
#include "unet/initialize.h"
#include "verify/compare.h"

namespace ddad::bench {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

json tensorOf(const std::vector<int64_t>& shape, const std::vector<float>& values) {
  return {{"shape", shape}, {"data", base64(values.data(), values.size() * sizeof(float))}};
}

/// [a, b, rest] to [b, a, rest].
std::vector<float> swapLeading(const std::vector<float>& in, int64_t a, int64_t b) {
  const auto rest = static_cast<int64_t>(in.size()) / (a * b);
  std::vector<float> out(in.size());
  for (int64_t i = 0; i < a; ++i)
    for (int64_t j = 0; j < b; ++j) std::copy_n(in.data() + (i * b + j) * rest, rest, out.data() + (j * a + i) * rest);
  return out;
}

class Workload {
 public:
  virtual ~Workload() = default;
  virtual void iterate() = 0;
  virtual json output(const SafetensorsFile& inputs) = 0;
};

class ScoreWorkload : public Workload {
 public:
  ScoreWorkload(std::shared_ptr<Device> device, const json& config, int64_t images, int64_t size,
                const std::string& model)
      : device_(std::move(device)), config_(ScoreConfig::fromJson(config)), net_(buildUNet(config_.unet)) {
    block_.values = AlignedBuffer(net_.graph.parameterFloats());
    if (model.empty())
      initializeUNet(net_, 1, block_.values.data());
    else
      readParameters(net_.graph, SafetensorsFile::open(model), "", block_.values.data());
    pass_ = std::make_unique<ScorePass>(*device_, net_, config_, block_, nullptr, images, size, size);
    pass_->prepare();
    samples_.resize(static_cast<size_t>(images));
    for (int64_t i = 0; i < images; ++i)
      for (int64_t k = 0; k < size * size * config_.unet.inChannels; ++k)
        pass_->image(i)[k] = static_cast<float>(std::sin(0.013 * static_cast<double>(k + i)));
  }

  void iterate() override {
    for (uint32_t& sample : samples_) sample = counter_++;
    pass_->run(samples_.data(), Cancel());
    const int64_t pixels = pass_->height() * pass_->width();
    for (int64_t i = 0; i < pass_->images(); ++i)
      sink_ += meanOfLargest(std::vector<float>(pass_->map(i), pass_->map(i) + pixels), config_.topCount);
  }

  json output(const SafetensorsFile& inputs) override {
    const auto scales = static_cast<int64_t>(config_.steps.size()), images = pass_->images();
    const int64_t channels = config_.unet.inChannels, h = pass_->height(), w = pass_->width(), pixels = h * w;
    const auto nhwc = [&](const char* name, int64_t n, int64_t c) {
      const auto values = inputs.floats(name);
      return toNhwc(values, n, c, pixels);
    };
    // the file is scale-major, the pass image-major
    const auto x = swapLeading(nhwc("x", scales * images, channels), scales, images);
    std::copy(x.begin(), x.end(), pass_->plan().value(net_.x));
    const auto t = inputs.ints("t");
    for (int64_t s = 0; s < scales; ++s)
      for (int64_t i = 0; i < images; ++i)
        pass_->plan().value(net_.t)[i * scales + s] = static_cast<float>(t[static_cast<size_t>(s * images + i)]);
    pass_->plan().forward(Cancel());
    const float* out = pass_->plan().value(net_.out);
    const auto n = static_cast<size_t>(scales * images * pixels * 2 * channels);
    const auto scaleMajor = swapLeading(std::vector<float>(out, out + n), images, scales);

    const auto x0 = nhwc("x0", images, channels), noise = nhwc("noise", scales * images, channels);
    std::vector<StepCoefficients> coefficients;
    std::vector<NoiseSource> sources;
    std::vector<float> kl(static_cast<size_t>(scales * images * pixels));
    const ImageBatch batch = {images, pixels, static_cast<int>(channels)};
    for (int64_t s = 0; s < scales; ++s) {
      coefficients.assign(static_cast<size_t>(images),
                          stepCoefficients(config_.schedule, config_.steps[static_cast<size_t>(s)]));
      sources.clear();
      for (int64_t i = 0; i < images; ++i)
        sources.push_back({.values = noise.data() + (s * images + i) * batch.elements()});
      pixelScore(*device_, PixelMeasure::kKl, batch, {x0.data(), batch.elements()},
                 scaleMajor.data() + s * images * pixels * 2 * channels, coefficients.data(), sources.data(), nullptr,
                 kl.data() + s * images * pixels, nullptr, nullptr);
    }
    return {{"out", tensorOf({scales * images, 2 * channels, h, w},
                             toNchw(scaleMajor, scales * images, 2 * channels, pixels))},
            {"kl", tensorOf({scales, images, h, w}, kl)}};
  }

 private:
  std::shared_ptr<Device> device_;
  ScoreConfig config_;
  UNet net_;
  ParameterBlock block_;
  std::unique_ptr<ScorePass> pass_;
  std::vector<uint32_t> samples_;
  uint32_t counter_ = 0;
  double sink_ = 0;
};

class TrainWorkload : public Workload {
 public:
  TrainWorkload(const std::shared_ptr<Device>& device, const json& config, const std::string& model)
      : device_(device), config_(config), model_(model) {
    trainer_ = make();
    pixels_.resize(static_cast<size_t>(trainer_->batchFloats()));
    for (size_t i = 0; i < pixels_.size(); ++i)
      pixels_[i] = static_cast<float>(std::sin(0.013 * static_cast<double>(i)));
  }

  void iterate() override { trainer_->step(pixels_.data(), nullptr, 1e-4, Cancel()); }

  json output(const SafetensorsFile& inputs) override {
    // a step of its own on fresh weights, so that the timed trainer keeps the same work
    const auto trainer = make();
    const std::vector<int64_t> shape = inputs.get("x0").shape;
    const auto nhwc = [&](const char* name) {
      return toNhwc(inputs.floats(name), shape[0], shape[1], shape[2] * shape[3]);
    };
    const auto t = inputs.ints("t");
    const StepResult r =
        trainer->stepWithNoise(nhwc("x0").data(), nullptr, t.data(), nhwc("noise").data(), 1e-4, Cancel());
    return {
        {"out", networkOutput(inputs, shape)},
        {"losses", tensorOf({3}, {static_cast<float>(r.loss), static_cast<float>(r.mse), static_cast<float>(r.vb)})},
        {"gradNorm", tensorOf({1}, {static_cast<float>(r.gradNorm)})}};
  }

 private:
  /// The network alone: a training step's own output is overwritten by its backward.
  json networkOutput(const SafetensorsFile& inputs, const std::vector<int64_t>& shape) const {
    const UNet net = buildUNet(UNetConfig::fromJson(config_.at("unet")));
    ParameterBlock block{AlignedBuffer(net.graph.parameterFloats()), AlignedBuffer()};
    std::copy_n(make()->weights(), net.graph.parameterFloats(), block.values.data());
    PlanOptions options;
    options.batch = shape[0];
    options.height = shape[2];
    options.width = shape[3];
    Plan plan(*device_, net.graph, options, block);
    const int64_t pixels = shape[2] * shape[3];
    const auto x = toNhwc(inputs.floats("x"), shape[0], shape[1], pixels);
    std::copy(x.begin(), x.end(), plan.value(net.x));
    const auto t = inputs.ints("t");
    for (size_t i = 0; i < t.size(); ++i) plan.value(net.t)[i] = static_cast<float>(t[i]);
    plan.prepare();
    plan.forward(Cancel());
    const std::span<const float> out(plan.value(net.out), static_cast<size_t>(plan.shape(net.out).size()));
    return tensorOf({shape[0], 2 * shape[1], shape[2], shape[3]}, toNchw(out, shape[0], 2 * shape[1], pixels));
  }

  std::unique_ptr<Trainer> make() const {
    auto trainer = std::make_unique<Trainer>(device_, config_);
    if (model_.empty()) return trainer;
    AlignedBuffer block(trainer->graph().parameterFloats());
    readParameters(trainer->graph(), SafetensorsFile::open(model_), "", block.data());
    trainer->setWeights(block.data());
    return trainer;
  }

  std::shared_ptr<Device> device_;
  json config_;
  std::string model_;
  std::unique_ptr<Trainer> trainer_;
  std::vector<float> pixels_;
};

json setUp(const json& request, std::unique_ptr<Workload>& workload) {
  json config = request.at("config");
  config["unet"] = request.at("preset");
  config["input"]["size"] = request.at("size");
  const int64_t images = request.at("images");
  const std::string model = request.value("model", json()).is_string() ? request["model"].get<std::string>() : "";
  const auto device = openDevice("cpu", request.at("threads"));
  if (request.at("workload") == "train") {
    config["training"]["batchSize"] = images;
    workload = std::make_unique<TrainWorkload>(device, config, model);
  } else {
    workload = std::make_unique<ScoreWorkload>(device, config, images, request.at("size"), model);
  }
  return {{"ok", true}, {"engine", "ddad-native"}, {"isa", isaName(cpuIsa())}};
}

json answer(const json& request, std::unique_ptr<Workload>& workload) {
  const std::string op = request.at("op");
  if (op == "setup") return setUp(request, workload);
  if (op == "rss") return {{"peakKb", processStatusKb("VmHWM")}, {"currentKb", processStatusKb("VmRSS")}};
  if (!workload) return {{"error", "setup comes first"}};
  if (op == "output") return {{"tensors", workload->output(SafetensorsFile::open(request.at("inputs")))}};
  if (op != "run") return {{"error", "unknown op " + op}};
  for (int64_t i = request.value("warmup", int64_t{0}); i > 0; --i) workload->iterate();
  std::vector<double> seconds;
  for (int64_t i = request.at("iterations"); i > 0; --i) {
    const auto start = Clock::now();
    workload->iterate();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  return {{"seconds", seconds}};
}

}  // namespace

int runPeerWorker() {
  std::unique_ptr<Workload> workload;
  std::string line;
  while (std::getline(std::cin, line)) {
    json reply;
    try {
      const json request = json::parse(line);
      if (request.value("op", "") == "quit") return 0;
      reply = answer(request, workload);
    } catch (const std::exception& e) {
      reply = {{"error", e.what()}};
    }
    std::cout << reply.dump() << std::endl;
  }
  return 0;
}

}  // namespace ddad::bench

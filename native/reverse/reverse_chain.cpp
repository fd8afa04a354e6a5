#include "reverse/reverse_chain.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/philox.h"
#include "graph/finite.h"

namespace ddad {

ReverseChain::ReverseChain(const Device& device, const UNet& net, ParameterBlock& parameters, ReverseSettings settings,
                           int64_t images, int64_t height, int64_t width, PlanMemory* memory)
    : device_(device),
      net_(net),
      settings_(std::move(settings)),
      batch_{images, height * width, static_cast<int>(net.graph.tensor(net.x).channels)},
      coefficients_(static_cast<size_t>(images), stepCoefficients(settings_.schedule, settings_.start)),
      ddim_(static_cast<size_t>(images)),
      noise_(static_cast<size_t>(images)),
      samples_(static_cast<size_t>(images)),
      labels_(static_cast<size_t>(images)),
      x_(device, images * batch_.elements()),
      t_(device, images),
      y_(device, net.y >= 0 ? images : 0),
      nonFinite_(device, 1),
      plan_(device, net.graph, {images, height, width}, parameters, memory) {
  if (net.graph.tensor(net.out).channels != 2 * batch_.channels)
    throw Error("ERR_CONFIG", "unet.outChannels: expected twice the image's channels (a learned variance), got " +
                                  std::to_string(net.graph.tensor(net.out).channels));
  plan_.prepare();
}

NoiseSource* ReverseChain::sources(uint32_t step, const float* noise) {
  for (size_t i = 0; i < noise_.size(); ++i) {
    noise_[i] = {.seed = settings_.seed, .stream = kStreamSampling, .step = step, .sample = samples_[i]};
    if (noise != nullptr) noise_[i].values = noise + static_cast<int64_t>(i) * batch_.elements();
  }
  return noise_.data();
}

void ReverseChain::begin(const uint32_t* samples, const float* noise) {
  std::copy_n(samples, samples_.size(), samples_.begin());
  left_ = settings_.start + 1;
  // the noise that a step adds has the number of that step, so this one is its own
  sources(static_cast<uint32_t>(settings_.schedule.steps()), noise);
}

void ReverseChain::startFromNoise(const uint32_t* samples, const float* noise) {
  begin(samples, noise);
  for (int64_t i = 0; i < batch_.samples; ++i)
    fillNormal(device_, noise_[static_cast<size_t>(i)], batch_.elements(), imageOnDevice(i));
}

void ReverseChain::startFromImages(const uint32_t* samples, const float* noise) {
  begin(samples, noise);
  std::fill(coefficients_.begin(), coefficients_.end(), stepCoefficients(settings_.schedule, settings_.start));
  x_.upload();
  noising(device_, batch_, {x_.device(), batch_.elements()}, coefficients_.data(), noise_.data(), x_.device());
}

void ReverseChain::download() {
  x_.download();
  device_.synchronize();
}

void ReverseChain::network(int step, const Cancel& cancel) {
  const auto t = static_cast<float>(settings_.schedule.timestepMap[static_cast<size_t>(step)]);
  device_.copy(plan_.value(net_.x), x_.device(), x_.bytes());
  std::fill_n(t_.host(), t_.size(), t);
  for (int64_t i = 0; i < y_.size(); ++i) y_.host()[i] = static_cast<float>(labels_[static_cast<size_t>(i)]);
  device_.upload(plan_.value(net_.t), t_.host(), t_.bytes());
  if (net_.y >= 0) device_.upload(plan_.value(net_.y), y_.host(), y_.bytes());
  plan_.forward(cancel);
  // here rather than in the result, where clamping xhat0 would hide an infinity
  if (!allFinite(device_, plan_.value(net_.out), plan_.shape(net_.out).size(), nonFinite_))
    throw Error("ERR_NUMERIC", "the network's output is not finite: the model's weights are damaged or diverged");
  std::fill(coefficients_.begin(), coefficients_.end(), stepCoefficients(settings_.schedule, step));
}

void ReverseChain::step(const Cancel& cancel, const float* z) {
  if (left_ < 1) throw Error("ERR_INTERNAL", "the chain has ended");
  const int t = left_ - 1;
  network(t, cancel);
  if (settings_.ddim) std::fill(ddim_.begin(), ddim_.end(), ddimCoefficients(settings_.schedule, t, settings_.eta));
  const bool random = t > 0 && (!settings_.ddim || settings_.eta > 0);
  reverseStep(device_, batch_, plan_.value(net_.x), plan_.value(net_.out), coefficients_.data(),
              settings_.ddim ? ddim_.data() : nullptr, random ? sources(static_cast<uint32_t>(t), z) : nullptr,
              settings_.clip, {.next = x_.device()});
  left_ = t;
}

void ReverseChain::denoise(int step, const Cancel& cancel) {
  network(step, cancel);
  reverseStep(device_, batch_, plan_.value(net_.x), plan_.value(net_.out), coefficients_.data(), nullptr, nullptr,
              settings_.clip, {.mean = x_.device()});
}

}  // namespace ddad

// The bodies of the GPU's group norm, run over their grids on the CPU, against the CPU's own op.
#include <cmath>

#include "cuda_helpers.h"
#include "device/open_device.h"
#include "doctest.h"
#include "graph/plan.h"
#include "op_cases.h"
#include "ops/group_norm/group_norm_totals_grid.h"
#include "random_values.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

struct NormCase {
  int64_t samples, height, width;
  std::vector<int64_t> sources;
  EmbeddingMode mode;
  bool silu, accumulate;
  int64_t chunkRows;
  float mean = 3.0f;
};

/// Memory that starts at 16 bytes.
template <class T>
struct Tensor {
  explicit Tensor(const std::vector<float>& values) : packs(values.size() / Pack<T>::kSize + 1), size(values.size()) {
    for (size_t i = 0; i < size; ++i) data()[i] = fromFloat<T>(values[i]);
  }
  T* data() { return packs.data()->v; }
  std::vector<float> floats() {
    std::vector<float> values;
    for (size_t i = 0; i < size; ++i) values.push_back(toFloat(data()[i]));
    return values;
  }
  std::vector<Pack<T>> packs;
  size_t size;
};

std::vector<float> shifted(int64_t count, uint32_t seed, float mean) {
  std::vector<float> values = randomValues(count, seed);
  for (float& v : values) v += mean;
  return values;
}

/// The concatenation of the sources.
template <class T>
std::vector<float> joined(std::vector<Tensor<T>>& x, const NormCase& c) {
  std::vector<float> all;
  for (int64_t pixel = 0; pixel < c.samples * c.height * c.width; ++pixel)
    for (size_t s = 0; s < x.size(); ++s) {
      const T* const from = x[s].data() + pixel * c.sources[s];
      for (int64_t i = 0; i < c.sources[s]; ++i) all.push_back(toFloat(from[i]));
    }
  return all;
}

/// By the definition, in double: shift has the sum of dz, scale that of dz (gamma xhat + beta).
std::vector<float> scaleShiftGradient(const NormCase& c, int64_t channels, const std::vector<float>& x,
                                      const std::vector<float>& gamma, const std::vector<float>& beta,
                                      const std::vector<float>& e, const std::vector<float>& dy) {
  const int64_t pixels = c.height * c.width, perGroup = channels / 32;
  std::vector<double> sums(static_cast<size_t>(2 * c.samples * channels));
  const auto at = [&](int64_t n, int64_t pixel, int64_t ch) {
    return static_cast<size_t>((n * pixels + pixel) * channels + ch);
  };
  for (int64_t n = 0; n < c.samples; ++n)
    for (int64_t ch = 0; ch < channels; ++ch) {
      double mean = 0, squares = 0;
      const int64_t first = ch / perGroup * perGroup;
      const auto count = static_cast<double>(pixels * perGroup);
      for (int pass = 0; pass < 2; ++pass)
        for (int64_t pixel = 0; pixel < pixels; ++pixel)
          for (int64_t j = first; j < first + perGroup; ++j) {
            const auto v = static_cast<double>(x[at(n, pixel, j)]);
            if (pass == 0)
              mean += v / count;
            else
              squares += (v - mean) * (v - mean) / count;
          }
      const auto scale = static_cast<size_t>(n * 2 * channels + ch), shift = scale + static_cast<size_t>(channels);
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        const double hat = (static_cast<double>(x[at(n, pixel, ch)]) - mean) / std::sqrt(squares + 1e-5);
        const double y = hat * static_cast<double>(gamma[static_cast<size_t>(ch)]) +
                         static_cast<double>(beta[static_cast<size_t>(ch)]);
        const double z = y * (1.0 + static_cast<double>(e[scale])) + static_cast<double>(e[shift]);
        const double s = 1.0 / (1.0 + std::exp(-z));
        const double dz = static_cast<double>(dy[at(n, pixel, ch)]) * (c.silu ? s * (1.0 + z * (1.0 - s)) : 1.0);
        sums[scale] += dz * y;
        sums[shift] += dz;
      }
    }
  return {sums.begin(), sums.end()};
}

template <class T, class Out>
void checkNorm(const NormCase& c, double tolerance) {
  int64_t channels = 0;
  for (const int64_t s : c.sources) channels += s;
  OpCase opCase{"norm", OpKind::kGroupNorm, {}, c.samples, c.height, c.width, c.sources, channels};
  opCase.attr.sources = static_cast<int>(c.sources.size());
  opCase.attr.embedding = c.mode;
  opCase.attr.activation = c.silu ? Activation::kSilu : Activation::kNone;
  const bool embedded = c.mode != EmbeddingMode::kNone;
  if (embedded) opCase.in.push_back(c.mode == EmbeddingMode::kAdd ? channels : 2 * channels);

  // the CPU's op, on what the types leave of the values
  const auto cpu = openDevice("cpu", 1);
  const OpCaseGraph g = buildOpCase(opCase);
  ParameterBlock block(AlignedBuffer(g.graph.parameterFloats()), AlignedBuffer(g.graph.parameterFloats()));
  const std::vector<float> gamma = randomValues(channels, 1), beta = randomValues(channels, 2);
  std::copy(gamma.begin(), gamma.end(), block.values.data() + g.graph.params()[0].offset);
  std::copy(beta.begin(), beta.end(), block.values.data() + g.graph.params()[1].offset);
  PlanOptions options{c.samples, c.height, c.width};
  options.training = options.inputGradients = true;
  Plan plan(*cpu, g.graph, options, block);
  const int64_t pixels = c.height * c.width, plane = c.samples * channels;
  std::vector<Tensor<T>> x, dx;
  std::vector<std::vector<float>> before;
  for (size_t s = 0; s < c.sources.size(); ++s) {
    const int64_t size = c.samples * pixels * c.sources[s];
    x.emplace_back(shifted(size, static_cast<uint32_t>(10 + s), c.mean));
    plan.write(g.inputs[s], x[s].floats().data());
    dx.emplace_back(randomValues(size, static_cast<uint32_t>(20 + s)));
    before.push_back(dx[s].floats());
  }
  std::vector<float> embedding = embedded ? randomValues(c.samples * opCase.in.back(), 5) : std::vector<float>();
  if (embedded) plan.write(g.inputs.back(), embedding.data());
  Tensor<Out> dy(randomValues(c.samples * pixels * channels, 6)), out(std::vector<float>(dy.size, NAN));
  plan.prepare();
  plan.forward(Cancel());
  const std::vector<float> wanted = hostCopy(*cpu, plan.value(g.output), c.samples * pixels * channels);
  plan.writeGradient(g.output, dy.floats().data());
  plan.backward(Cancel());

  const NormTile tile = {channels, pixels, blocksOf(pixels, c.chunkRows), c.chunkRows};
  const NormParameters k = {c.samples,
                            channels,
                            channels / 32,
                            pixels,
                            tile.chunks,
                            gamma.data(),
                            beta.data(),
                            c.mode == EmbeddingMode::kScaleShift ? embedding.data() : nullptr,
                            c.mode == EmbeddingMode::kAdd ? embedding.data() : nullptr,
                            1e-5f};
  const int64_t second = c.sources.size() > 1 ? c.sources[1] : 0;
  const NormSources<T> sources = {{x[0].data(), second > 0 ? x[1].data() : nullptr},
                                  {c.sources[0], second},
                                  pixels,
                                  c.sources[0] % kRun == 0 && second % kRun == 0};
  std::vector<std::vector<float>> memory(10, std::vector<float>(static_cast<size_t>(plane), NAN));
  const auto vector = [&](size_t i) { return memory[i].data(); };
  std::vector<float> s1(static_cast<size_t>(plane * tile.chunks), NAN), s2(s1);
  float *a = vector(0), *b = vector(1), *h = vector(2), *mu = vector(3), *hat = vector(4), *total1 = vector(5),
        *total2 = vector(6), *p = vector(7), *q = vector(8), *r = vector(9);
  const bool whole = channels % kRun == 0;
  runGrid(NormSums<T>{tile, sources, s1.data(), s2.data()}, tile.extent(c.samples));
  const NormStatistics<T> statistics{k, sources, s1.data(), s2.data(), a, b, h, mu, hat};
  runGrid(statistics);
  runGrid(NormApply<T, Out>{tile, sources, a, b, out.data(), c.silu, whole}, tile.extent(c.samples));
  const double valueError = relativeDistance(out.floats(), wanted);
  CHECK_MESSAGE(valueError <= tolerance, "value: " << valueError);

  runGrid(NormGradSums<T, Out>{tile, sources, dy.data(), a, b, mu, c.silu, whole, s1.data(), s2.data()},
          tile.extent(c.samples));
  std::vector<float> embeddingGradient = randomValues(static_cast<int64_t>(embedding.size()), 7);
  const std::vector<float> embeddingBefore = embeddingGradient;
  const NormGradTotals totals{
      k,           s1.data(), s2.data(), h, mu, hat,
      total1,      total2,    p,         q, r,  c.mode == EmbeddingMode::kAdd ? embeddingGradient.data() : nullptr,
      c.accumulate};
  runGrid(totals);
  std::vector<float> gammaGradient(gamma.size(), NAN), betaGradient(gamma.size(), NAN);
  const NormParameterGradients parameters{k,
                                          total1,
                                          total2,
                                          gammaGradient.data(),
                                          betaGradient.data(),
                                          c.mode == EmbeddingMode::kScaleShift ? embeddingGradient.data() : nullptr,
                                          c.accumulate};
  runGrid(parameters);
  runGrid(NormGradApply<T, Out>{tile,
                                sources,
                                dy.data(),
                                a,
                                b,
                                p,
                                q,
                                r,
                                {dx[0].data(), second > 0 ? dx[1].data() : nullptr},
                                {c.accumulate, c.accumulate},
                                c.silu,
                                whole,
                                sources.aligned},
          tile.extent(c.samples));
  const auto check = [&](const std::string& what, std::vector<float> got, const std::vector<float>& start,
                         const float* want, double bound) {
    for (size_t i = 0; i < got.size(); ++i)
      if (c.accumulate && !start.empty()) got[i] -= start[i];
    const double error = relativeDistance(got, {want, want + got.size()});
    CHECK_MESSAGE(error <= 2 * bound, what << ": " << error);
  };
  for (size_t s = 0; s < dx.size(); ++s)
    check("source", dx[s].floats(), before[s], plan.gradient(g.inputs[s]), sizeof(T) == 2 ? 5e-3 : tolerance);
  // a plan has no gradient of a vector that is an input
  if (c.mode == EmbeddingMode::kAdd) {
    std::vector<float> sums(static_cast<size_t>(plane));
    for (size_t i = 0; i < dx[0].size; ++i)
      sums[i / static_cast<size_t>(pixels * channels) * static_cast<size_t>(channels) +
           i % static_cast<size_t>(channels)] += plan.gradient(g.inputs[0])[i];
    check("added vector", embeddingGradient, embeddingBefore, sums.data(), tolerance);
  } else if (embedded) {
    check("scale and shift", embeddingGradient, embeddingBefore,
          scaleShiftGradient(c, channels, joined(x, c), gamma, beta, embedding, dy.floats()).data(), tolerance);
  }
  check("gamma", gammaGradient, {}, block.gradients.data() + g.graph.params()[0].offset, tolerance);
  check("beta", betaGradient, {}, block.gradients.data() + g.graph.params()[1].offset, tolerance);
}

}  // namespace

TEST_CASE("grid: group norm, forward and backward") {
  using E = EmbeddingMode;
  const std::vector<NormCase> cases = {
      {2, 5, 6, {64}, E::kNone, false, false, 64},
      {2, 9, 7, {64}, E::kScaleShift, true, false, 16},
      {1, 8, 8, {64}, E::kAdd, true, true, 10},
      {2, 4, 5, {96, 32}, E::kNone, true, true, 7},
      {3, 3, 3, {20, 44}, E::kScaleShift, true, false, 4},   // runs over both sources
      {2, 17, 13, {32}, E::kScaleShift, true, true, 100},    // one channel a group
      {1, 6, 6, {288}, E::kNone, true, false, 64},           // more than one block of channels
      {2, 12, 12, {64}, E::kNone, false, false, 50, 100.0f}  // a mean that dwarfs the deviation
  };
  for (const NormCase& c : cases) {
    CAPTURE(c.sources[0]);
    CAPTURE(c.height);
    checkNorm<float, float>(c, c.mean > 10 ? 2e-4 : 1e-5);
    if (c.mean > 10) continue;       // bf16 has no digits left there
    checkNorm<Bf16, Bf16>(c, 5e-3);  // results keep 8 bits
    checkNorm<Bf16, float>(c, 1e-5);
  }
}

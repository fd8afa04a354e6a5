#include "reference.h"

#include <algorithm>
#include <cmath>

namespace ddad {
namespace {

double silu(double x) { return x / (1.0 + std::exp(-x)); }

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return silu(x);
    case Activation::kRelu6:
      return std::min(std::max(x, 0.0), 6.0);
    default:
      return x;
  }
}

struct Call {
  const OpRecord& record;
  const std::vector<Shape>& shapes;
  const std::vector<Values>& in;
  const std::vector<Values>& params;
  const Shape& out;

  const OpAttributes& attr() const { return record.attr; }
  /// Element of the concatenation of the sources; zero outside the image.
  double source(int64_t n, int64_t y, int64_t x, int64_t c) const {
    for (size_t s = 0;; ++s) {
      const Shape& shape = shapes[s];
      if (c >= shape.c) {
        c -= shape.c;
        continue;
      }
      if (y < 0 || x < 0 || y >= shape.h || x >= shape.w) return 0.0;
      return in[s][static_cast<size_t>(((n * shape.h + y) * shape.w + x) * shape.c + c)];
    }
  }
  int64_t sourceChannels() const {
    int64_t channels = 0;
    for (int s = 0; s < attr().sources; ++s) channels += shapes[static_cast<size_t>(s)].c;
    return channels;
  }
};

template <class F>
Values fill(const Shape& out, F value) {
  Values y;
  y.reserve(static_cast<size_t>(out.size()));
  for (int64_t n = 0; n < out.n; ++n)
    for (int64_t h = 0; h < out.h; ++h)
      for (int64_t w = 0; w < out.w; ++w)
        for (int64_t c = 0; c < out.c; ++c) y.push_back(value(n, h, w, c));
  return y;
}

Values conv(const Call& call, bool depthwise) {
  const OpAttributes& attr = call.attr();
  const int64_t channels = depthwise ? 1 : call.sourceChannels(), k = attr.kernel;
  return fill(call.out, [&](int64_t n, int64_t oy, int64_t ox, int64_t o) {
    double sum = attr.bias ? call.params[1][static_cast<size_t>(o)] : 0.0;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t ky = 0; ky < k; ++ky)
        for (int64_t kx = 0; kx < k; ++kx)
          sum += call.params[0][static_cast<size_t>(((o * channels + c) * k + ky) * k + kx)] *
                 call.source(n, oy * attr.stride + ky - attr.pad, ox * attr.stride + kx - attr.pad, depthwise ? o : c);
    if (attr.residual) {
      const Values& residual = call.in[static_cast<size_t>(attr.sources)];
      sum += residual[static_cast<size_t>(((n * call.out.h + oy) * call.out.w + ox) * call.out.c + o)];
    }
    return activate(attr.activation, sum);
  });
}

Values groupNorm(const Call& call) {
  const OpAttributes& attr = call.attr();
  const int64_t channels = call.out.c, perGroup = channels / attr.groups;
  const auto embedded = [&](int64_t n, int64_t i, int64_t width) {
    return call.in[static_cast<size_t>(attr.sources)][static_cast<size_t>(n * width + i)];
  };
  const auto value = [&](int64_t n, int64_t y, int64_t x, int64_t c) {
    const double added = attr.embedding == EmbeddingMode::kAdd ? embedded(n, c, channels) : 0.0;
    return call.source(n, y, x, c) + added;
  };
  std::vector<double> mean, deviation;
  for (int64_t n = 0; n < call.out.n; ++n)
    for (int64_t g = 0; g < attr.groups; ++g) {
      double sum = 0, squares = 0;
      const double count = static_cast<double>(call.out.h * call.out.w * perGroup);
      for (int pass = 0; pass < 2; ++pass)
        for (int64_t y = 0; y < call.out.h; ++y)
          for (int64_t x = 0; x < call.out.w; ++x)
            for (int64_t c = g * perGroup; c < (g + 1) * perGroup; ++c) {
              const double v = value(n, y, x, c);
              if (pass == 0)
                sum += v;
              else
                squares += (v - sum / count) * (v - sum / count);
            }
      mean.push_back(sum / count);
      deviation.push_back(std::sqrt(squares / count + static_cast<double>(attr.eps)));
    }
  return fill(call.out, [&](int64_t n, int64_t y, int64_t x, int64_t c) {
    const auto group = static_cast<size_t>(n * attr.groups + c / perGroup);
    double z = (value(n, y, x, c) - mean[group]) / deviation[group] * call.params[0][static_cast<size_t>(c)] +
               call.params[1][static_cast<size_t>(c)];
    if (attr.embedding == EmbeddingMode::kScaleShift)
      z = z * (1.0 + embedded(n, c, 2 * channels)) + embedded(n, channels + c, 2 * channels);
    return activate(attr.activation, z);
  });
}

Values linear(const Call& call) {
  const int64_t width = call.shapes[0].c;
  return fill(call.out, [&](int64_t n, int64_t, int64_t, int64_t o) {
    double sum = call.params[1][static_cast<size_t>(o)];
    for (int64_t i = 0; i < width; ++i) {
      const double x = call.in[0][static_cast<size_t>(n * width + i)];
      sum += call.params[0][static_cast<size_t>(o * width + i)] * (call.attr().siluInput ? silu(x) : x);
    }
    return sum;
  });
}

Values squeezeExcite(const Call& call) {
  const int64_t channels = call.out.c, reduced = call.attr().reduced;
  std::vector<Values> gates;
  for (int64_t n = 0; n < call.out.n; ++n) {
    Values mean, hidden, gate;
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t y = 0; y < call.out.h; ++y)
        for (int64_t x = 0; x < call.out.w; ++x) sum += call.source(n, y, x, c);
      mean.push_back(sum / static_cast<double>(call.out.h * call.out.w));
    }
    for (int64_t r = 0; r < reduced; ++r) {
      double sum = call.params[1][static_cast<size_t>(r)];
      for (int64_t c = 0; c < channels; ++c)
        sum += call.params[0][static_cast<size_t>(r * channels + c)] * mean[static_cast<size_t>(c)];
      hidden.push_back(activate(call.attr().activation, sum));
    }
    for (int64_t c = 0; c < channels; ++c) {
      double sum = call.params[3][static_cast<size_t>(c)];
      for (int64_t r = 0; r < reduced; ++r)
        sum += call.params[2][static_cast<size_t>(c * reduced + r)] * hidden[static_cast<size_t>(r)];
      gate.push_back(1.0 / (1.0 + std::exp(-sum)));
    }
    gates.push_back(std::move(gate));
  }
  return fill(call.out, [&](int64_t n, int64_t y, int64_t x, int64_t c) {
    return call.source(n, y, x, c) * gates[static_cast<size_t>(n)][static_cast<size_t>(c)];
  });
}

Values attention(const Call& call) {
  const int64_t heads = call.attr().heads, width = call.out.c / heads, tokens = call.out.h * call.out.w;
  const auto at = [&](int64_t n, int64_t token, int64_t head, int64_t part, int64_t i) {
    const int64_t channel =
        call.attr().splitBeforeHeads ? (part * heads + head) * width + i : (head * 3 + part) * width + i;
    return call.in[0][static_cast<size_t>((n * tokens + token) * 3 * call.out.c + channel)];
  };
  return fill(call.out, [&](int64_t n, int64_t y, int64_t x, int64_t c) {
    const int64_t head = c / width, token = y * call.out.w + x;
    std::vector<double> scores(static_cast<size_t>(tokens));
    double largest = -1e300, total = 0, sum = 0;
    for (int64_t s = 0; s < tokens; ++s) {
      double dot = 0;
      for (int64_t i = 0; i < width; ++i) dot += at(n, token, head, 0, i) * at(n, s, head, 1, i);
      scores[static_cast<size_t>(s)] = dot / std::sqrt(static_cast<double>(width));
      largest = std::max(largest, scores[static_cast<size_t>(s)]);
    }
    for (int64_t s = 0; s < tokens; ++s) {
      const double weight = std::exp(scores[static_cast<size_t>(s)] - largest);
      total += weight;
      sum += weight * at(n, s, head, 2, c % width);
    }
    return sum / total;
  });
}

}  // namespace

Values referenceForward(const OpRecord& record, const std::vector<Shape>& shapes, const std::vector<Values>& in,
                        const std::vector<Values>& params, const Shape& out) {
  const Call call{record, shapes, in, params, out};
  switch (record.kind) {
    case OpKind::kConv:
      return conv(call, false);
    case OpKind::kDepthwiseConv:
      return conv(call, true);
    case OpKind::kGroupNorm:
      return groupNorm(call);
    case OpKind::kLinear:
      return linear(call);
    case OpKind::kAttention:
      return attention(call);
    case OpKind::kSqueezeExcite:
      return squeezeExcite(call);
    case OpKind::kUpsample:
      return fill(out, [&](int64_t n, int64_t y, int64_t x, int64_t c) { return call.source(n, y / 2, x / 2, c); });
    case OpKind::kAvgPool:
      return fill(out, [&](int64_t n, int64_t y, int64_t x, int64_t c) {
        double sum = 0;
        for (int64_t k = 0; k < 4; ++k) sum += call.source(n, 2 * y + k / 2, 2 * x + k % 2, c);
        return sum / 4;
      });
    case OpKind::kTimestepEmbedding:
      return fill(out, [&](int64_t n, int64_t, int64_t, int64_t c) {
        const int64_t half = out.c / 2;
        if (c >= 2 * half) return 0.0;
        const double angle = in[0][static_cast<size_t>(n)] *
                             std::pow(10000.0, -static_cast<double>(c % half) / static_cast<double>(half));
        return c < half ? std::cos(angle) : std::sin(angle);
      });
    case OpKind::kLabelEmbedding:
      return fill(out, [&](int64_t n, int64_t, int64_t, int64_t c) {
        const auto label = static_cast<int64_t>(in[1][static_cast<size_t>(n)]);
        return in[0][static_cast<size_t>(n * out.c + c)] + params[0][static_cast<size_t>(label * out.c + c)];
      });
  }
  throw Error("ERR_INTERNAL", "unknown op kind");
}

}  // namespace ddad

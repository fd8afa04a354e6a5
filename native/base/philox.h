#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, as in Random123). A number depends on its key and
// counter alone, so any device, thread or batch split that asks for the same counter gets the same number and nothing
// has to be stored.
//
// The engine's use of them: key = the 64-bit seed; counter = (block, sample, step, stream). `stream` separates
// purposes (RandomStream), `step` is the training step or another running number, `sample` the sample's index in the
// whole batch, and element e of a sample (its NHWC index, counted within the sample) is lane e % 4 of block e / 4.
// The words are the same everywhere; the normal numbers made of them agree to rounding between instruction sets and
// devices, and are the same, bit for bit, on one of them.
#include <cstdint>

#include "base/host_device.h"
#include "base/vecmath.h"

namespace ddad {

/// What a random number is for; numbers of different streams are independent.
enum RandomStream : uint32_t {
  kStreamTrainingNoise = 0,
  kStreamTimestep = 1,
  kStreamScoreNoise = 2,
  kStreamInitialWeights = 3,
  kStreamSampling = 4,
  kStreamTimestepFocus = 5,
  kStreamChannels = 6,
  kStreamProjection = 7,
};

/// Ten rounds in place: counter in, four random words out.
DDAD_HD void philox4x32(uint32_t key0, uint32_t key1, uint32_t counter[4]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
#if !defined(__CUDACC__)
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(c0) * 0xD2511F53u;
    const uint64_t product1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  counter[0] = c0;
  counter[1] = c1;
  counter[2] = c2;
  counter[3] = c3;
}

/// A word as a float in (0, 1]: the largest words round to 1, none to 0.
DDAD_HD float uniformOpenZero(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 1)) * 4.656612873077393e-10f + 2.3283064365386963e-10f;
}
/// A word as a float in [0, 1), a multiple of 2^-24.
DDAD_HD float uniformOpenOne(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8)) * 5.9604644775390625e-8f;
}

/// Two standard normal numbers of two words (Box-Muller); at most 6.7 in magnitude.
DDAD_HD void normalPair(uint32_t word0, uint32_t word1, float* a, float* b) {
  const float radius = fastSqrt(-2.0f * fastLog(uniformOpenZero(word0)));
  float sine, cosine;
  fastSinCos2Pi(uniformOpenOne(word1), &sine, &cosine);
  *a = radius * cosine;
  *b = radius * sine;
}

/// The four standard normal numbers of a block.
DDAD_HD void philoxNormal4(uint64_t seed, uint32_t stream, uint32_t step, uint32_t sample, uint32_t block,
                           float out[4]) {
  uint32_t words[4] = {block, sample, step, stream};
  philox4x32(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), words);
  normalPair(words[0], words[1], &out[0], &out[1]);
  normalPair(words[2], words[3], &out[2], &out[3]);
}

/// A whole number in [0, bound), from lane 0 of block 0; the bias is below bound / 2^32.
DDAD_HD uint32_t philoxBelow(uint64_t seed, uint32_t stream, uint32_t step, uint32_t sample, uint32_t bound) {
  uint32_t words[4] = {0, sample, step, stream};
  philox4x32(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), words);
  return static_cast<uint32_t>((static_cast<uint64_t>(words[0]) * bound) >> 32);
}

}  // namespace ddad

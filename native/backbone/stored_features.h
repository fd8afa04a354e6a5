#pragma once
// The features of a model in its file: the folded backbone as "backbone.*" and the channels' normalisation.
#include <map>
#include <string>
#include <vector>

#include "backbone/features.h"
#include "file/safetensors.h"

namespace ddad {

/// Appends everything that readFeatures needs; the pointers are into `source`.
void appendFeatures(const FeatureSource& source, std::vector<TensorToWrite>& tensors,
                    std::map<std::string, std::string>& metadata);

/// Reads the features that a model or checkpoint carries. Throws ERR_MODEL_FORMAT.
FeatureSource readFeatures(const SafetensorsFile& file, const FeatureConfig& config);
/// The same into a source of the same structure, whose memory plans may point into. On an error nothing has changed.
void readFeatures(const SafetensorsFile& file, const FeatureConfig& config, FeatureSource& source);

}  // namespace ddad

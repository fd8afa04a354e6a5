#pragma once
// What fuzz targets share: inputs as files, tiny models, and what may come out of a call.
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "file/safetensors.h"
#include "graph/graph.h"
#include "nlohmann/json.hpp"
#include "target.h"

namespace ddad::fuzz {

/// A file in memory whose content can be replaced while nobody has it open.
class MemoryFile {
 public:
  explicit MemoryFile(const char* name);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  /// `bytes`, then zeros up to `size`.
  void set(std::string_view bytes, uint64_t size = 0);
  const std::string& path() const { return path_; }

 private:
  int descriptor_;
  std::string path_;
};

/// Runs a call that must return or throw an Error with one of these codes; anything else ends the process.
/// Returns whether it returned.
bool mayFail(std::initializer_list<const char*> codes, const std::function<void()>& call);

/// The largest end among the data_offsets that a header names, up to 16 MiB, by its text alone.
uint64_t promisedBytes(std::string_view header);

/// Puts an input of Format::kSafetensors into `file`. Where the header promises more data than there is, up to 16 MiB,
/// zeros follow: so inputs stay small although models are not.
void openInput(MemoryFile& file, std::string_view input);

/// A tensor of a seed: its leading values are given, zeros follow.
struct SeedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> leading;
  DType dtype = DType::kF32;
};

/// A file of these tensors, cut after the last value that is given; those that have values come first.
std::string seedFile(const std::map<std::string, std::string>& metadata, std::vector<SeedTensor> tensors);

/// The parameters of a graph as tensors of a seed.
void append(const Graph& graph, const std::string& prefix, std::vector<SeedTensor>& tensors);

/// A backbone of a few channels with taps at stride 2 to 16; its batch norms are folded or not.
std::vector<SeedTensor> tinyBackbone(const std::string& prefix, bool folded);
/// Its channels at these strides.
int64_t tinyFeatures(const std::vector<int64_t>& strides);
/// A whole file of it.
std::string tinyBackboneFile();

/// The smallest configuration that trains and scores; with features, the tiny backbone's at stride 2 and 4.
nlohmann::json tinyConfig(bool features);

/// The files that `config` asks for, with the parameters after `prefixes`: a model has one, "".
std::vector<SeedTensor> tinyModel(const nlohmann::json& config, const std::vector<std::string>& prefixes);

}  // namespace ddad::fuzz

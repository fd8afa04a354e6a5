// The reader of safetensors files, and every accessor on every tensor.
#include <cstdlib>

#include "support.h"

namespace ddad::fuzz {
namespace {

void run(std::string_view input) {
  static MemoryFile memory("safetensors");
  openInput(memory, input);
  mayFail({"ERR_MODEL_FORMAT"}, [&] {
    const SafetensorsFile file = SafetensorsFile::open(memory.path());
    int64_t budget = 1 << 20;  // bytes that are looked at
    for (const TensorEntry& tensor : file.tensors()) {
      if (tensor.bytes != tensor.count() * dtypeSize(tensor.dtype)) std::abort();
      if (file.find(tensor.name) != &tensor) std::abort();
      budget -= tensor.bytes + 64;
      if (budget < 0) break;
      if (tensor.bytes > 4096) continue;
      std::vector<float> out(static_cast<size_t>(tensor.count()));
      mayFail({"ERR_MODEL_FORMAT"}, [&] { file.floats(tensor.name); });
      mayFail({"ERR_MODEL_FORMAT"}, [&] { file.doubles(tensor.name); });
      mayFail({"ERR_MODEL_FORMAT"}, [&] { file.ints(tensor.name); });
      mayFail({"ERR_MODEL_FORMAT"}, [&] { file.readFloats(tensor.name, tensor.shape, out.data()); });
    }
    mayFail({"ERR_MODEL_FORMAT"}, [&] { file.get("no such tensor"); });
  });
}

std::vector<std::string> seeds() {
  std::vector<std::string> files = {seedFile({{"format", "ddad-native"}, {"config", "{\"a\":[1,null]}"}}, {}),
                                    seedFile({}, {{"scalar", {}, {1.5f}}, {"empty", {0, 4}, {}}})};
  for (const DType type : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64, DType::kI32, DType::kI16,
                           DType::kI8, DType::kU64, DType::kU32, DType::kU16, DType::kU8, DType::kBool})
    files.push_back(seedFile({}, {{"a", {2, 2}, {1, -2}, type}}));
  return files;
}

const Registered registered({"safetensors", Format::kSafetensors, run, seeds});

}  // namespace
}  // namespace ddad::fuzz

// Checkpoints of torch.save as files, in both forms, and what import makes of their tensors.
#include "file/checkpoint/pickle.h"
#include "file/checkpoint/torch_file.h"
#include "import/importer.h"
#include "support.h"
#include "torch_support.h"

namespace ddad::fuzz {
namespace {

void run(std::string_view input) {
  static MemoryFile memory("torch");
  memory.set(input);
  const TorchFormat format = torchFormat(input);
  if (format == TorchFormat::kNone) return;
  try {
    for (const StridedTensor& tensor : readTorchTensors(input, format)) readWhole(tensor, input);
  } catch (const CheckpointError&) {
  }
  mayFail({"ERR_MODEL_FORMAT"}, [&] {
    Importer importer(memory.path());
    importer.inspect(nlohmann::json::object());
  });
}

std::vector<std::string> seeds() {
  std::vector<std::string> files;
  for (const std::string& pickle : pickleSeeds()) {
    files.push_back(zipArchive({{"a/data.pkl", pickle},
                                {"a/byteorder", "little"},
                                {"a/data/0", std::string(64, '1')},
                                {"a/data/1", "12345678"}}));
    files.push_back(legacyFile(pickle));
  }
  return files;
}

const Registered registered({"torch", Format::kText, run, seeds});

}  // namespace
}  // namespace ddad::fuzz

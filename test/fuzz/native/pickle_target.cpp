// The pickles of checkpoints, in an archive around them whose storages have some bytes each.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "file/checkpoint/pickle.h"
#include "file/checkpoint/torch_file.h"
#include "support.h"
#include "torch_support.h"

namespace ddad::fuzz {
namespace {

void run(std::string_view input) {
  const std::string archive =
      zipArchive({{"a/data.pkl", std::string(input)}, {"a/data/0", std::string(64, '1')}, {"a/data/1", "12345678"}});
  try {
    for (const StridedTensor& tensor : readTorchTensors(archive, TorchFormat::kZip)) readWhole(tensor, archive);
  } catch (const CheckpointError&) {
  }
}

std::vector<std::string> seeds() { return pickleSeeds(); }

const Registered registered({"pickle", Format::kText, run, seeds});

}  // namespace
}  // namespace ddad::fuzz

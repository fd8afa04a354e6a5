#pragma once
// What the targets of PyTorch's checkpoints share: files to begin with.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "file/checkpoint/torch_file.h"

namespace ddad::fuzz {

/// A zip archive of stored entries, by name and content.
std::string zipArchive(const std::vector<std::pair<std::string, std::string>>& entries);

/// A checkpoint in the form before PyTorch 1.6 around a pickled state dict, whose storages are those of pickleSeeds.
std::string legacyFile(std::string_view pickle);

/// Pickled state dicts over the storages "0" (16 floats) and "1" (4 half floats).
std::vector<std::string> pickleSeeds();

/// Reads all elements of a tensor that lies in `file`; ends the process where it does not.
void readWhole(const StridedTensor& tensor, std::string_view file);

}  // namespace ddad::fuzz

#pragma once
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

namespace ddad::testing {

namespace fs = std::filesystem;

// The golden vectors lie beside the repository; DDAD_GOLDEN names another folder.
inline fs::path goldenFolder() {
  if (const char* folder = std::getenv("DDAD_GOLDEN")) return folder;
#if defined(DDAD_SOURCE_DIR)
  return fs::path(DDAD_SOURCE_DIR) / ".." / "shared" / "golden";
#else
  return fs::path("..") / "shared" / "golden";
#endif
}

/// Golden files of these kinds ("unet" is the first word of the file's name); says so where there are none.
inline std::vector<fs::path> goldenFiles(const std::vector<std::string>& kinds) {
  std::vector<fs::path> files;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(goldenFolder(), ignored))
    for (const std::string& kind : kinds)
      if (entry.path().extension() == ".safetensors" && entry.path().filename().string().starts_with(kind))
        files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  if (files.empty()) std::cout << "skipped: no golden vectors at " << goldenFolder().string() << std::endl;
  return files;
}

inline std::string backbonePath() {
  return (goldenFolder().parent_path() / "weights" / "efficientnet-lite0-backbone.safetensors").string();
}

}  // namespace ddad::testing

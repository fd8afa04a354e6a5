// Every kept input through its target, in the normal build: what was found once stays found.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "doctest.h"
#include "target.h"

using namespace ddad::fuzz;

namespace {

namespace fs = std::filesystem;

fs::path corpus() {
#if defined(DDAD_SOURCE_DIR)
  return fs::path(DDAD_SOURCE_DIR) / "test" / "fuzz" / "corpus";
#else
  return fs::path("test") / "fuzz" / "corpus";
#endif
}

std::vector<fs::path> inputsOf(const std::string& target) {
  std::vector<fs::path> files;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(corpus() / target, none)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

TEST_CASE("the kept inputs of every fuzz target go through") {
  CHECK(targets().size() >= 7);
  for (const Target& target : targets()) {
    CAPTURE(target.name);
    for (const std::string& seed : target.seeds()) target.run(seed);
    for (const fs::path& file : inputsOf(target.name)) {
      CAPTURE(file.string());
      std::ifstream in(file, std::ios::binary);
      const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
      target.run(bytes);
    }
  }
}

// kernels.json, the table of measured kernels.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "device/choices.h"
#include "support.h"

namespace ddad::fuzz {
namespace {

namespace fs = std::filesystem;

struct Folder {
  Folder() {
    // in memory where that can be had: a run writes three small files
    const fs::path parent = fs::is_directory("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path();
    std::string name = (parent / "ddad-fuzz-choices-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

void run(std::string_view input) {
  static const Folder folder;
  const std::string file = (folder.path / "kernels.json").string();
  {
    std::ofstream out(file, std::ios::binary | std::ios::trunc);
    out << input;
  }
  Choices choices(file, "cpu");
  choices.find("conv3x3 8->8 of 16 pixels");
  const auto kept = choices.keep("key", "direct");
  // a table that was taken is kept: what one process reads another wrote
  if (kept && Choices(file, "cpu").find("key") != kept) std::abort();
}

std::vector<std::string> seeds() {
  return {R"({"formatVersion":1,"processors":{"cpu":{"key":"direct","conv3x3 8->8 of 16 pixels":"winograd"}}})",
          R"({"formatVersion":2,"processors":{}})", "{}"};
}

const Registered registered({"choices", Format::kJson, run, seeds});

}  // namespace
}  // namespace ddad::fuzz

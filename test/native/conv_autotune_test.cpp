// The table of measured kernels on disk, and that it is obeyed.
#include "ops/conv/conv_autotune.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "device/open_device.h"
#include "doctest.h"
#include "graph/plan.h"
#include "op_cases.h"
#include "ops/conv/conv_kernels.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

namespace fs = std::filesystem;

/// A folder that is gone afterwards.
struct Folder {
  fs::path path = fs::temp_directory_path() / ("ddad-choices-" + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  std::string file() const { return (path / "cache" / "kernels.json").string(); }
};

std::string textOf(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

/// A 3x3 convolution of 32 channels on 16x16 pixels.
OpContext convolution(const Device& device, const OpRecord& record) {
  return {&device, &record, {{1, 16, 16, 32}}, {1, 16, 16, 32}, false, {false}, false};
}

OpRecord convRecord() {
  OpRecord record;
  record.kind = OpKind::kConv;
  record.attr.kernel = 3;
  record.attr.pad = 1;
  record.attr.bias = true;
  return record;
}

}  // namespace

TEST_CASE("choices are kept on disk, the first one for good") {
  const Folder folder;
  Choices first(folder.file(), "this one");
  REQUIRE(first.usable());
  Choices second(folder.file(), "this one"), other(folder.file(), "another");
  CHECK(!first.find("a"));
  CHECK(first.keep("a", "direct") == "direct");
  CHECK(second.keep("a", "winograd") == "direct");
  CHECK(second.find("a") == "direct");
  CHECK(other.keep("a", "onednn") == "onednn");
  CHECK(first.keep("b", "winograd") == "winograd");
  Choices again(folder.file(), "this one");
  CHECK(again.size() == 2);
  CHECK(again.find("a") == "direct");
  CHECK(again.find("b") == "winograd");
}

TEST_CASE("a damaged table counts as empty and is replaced") {
  const Folder folder;
  fs::create_directories(fs::path(folder.file()).parent_path());
  for (const char* text : {"", "{", "[]", "{\"formatVersion\":1}", "{\"formatVersion\":2,\"processors\":{}}",
                           "{\"formatVersion\":1,\"processors\":[1]}", "{\"formatVersion\":\"x\",\"processors\":{}}",
                           "{\"formatVersion\":1,\"processors\":{\"p\":{\"a\":3}}}"}) {
    CAPTURE(text);
    std::ofstream(folder.file()) << text;
    Choices choices(folder.file(), "p");
    CHECK(choices.size() == 0);
    CHECK(choices.keep("a", "direct") == "direct");
    CHECK(Choices(folder.file(), "p").find("a") == "direct");
  }
}

TEST_CASE("a table that cannot be written is not used") {
  const Folder folder;
  std::ofstream(folder.path / "cache") << "a file where the folder should be";
  CHECK(!Choices(folder.file(), "p").usable());
  CHECK(!Choices("", "p").usable());
  const auto device = openDevice("cpu", 1);
  const OpRecord record = convRecord();
  Choices none("", "p");
  CHECK(tunedConvKernel(convolution(*device, record), ConvKernel::kOnednn, none) == ConvKernel::kOnednn);
}

TEST_CASE("nothing but a file of this user's alone is taken for the table, or touched") {
  const Folder folder;
  const fs::path cache = fs::path(folder.file()).parent_path();
  fs::create_directories(cache);
  fs::permissions(cache, fs::perms::owner_all);
  const std::string victim = (folder.path / "victim").string();
  std::ofstream(victim) << "precious";
  const auto refused = [&](const char* why) {
    const auto start = std::chrono::steady_clock::now();
    Choices choices(folder.file(), "p");
    CHECK(!choices.usable());
    CHECK(!choices.keep("a", "direct"));
    CHECK(choices.problem().find(why) != std::string::npos);
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::milliseconds(500));
    CHECK(textOf(victim) == "precious");
    fs::remove_all(cache / "kernels.json");
    fs::remove_all(cache / "kernels.json.lock");
  };
  fs::create_symlink(victim, cache / "kernels.json");
  refused("a symbolic link");
  fs::create_symlink(victim, cache / "kernels.json.lock");
  refused("lock");
  REQUIRE(::mkfifo((cache / "kernels.json").c_str(), 0600) == 0);
  refused("no regular file");
  REQUIRE(::mkfifo((cache / "kernels.json.lock").c_str(), 0600) == 0);
  refused("lock");
  fs::create_directory(cache / "kernels.json");
  refused("no regular file");
  std::ofstream(folder.file()) << "{}";
  fs::permissions(folder.file(), fs::perms::others_write, fs::perm_options::add);
  refused("writable by others");
  fs::permissions(cache, fs::perms::group_write, fs::perm_options::add);
  refused("writable by others");
  if (::geteuid() == 0) {
    fs::permissions(cache, fs::perms::owner_all);
    REQUIRE(::chown(cache.c_str(), 65534, 65534) == 0);
    refused("of another user");
  }
  fs::remove_all(cache);
  fs::create_directory_symlink(folder.path, cache);
  refused("");
  fs::remove(cache);
  // and one that is planted for the new file is replaced, not followed
  fs::create_directory(cache);
  fs::permissions(cache, fs::perms::owner_all);
  fs::create_symlink(victim, cache / "kernels.json.tmp");
  Choices choices(folder.file(), "p");
  CHECK(choices.keep("a", "direct") == "direct");
  CHECK(textOf(victim) == "precious");
  CHECK(Choices(folder.file(), "p").find("a") == "direct");
}

TEST_CASE("a table that is too long is not read") {
  const Folder folder;
  const fs::path cache = fs::path(folder.file()).parent_path();
  fs::create_directories(cache);
  fs::permissions(cache, fs::perms::owner_all);
  std::ofstream(folder.file()) << R"({"formatVersion":1,"processors":{"p":{"a":"direct"}}})";
  CHECK(Choices(folder.file(), "p").size() == 1);
  fs::resize_file(folder.file(), 85'000'000);
  Choices choices(folder.file(), "p");
  CHECK(choices.size() == 0);
  CHECK(choices.keep("b", "winograd") == "winograd");
  CHECK(fs::file_size(folder.file()) < 1000);
}

TEST_CASE("a lock that is held costs a tenth of a second, once") {
  const Folder folder;
  Choices choices(folder.file(), "p");
  REQUIRE(choices.keep("a", "direct") == "direct");
  const int held = ::open((folder.file() + ".lock").c_str(), O_RDWR);
  REQUIRE(held >= 0);
  REQUIRE(::flock(held, LOCK_EX) == 0);
  const auto start = std::chrono::steady_clock::now();
  Choices other(folder.file(), "p");
  CHECK(other.find("a") == "direct");
  for (int i = 0; i < 50; ++i) CHECK(!other.keep("b", "direct"));
  CHECK(!other.keeps());
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::milliseconds(1000));
  ::close(held);
  CHECK(choices.keep("b", "direct") == "direct");
}

TEST_CASE("the table decides which kernel runs") {
  const Folder folder;
  const auto device = openDevice("cpu", 1);
  const OpRecord record = convRecord();
  const OpContext context = convolution(*device, record);
  Choices choices(folder.file(), "p");
  const ConvKernel measured = tunedConvKernel(context, ConvKernel::kWinograd, choices);
  CHECK(choices.size() == 1);
  const std::string before = textOf(folder.file());
  CHECK(before.find("conv3x3 32->32 of 256 pixels") != std::string::npos);
  CHECK(before.find(convKernelName(measured)) != std::string::npos);
  // found from now on, whatever would be usual
  CHECK(tunedConvKernel(context, ConvKernel::kDirect, choices) == measured);
  CHECK(textOf(folder.file()) == before);

  for (const ConvKernel kernel : {ConvKernel::kDirect, ConvKernel::kWinograd, ConvKernel::kOnednn}) {
    Choices given(folder.file(), convKernelName(kernel));
    given.keep("conv3x3 32->32 of 256 pixels", convKernelName(kernel));
    CHECK(tunedConvKernel(context, ConvKernel::kWinograd, given) == kernel);
  }
  Choices strange(folder.file(), "strange");
  strange.keep("conv3x3 32->32 of 256 pixels", "fastest");
  CHECK(tunedConvKernel(context, ConvKernel::kWinograd, strange) == ConvKernel::kWinograd);
}

TEST_CASE("training is tuned among kernels that give the same bits for every number of threads") {
  const Folder folder;
  const auto device = openDevice("cpu", 2);
  const OpRecord record = convRecord();
  OpContext context = convolution(*device, record);
  context.training = true;
  context.inputGradient = {true};
  context.paramGradient = true;
  Choices choices(folder.file(), "p");
  CHECK(tunedConvKernel(context, ConvKernel::kWinograd, choices) != ConvKernel::kOnednn);
  CHECK(textOf(folder.file()).find(", training") != std::string::npos);
}

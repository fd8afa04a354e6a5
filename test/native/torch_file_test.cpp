// Checkpoints as torch.save of PyTorch 2.15 writes them (test/fixtures/checkpoints.py), and damaged ones.
#include "file/checkpoint/torch_file.h"

#include <map>
#include <string>

#include "../fuzz/native/torch_support.h"
#include "doctest.h"
#include "file/checkpoint/checkpoint.h"
#include "file/checkpoint/pickle.h"
#include "file/reals.h"
#include "file/tensor_source.h"
#include "file_helpers.h"

using namespace ddad;
using namespace ddad::testing;
using ddad::fuzz::legacyFile;
using ddad::fuzz::pickleSeeds;
using ddad::fuzz::zipArchive;

namespace {

std::string fixture(const std::string& name) {
#if defined(DDAD_SOURCE_DIR)
  return std::string(DDAD_SOURCE_DIR) + "/test/fixtures/checkpoints/" + name;
#else
  return "test/fixtures/checkpoints/" + name;
#endif
}

/// Element i of a tensor of that name, as the script has it.
float valueOf(const std::string& name, int64_t i) {
  int64_t start = 0;
  for (char c : name) start += static_cast<unsigned char>(c);
  return static_cast<float>((i * 37 + start) % 251 - 125) / 128;
}

std::vector<float> floatsOf(const StridedTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.count()));
  readReals(tensor, 0, tensor.count(), values.data());
  return values;
}

std::vector<float> expected(const std::string& name, const std::vector<int64_t>& elements) {
  std::vector<float> values;
  for (int64_t i : elements) values.push_back(valueOf(name, i));
  return values;
}

std::vector<int64_t> range(int64_t from, int64_t to) {
  std::vector<int64_t> numbers;
  for (int64_t i = from; i < to; ++i) numbers.push_back(i);
  return numbers;
}

void checkRefused(const std::string& bytes, const std::string& part) {
  const TemporaryFolder folder;
  const std::string path = folder / "bad.pt";
  writeBytes(path, bytes);
  checkError("ERR_MODEL_FORMAT", {path, part}, [&] { Checkpoint checkpoint(path); });
}

std::string archive(const std::string& pickle) {
  return zipArchive({{"a/data.pkl", pickle}, {"a/data/0", std::string(64, '1')}, {"a/data/1", "12345678"}});
}

std::string global(const std::string& module, const std::string& name) {
  return "\x80\x02"
         "c" +
         module + "\n" + name + "\n";
}

}  // namespace

TEST_CASE("tensors of every type, views and strides come as PyTorch wrote them, in both forms") {
  for (const char* file : {"parts-zip.pt", "parts-legacy.pt", "parts-zip-protocol4.pt", "parts-legacy-protocol4.pt"}) {
    CAPTURE(file);
    const Checkpoint checkpoint(fixture(file));
    std::map<std::string, const StridedTensor*> named;
    for (const StridedTensor& tensor : checkpoint.tensors()) named[tensor.name] = &tensor;
    REQUIRE(named.size() == 19);
    const std::map<std::string, DType> types = {
        {"float64", DType::kF64}, {"float32", DType::kF32}, {"float16", DType::kF16}, {"bfloat16", DType::kBF16},
        {"int64", DType::kI64},   {"int32", DType::kI32},   {"int16", DType::kI16},   {"int8", DType::kI8},
        {"uint8", DType::kU8},    {"bool", DType::kBool}};
    for (const auto& [name, dtype] : types) {
      CAPTURE(name);
      const StridedTensor& tensor = *named.at("state_dict." + name);
      CHECK(tensor.dtype == dtype);
      CHECK(tensor.shape == std::vector<int64_t>{2, 3});
      if (!isReal(dtype)) continue;
      std::vector<float> values;
      for (int64_t i = 0; i < 6; ++i) {
        // the remainder as PyTorch takes it, with the sign of the divisor
        const float scaled = valueOf(name, i) * 128;
        values.push_back(scaled - 100 * std::floor(scaled / 100));
      }
      CHECK(floatsOf(tensor) == values);
    }
    const auto values = [&](const std::string& name) { return floatsOf(*named.at("state_dict." + name)); };
    CHECK(values("view.first") == expected("flat", range(0, 6)));
    CHECK(values("view.second") == expected("flat", range(6, 18)));
    CHECK(named.at("state_dict.view.transposed")->shape == std::vector<int64_t>{4, 3});
    CHECK(values("view.transposed") == expected("flat", {6, 10, 14, 7, 11, 15, 8, 12, 16, 9, 13, 17}));
    CHECK(values("view.every_other") == expected("flat", {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22}));
    CHECK(values("channels_last") == expected("channels_last", range(0, 24)));
    CHECK_FALSE(named.at("state_dict.channels_last")->contiguous());
    CHECK(named.at("state_dict.scalar")->shape.empty());
    CHECK(values("scalar") == std::vector<float>{0.5f});
    CHECK(named.at("state_dict.empty")->shape == std::vector<int64_t>{0, 4});
    CHECK(values("parameter") == expected("parameter", range(0, 5)));
    CHECK(floatsOf(*named.at("7.m")) == expected("flat", range(0, 2)));
    // a part of a tensor whose rows are not all read
    std::vector<float> part(5);
    readReals(*named.at("state_dict.view.transposed"), 4, 5, part.data());
    CHECK(part == expected("flat", {11, 15, 8, 12, 16}));
  }
}

TEST_CASE("a checkpoint is a source of weights like a safetensors file") {
  for (const char* file : {"parts-zip.pt", "parts-legacy.pt"}) {
    CAPTURE(file);
    const auto source = openTensorSource(fixture(file));
    CHECK(source->metadata().empty());
    CHECK_FALSE(source->has("state_dict.other"));
    const std::string name = "state_dict.view.transposed";
    CHECK(source->shapeOf(name) == std::vector<int64_t>{4, 3});
    std::vector<float> values(12);
    const auto read = [&](const std::string& tensor, std::vector<int64_t> shape) {
      source->readFloats(tensor, shape, values.data());
    };
    read(name, {4, 3});
    CHECK(values == expected("flat", {6, 10, 14, 7, 11, 15, 8, 12, 16, 9, 13, 17}));
    checkError("ERR_MODEL_FORMAT", {name, "expected shape [3, 4], got [4, 3]"}, [&] { read(name, {3, 4}); });
    checkError("ERR_MODEL_FORMAT", {"state_dict.int32", "expected reals, got I32"},
               [&] { read("state_dict.int32", {2, 3}); });
    checkError("ERR_MODEL_FORMAT", {"state_dict.other", "got none of that name"},
               [&] { read("state_dict.other", {1}); });
  }
}

TEST_CASE("a pickle that asks for anything but a state dict's parts is refused by name") {
  for (const auto& [module, name] : {std::pair{"os", "system"},
                                     {"builtins", "eval"},
                                     {"torch", "load"},
                                     {"torch.storage", "_load_from_bytes"},
                                     {"collections", "OrderedDict.fromkeys"}}) {
    const std::string wanted = std::string("\"") + module + "." + name + "\"";
    CAPTURE(wanted);
    const std::string pickle = global(module, name) + "X\x04" + std::string(3, '\0') + "true\x85R.";
    checkRefused(archive(pickle), wanted);
    checkRefused(legacyFile(pickle), wanted);
    const std::string old = std::string("\x80\x02(i") + module + "\n" + name + "\n.";
    checkRefused(archive(old), wanted);
    const auto text = [](const std::string& value) {
      return "\x8c" + std::string(1, static_cast<char>(value.size())) + value;
    };
    checkRefused(archive("\x80\x04" + text(module) + text(name) + "\x93."), wanted);
  }
  checkRefused(archive("\x80\x02"
                       "ccollections\nOrderedDict\n)\x81."),
               "0x81");                                // NEWOBJ
  checkRefused(archive("\x80\x02\x82\x01."), "0x82");  // EXT1
  checkRefused(archive("\x80\x02"
                       "ctorch\nFloatStorage\n)R."),
               "torch.FloatStorage");
}

TEST_CASE("damaged checkpoints are refused") {
  const std::string good = archive(pickleSeeds()[0]), old = legacyFile(pickleSeeds()[2]);
  const auto open = [](const std::string& bytes) { return readTorchTensors(bytes, torchFormat(bytes)).size(); };
  REQUIRE(open(good) == 4);
  REQUIRE(open(old) == 4);
  for (const std::string& whole : {good, old})
    for (size_t size = 4; size < whole.size(); ++size) {
      const std::string cut = whole.substr(0, size);
      if (torchFormat(cut) == TorchFormat::kNone) continue;
      CHECK_THROWS_AS(open(cut), CheckpointError);
    }
  checkRefused("", "got neither");
  checkRefused("hello, this is no checkpoint", "got neither");
  checkRefused(zipArchive({{"a/b", "c"}}), "no data.pkl");
  checkRefused(zipArchive({{"a/data.pkl", pickleSeeds()[0]}}), "storage \"0\"");
  checkRefused(zipArchive({{"a/data.pkl", pickleSeeds()[0]}, {"a/data/0", "1234"}, {"a/data/1", "12345678"}}),
               "4 bytes");
  checkRefused(zipArchive({{"a/data.pkl", "\x80\x02}."}, {"a/byteorder", "big"}}), "big-endian");
  checkRefused(zipArchive({{"a/data.pkl", "\x80\x02}."}, {"a/data.pkl", "\x80\x02}."}}), "distinct names");
  checkRefused(archive("\x80\x02K\x01."), "expected a state dict");
  checkRefused(archive("\x80\x02"
                       "0."),
               "empty stack");
  checkRefused(archive("\x80\x02h\x07."), "has not kept");
  checkRefused(archive("\x80\x02)K\x01"
                       "a."),
               "no list or dict");
  checkRefused(archive("\x80\x02}(K\x01u."), "without a value");
  checkRefused(archive("\x80\x06}."), "protocol 2 to 5");
  // a value that holds itself is never walked through twice
  CHECK(open(archive("\x80\x02}q\x01X\x01" + std::string(3, '\0') + "ah\x01s.")) == 0);
  std::string compressed = good;
  compressed[compressed.find("PK\1\2") + 10] = 8;
  checkRefused(compressed, "compressed");
}

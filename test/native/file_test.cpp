#include "file_helpers.h"

using namespace ddad;
using namespace ddad::testing;

TEST_SUITE("file") {
  TEST_CASE("a written file reads back") {
    const TemporaryFolder folder;
    const Sample sample;
    writeSafetensors(folder / "a.safetensors", kMetadata, sample.tensors());
    CHECK(folder.fileCount() == 1);

    SafetensorsFile opened = SafetensorsFile::open(folder / "a.safetensors");
    const SafetensorsFile file = std::move(opened);
    CHECK(file.path() == folder / "a.safetensors");
    CHECK(ownMetadata(file) == kMetadata);
    REQUIRE(file.tensors().size() == 6);
    const std::vector<TensorToWrite> expected = sample.tensors();
    CHECK(file.tensors()[0].name == "w.weight");
    CHECK(file.tensors()[1].name == "pixels");
    CHECK(file.tensors()[5].name == "a \"quoted\"\nname");
    for (const TensorToWrite& tensor : expected) {
      REQUIRE(file.find(tensor.name) != nullptr);
      CHECK(file.get(tensor.name).dtype == tensor.dtype);
      CHECK(file.get(tensor.name).shape == tensor.shape);
      CHECK(file.get(tensor.name).bytes == file.get(tensor.name).count() * dtypeSize(tensor.dtype));
    }
    CHECK(file.find("nothing") == nullptr);
    const std::vector<float> weight = file.floats("w.weight");
    CHECK(std::memcmp(weight.data(), sample.weight.data(), 6 * sizeof(float)) == 0);
    CHECK(file.doubles("schedule") == sample.schedule);
    CHECK(file.floats("schedule") == std::vector<float>{0, 1.0f / 3, -7});
    CHECK(file.doubles("w.weight")[2] == 0.5);
    CHECK(file.ints("timesteps") == std::vector<int32_t>{0, 999, -5});
    CHECK(file.ints("pixels") == std::vector<int32_t>{0, 127, 255});
    CHECK(file.floats("empty").empty());
    CHECK(file.floats("a \"quoted\"\nname") == std::vector<float>{42});

    float values[6];
    const int64_t shape[] = {2, 3};
    file.readFloats("w.weight", shape, values);
    CHECK(std::memcmp(values, sample.weight.data(), sizeof(values)) == 0);
    file.readFloats("a \"quoted\"\nname", {}, values);
    CHECK(values[0] == 42);
  }

  TEST_CASE("a file without tensors or metadata") {
    const TemporaryFolder folder;
    writeSafetensors(folder / "a", {}, {});
    const SafetensorsFile file = SafetensorsFile::open(folder / "a");
    CHECK(file.tensors().empty());
    CHECK(ownMetadata(file).empty());
  }

  TEST_CASE("equal input gives equal bytes, with aligned data") {
    const TemporaryFolder folder;
    const Sample sample;
    writeSafetensors(folder / "a", kMetadata, sample.tensors());
    writeSafetensors(folder / "b", kMetadata, sample.tensors());
    const std::string bytes = readBytes(folder / "a");
    CHECK(bytes == readBytes(folder / "b"));
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof(header));
    CHECK(header % 8 == 0);
    CHECK(bytes[8] == '{');
    writeSafetensors(folder / "a", {}, {});  // replaces
    CHECK(readBytes(folder / "a").size() < bytes.size());
    CHECK(folder.fileCount() == 2);
  }

  TEST_CASE("offsets may be listed in any order, with header padding") {
    const TemporaryFolder folder;
    const std::string header =
        "{" + tensorJson("z", "F32", "[1]", 8, 12) + ", " + tensorJson("a", "F32", "[2]", 0, 8) + "}  \n ";
    writeBytes(folder / "a", fileWith(header, 12));
    const SafetensorsFile file = SafetensorsFile::open(folder / "a");
    CHECK(file.tensors()[0].name == "a");
    CHECK(file.tensors()[1].name == "z");
  }

  TEST_CASE("half precision") {
    const TemporaryFolder folder;
    const std::vector<uint16_t> half = {0x0000, 0x8000, 0x3C00, 0xC000, 0x3555, 0x7BFF, 0x0001, 0x83FF, 0x0400};
    const std::vector<uint16_t> brain = {0x3F80, 0xC040, 0x7F7F, 0x0001};
    const std::vector<uint16_t> special = {0x7C00, 0xFC00, 0x7E00};
    writeSafetensors(folder / "a", {},
                     {{"half", DType::kF16, {9}, half.data()},
                      {"brain", DType::kBF16, {4}, brain.data()},
                      {"special", DType::kF16, {3}, special.data()}});
    const SafetensorsFile file = SafetensorsFile::open(folder / "a");
    const std::vector<float> expected = {0, -0.0f, 1, -2, 0x1.554p-2f, 65504, 0x1p-24f, -0x3FFp-24f, 0x1p-14f};
    CHECK(file.floats("half") == expected);
    CHECK(std::signbit(file.floats("half")[1]));
    CHECK(file.floats("brain") == std::vector<float>{1, -3, 0x1.FEp127f, 0x1p-133f});
    CHECK(file.doubles("brain")[1] == -3);
    const std::vector<float> values = file.floats("special");
    CHECK(values[0] == std::numeric_limits<float>::infinity());
    CHECK(values[1] == -std::numeric_limits<float>::infinity());
    CHECK(std::isnan(values[2]));
  }

  TEST_CASE("missing tensor, wrong shape, wrong element type") {
    const TemporaryFolder folder;
    const Sample sample;
    const std::string path = folder / "a";
    writeSafetensors(path, kMetadata, sample.tensors());
    const SafetensorsFile file = SafetensorsFile::open(path);
    float values[6];
    const int64_t right[] = {2, 3}, wrong[] = {3, 2}, longer[] = {2, 3, 1}, three[] = {3};
    const std::string code = "ERR_MODEL_FORMAT";
    checkError(code, {path, "\"head.bias\""}, [&] { file.get("head.bias"); });
    checkError(code, {path, "\"head.bias\""}, [&] { file.floats("head.bias"); });
    checkError(code, {path, "\"head.bias\""}, [&] { file.readFloats("head.bias", right, values); });
    checkError(code, {path, "\"w.weight\"", "expected [3, 2], got [2, 3]"},
               [&] { file.readFloats("w.weight", wrong, values); });
    checkError(code, {"expected [2, 3, 1], got [2, 3]"}, [&] { file.readFloats("w.weight", longer, values); });
    checkError(code, {"expected [], got [2, 3]"}, [&] { file.readFloats("w.weight", {}, values); });
    checkError(code, {"\"pixels\"", "F32", "U8"}, [&] { file.readFloats("pixels", three, values); });
    checkError(code, {"\"pixels\"", "F32", "U8"}, [&] { file.floats("pixels"); });
    checkError(code, {"\"pixels\"", "F32", "U8"}, [&] { file.doubles("pixels"); });
    checkError(code, {"\"w.weight\"", "integer", "F32"}, [&] { file.ints("w.weight"); });
  }

  TEST_CASE("weights that are not finite") {
    const TemporaryFolder folder;
    const std::string path = folder / "a";
    const float nan[] = {1, std::numeric_limits<float>::quiet_NaN()};
    const float infinite[] = {1, 2, -std::numeric_limits<float>::infinity()};
    const double large[] = {1e300};
    const uint16_t half[] = {0x7C00};
    writeSafetensors(path, {},
                     {{"nan", DType::kF32, {2}, nan},
                      {"infinite", DType::kF32, {3}, infinite},
                      {"large", DType::kF64, {1}, large},
                      {"half", DType::kF16, {1}, half}});
    const SafetensorsFile file = SafetensorsFile::open(path);
    float values[3];
    const int64_t one[] = {1}, two[] = {2}, three[] = {3};
    const std::string code = "ERR_MODEL_FORMAT";
    checkError(code, {path, "\"nan\"", "NaN at element 1"}, [&] { file.readFloats("nan", two, values); });
    checkError(code, {"\"infinite\"", "-infinity at element 2"}, [&] { file.readFloats("infinite", three, values); });
    checkError(code, {"\"large\"", "infinity at element 0"}, [&] { file.readFloats("large", one, values); });
    checkError(code, {"\"half\"", "infinity"}, [&] { file.readFloats("half", one, values); });
    CHECK(std::isnan(file.floats("nan")[1]));
  }

  TEST_CASE("integers that do not fit") {
    const TemporaryFolder folder;
    const int64_t large[] = {2147483647, 2147483648};
    const int64_t small[] = {-2147483648, -2147483649};
    const uint64_t top[] = {std::numeric_limits<uint64_t>::max()};
    writeSafetensors(
        folder / "a", {},
        {{"large", DType::kI64, {2}, large}, {"small", DType::kI64, {2}, small}, {"top", DType::kU64, {1}, top}});
    const SafetensorsFile file = SafetensorsFile::open(folder / "a");
    checkError("ERR_MODEL_FORMAT", {"\"large\"", "32 bits", "element 1"}, [&] { file.ints("large"); });
    checkError("ERR_MODEL_FORMAT", {"\"small\"", "32 bits", "element 1"}, [&] { file.ints("small"); });
    checkError("ERR_MODEL_FORMAT", {"\"top\"", "32 bits", "element 0"}, [&] { file.ints("top"); });
  }

  TEST_CASE("writer refuses what the reader would") {
    const TemporaryFolder folder;
    const float value[] = {1, 2};
    const auto refuse = [&](const std::vector<TensorToWrite>& tensors) {
      checkError("ERR_ARGUMENT", {folder / "a"}, [&] { writeSafetensors(folder / "a", {}, tensors); });
    };
    refuse({{"a", DType::kF32, {2}, value}, {"a", DType::kF32, {2}, value}});
    refuse({{"__metadata__", DType::kF32, {2}, value}});
    refuse({{"a", DType::kF32, {-1}, value}});
    refuse({{"a", DType::kF32, {int64_t{1} << 62}, value}});
    refuse({{"a", DType::kF32, {2}, nullptr}});
    refuse({{"\xff", DType::kF32, {2}, value}});
    checkError("ERR_ARGUMENT", {"UTF-8"}, [&] { writeSafetensors(folder / "a", {{"a", "\xff"}}, {}); });
    CHECK(folder.fileCount() == 0);
  }

  TEST_CASE("targets that cannot be written") {
    const TemporaryFolder folder;
    fs::create_directory(folder / "folder");
    const auto refuse = [](const std::string& path) {
      checkError("ERR_FILE_WRITE", {"cannot write " + path + ": "}, [&] { writeSafetensors(path, {}, {}); });
    };
    refuse(folder / "folder");
    refuse(folder / "missing/a");
    refuse(folder / std::string(300, 'x'));
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    refuse(folder / "pipe");
    CHECK(folder.fileCount() == 2);
  }

  TEST_CASE("a full disk leaves the old file and no other") {
    const TemporaryFolder folder;
    const Sample sample;
    const std::string path = folder / "a";
    writeSafetensors(path, kMetadata, sample.tensors());
    const std::string old = readBytes(path);
    const std::vector<float> large(1 << 18, 1.0f);

    // A limit on file sizes cuts a write short and then fails the next, as a full disk does.
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    rlimit limit = before;
    limit.rlim_cur = 100'000;
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    std::string code, message;
    try {
      writeSafetensors(path, {}, {{"large", DType::kF32, {1 << 18}, large.data()}});
    } catch (const Error& error) {
      code = error.code();
      message = error.what();
    }
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    std::signal(SIGXFSZ, handler);

    CHECK(code == "ERR_FILE_WRITE");
    CHECK(message == "cannot write " + path + ": " + std::strerror(EFBIG));
    CHECK(readBytes(path) == old);
    CHECK(folder.fileCount() == 1);
    writeSafetensors(path, {}, {{"large", DType::kF32, {1 << 18}, large.data()}});
    CHECK(SafetensorsFile::open(path).floats("large") == large);
  }

  TEST_CASE("an open file keeps its content when it is replaced") {
    const TemporaryFolder folder;
    const Sample sample;
    writeSafetensors(folder / "a", kMetadata, sample.tensors());
    const SafetensorsFile file = SafetensorsFile::open(folder / "a");
    writeSafetensors(folder / "a", {}, {});
    CHECK(file.doubles("schedule") == sample.schedule);
  }

  TEST_CASE("golden files") {
    const char* variable = std::getenv("DDAD_GOLDEN");
    std::string golden = variable != nullptr ? variable : "";
#ifdef DDAD_SOURCE_DIR
    if (golden.empty()) golden = std::string(DDAD_SOURCE_DIR) + "/../shared/golden";
#endif
    if (golden.empty() || !fs::is_directory(golden)) {
      MESSAGE("no golden files; set DDAD_GOLDEN to their folder");
      return;
    }
    const TemporaryFolder folder;
    int files = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(golden)) {
      if (entry.path().extension() != ".safetensors") continue;
      ++files;
      INFO("file: " << entry.path().string());
      const SafetensorsFile file = SafetensorsFile::open(entry.path().string());
      CHECK(file.metadata().count("spec") == 1);
      std::vector<TensorToWrite> copy;
      for (const TensorEntry& tensor : file.tensors()) {
        CHECK(tensor.bytes > 0);
        if (tensor.dtype == DType::kI32) {
          CHECK(static_cast<int64_t>(file.ints(tensor.name).size()) == tensor.count());
        } else {
          std::vector<float> values(static_cast<size_t>(tensor.count()));
          CHECK_NOTHROW(file.readFloats(tensor.name, tensor.shape, values.data()));
        }
        copy.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.data});
      }
      writeSafetensors(folder / "copy", file.metadata(), copy);
      const SafetensorsFile again = SafetensorsFile::open(folder / "copy");
      CHECK(ownMetadata(again) == file.metadata());
      REQUIRE(again.tensors().size() == file.tensors().size());
      for (size_t i = 0; i < copy.size(); ++i) {
        const TensorEntry& a = file.tensors()[i];
        const TensorEntry& b = again.tensors()[i];
        CHECK(a.name == b.name);
        CHECK(a.shape == b.shape);
        REQUIRE(a.bytes == b.bytes);
        CHECK(std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes)) == 0);
      }
    }
    CHECK(files > 0);
  }
}

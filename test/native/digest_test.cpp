// The digest in the files that are written: every bit of header and data is covered, and other files are left alone.
#include "file/digest.h"

#include "base/cancel.h"
#include "file/safetensors_writer.h"
#include "file_helpers.h"

using namespace ddad;
using namespace ddad::testing;

namespace {

void flip(std::string& bytes, size_t bit) {
  bytes[bit / 8] = static_cast<char>(static_cast<unsigned char>(bytes[bit / 8]) ^ (1u << (bit % 8)));
}

/// What a reader of models does first: whether the file is one of ours that is as it was written.
bool accepted(const std::string& path) {
  try {
    const SafetensorsFile file = SafetensorsFile::open(path);
    if (!file.metadata().contains("format") || file.metadata().at("format") != "ddad-native") return false;
    requireDigest(file);
    return true;
  } catch (const Error& error) {
    CHECK(error.code() == "ERR_MODEL_FORMAT");
    return false;
  }
}

}  // namespace

TEST_CASE("a written file states the digest that it has, and equal files equal ones") {
  const TemporaryFolder folder;
  const Sample sample;
  writeSafetensors(folder / "a", kMetadata, sample.tensors());
  writeSafetensors(folder / "b", kMetadata, sample.tensors());
  const SafetensorsFile file = SafetensorsFile::open(folder / "a");
  const std::string stated = statedDigest(file);
  CHECK(stated.size() == kDigestDigits);
  CHECK(stated == computeDigest(file));
  CHECK(readBytes(folder / "a") == readBytes(folder / "b"));
  requireDigest(file);

  // in pieces of any size, and with tensors of no bytes
  const std::vector<TensorToWrite> tensors = {
      {"none", DType::kF32, {0, 3}, nullptr}, {"x", DType::kF32, {5}, nullptr}, {"y", DType::kF32, {2}, nullptr}};
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7};
  for (const size_t piece : {size_t{1}, size_t{5}, size_t{28}}) {
    SafetensorsWriter writer(folder / "c", kMetadata, tensors);
    for (size_t at = 0; at < 28; at += piece)
      writer.write(reinterpret_cast<const char*>(values.data()) + at, std::min(piece, 28 - at));
    writer.commit();
    CHECK(accepted(folder / "c"));
  }
}

TEST_CASE("flipped bits are found wherever they are") {
  const TemporaryFolder folder;
  const Sample sample;
  writeSafetensors(folder / "a", kMetadata, sample.tensors());
  const std::string bytes = readBytes(folder / "a");
  REQUIRE(accepted(folder / "a"));
  for (size_t bit = 0; bit < 8 * bytes.size(); bit += 5) {  // every place in a byte has its turn
    std::string damaged = bytes;
    flip(damaged, bit);
    writeBytes(folder / "b", damaged);
    CAPTURE(bit);
    CHECK(!accepted(folder / "b"));
  }
}

TEST_CASE("damage is found while a file is read, in what is read and in what is not") {
  const TemporaryFolder folder;
  std::vector<float> large(100'000), other(50'000);
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<float>(i);
  const std::vector<TensorToWrite> tensors = {{"large", DType::kF32, {100'000}, large.data()},
                                              {"other", DType::kF32, {50'000}, other.data()}};
  writeSafetensors(folder / "a", kMetadata, tensors);
  const std::string bytes = readBytes(folder / "a");
  const auto read = [&](const std::string& path) {
    const SafetensorsFile file = SafetensorsFile::open(path);
    DigestCheck check(file);
    std::vector<float> values(large.size());
    const int64_t shape[] = {100'000};
    file.readFloats("large", shape, values.data());
    CHECK(values.size() == large.size());
    check.finish();
  };
  read(folder / "a");
  for (const size_t at : {bytes.size() - 4 * 100'000, bytes.size() - 4}) {  // of the first tensor, and of the second
    std::string damaged = bytes;
    flip(damaged, 8 * at);
    writeBytes(folder / "b", damaged);
    checkError("ERR_MODEL_FORMAT", {folder / "b", "expected the digest", "damaged"}, [&] { read(folder / "b"); });
  }
}

TEST_CASE("the digits of digest and signature do not count, whatever stands there") {
  const TemporaryFolder folder;
  const std::string header =
      R"({"__metadata__":{"a\"digest":"x","digest":"0123","signature":"abc","z":"{\"digest\":\"y\"}"}})";
  const std::vector<TextRange> ranges = metadataValues(header, {kDigestKey, kSignatureKey});
  REQUIRE(ranges.size() == 2);
  CHECK(header.substr(ranges[0].begin, ranges[0].end - ranges[0].begin) == "0123");
  CHECK(header.substr(ranges[1].begin, ranges[1].end - ranges[1].begin) == "abc");
  CHECK(metadataValues(R"({"digest":{"digest":"x"},"__metadata__":{}})", {kDigestKey}).empty());
  CHECK(metadataValues(R"({"__metadata__":{"digest":"no end)", {kDigestKey}).empty());
  CHECK(metadataValues(R"({"__metadata__":{"digest":"\)", {kDigestKey}).empty());

  std::string texts[2];
  for (int i = 0; i < 2; ++i) {
    const std::string text = std::string(R"({"__metadata__":{"format":"ddad-native","digest":")") +
                             std::string(kDigestDigits, i ? 'a' : 'b') +
                             R"(","digestAlgorithm":"xxh3-128","signature":")" + std::string(8, i ? '1' : '2') + "\"}}";
    writeBytes(folder / "a", fileWith(text, 0));
    const SafetensorsFile file = SafetensorsFile::open(folder / "a");
    texts[i] = computeDigest(file) + contentDigest(file);
  }
  CHECK(texts[0] == texts[1]);
}

TEST_CASE("a digest that is half there, or of an unknown kind, is refused in files of ours alone") {
  const TemporaryFolder folder;
  const std::string zeros(kDigestDigits, '0');
  const auto stated = [&](const std::string& fields) {
    writeBytes(folder / "a", fileWith("{\"__metadata__\":{" + fields + "}}", 0));
    return statedDigest(SafetensorsFile::open(folder / "a"));
  };
  CHECK(stated(R"("format":"pt")").empty());
  CHECK(stated(R"("format":"ddad-native")").empty());
  CHECK(stated(R"("digest":"of something else")").empty());
  CHECK(stated("\"digest\":\"" + zeros + R"(","digestAlgorithm":"xxh3-128")") == zeros);
  for (const std::string& fields :
       {R"("digest":")" + zeros + '"', std::string(R"("digestAlgorithm":"xxh3-128")"),
        R"("digest":")" + zeros + R"(","digestAlgorithm":"md5")",
        R"("digest":")" + zeros.substr(1) + R"(","digestAlgorithm":"xxh3-128")",
        R"("digest":")" + zeros.substr(1) + R"(G","digestAlgorithm":"xxh3-128")",
        R"("di\u0067est":")" + zeros + R"(","digestAlgorithm":"xxh3-128")", std::string(R"("signature":"00")")}) {
    CAPTURE(fields);
    checkError("ERR_MODEL_FORMAT", {}, [&] { stated("\"format\":\"ddad-native\"," + fields); });
  }
}

TEST_CASE("known hashes") {
  ContentHash content;
  content.update("abc", 3);
  CHECK(content.hex() == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
  DamageHash damage;
  damage.update("ab", 2);
  damage.update("c", 1);
  CHECK(hexOf(damage.value()) == "06b05ab6733a618578af5f94892f3950");
}

TEST_CASE("an abort ends the hashing of a file") {
  const TemporaryFolder folder;
  const Sample sample;
  writeSafetensors(folder / "a", kMetadata, sample.tensors());
  const SafetensorsFile file = SafetensorsFile::open(folder / "a");
  Cancel cancel;
  cancel.request();
  const CancelScope scope(&cancel);
  checkError("ERR_ABORTED", {}, [&] { requireDigest(file); });
  checkError("ERR_ABORTED", {}, [&] { contentDigest(file); });
}

// Files that a reader must refuse, each by name.
#include "file_helpers.h"

using namespace ddad;
using namespace ddad::testing;

TEST_SUITE("file") {
  TEST_CASE("missing, unreadable and odd files") {
    const TemporaryFolder folder;
    const auto refuse = [&](const std::string& path) {
      checkError("ERR_FILE_READ", {path}, [&] { SafetensorsFile::open(path); });
    };
    refuse(folder / "missing");
    refuse(folder / ".");
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    refuse(folder / "pipe");
    if (::geteuid() != 0) {  // root reads everything
      writeBytes(folder / "secret", fileWith("{}", 0));
      fs::permissions(folder / "secret", fs::perms::none);
      refuse(folder / "secret");
    }
    checkRefused("", {"at least 8 bytes", "got 0"});
    checkRefused("1234567", {"at least 8 bytes", "got 7"});
  }

  TEST_CASE("truncated anywhere") {
    const TemporaryFolder folder;
    const Sample sample;
    writeSafetensors(folder / "a", kMetadata, sample.tensors());
    const std::string bytes = readBytes(folder / "a");
    for (size_t length = 0; length < bytes.size(); ++length) {
      writeBytes(folder / "b", bytes.substr(0, length));
      checkError("ERR_MODEL_FORMAT", {folder / "b"}, [&] { SafetensorsFile::open(folder / "b"); });
    }
    checkRefused(bytes + "x", {"bytes of data after the header"});
    checkRefused(bytes.substr(0, bytes.size() - 1), {"truncated"});
  }

  TEST_CASE("header longer than the file or the limit") {
    checkRefused(lengthPrefix(uint64_t{1} << 30) + "{}", {"at most 100000000", "1073741824"});
    checkRefused(lengthPrefix(std::numeric_limits<uint64_t>::max()) + "{}", {"at most 100000000"});
    checkRefused(lengthPrefix(100'000'000) + "{}", {"truncated"});
    checkRefused(lengthPrefix(3) + "{}", {"truncated"});
  }

  TEST_CASE("header not a JSON object") {
    checkRefused(fileWith("", 0), {"starts with '{'"});
    checkRefused(fileWith("[]", 0), {"starts with '{'"});
    checkRefused(fileWith(" {}", 0), {"starts with '{'"});
    checkRefused(fileWith("{", 0), {"syntax error"});
    checkRefused(fileWith("{} x", 0), {"syntax error"});
    checkRefused(fileWith("{\"a\"}", 0), {"syntax error"});
    checkRefused(fileWith("{\"\xff\":1}", 0), {"syntax error"});
    checkRefused(fileWith("{\"a\":1}", 0), {"object", "\"a\"", "a number"});
    checkRefused(fileWith("{\"a\":null}", 0), {"object", "null"});
    checkRefused(fileWith("{\"a\":[]}", 0), {"object", "an array"});
  }

  TEST_CASE("metadata not strings") {
    checkRefused(fileWith("{\"__metadata__\":{\"a\":1}}", 0), {"string", "\"a\"", "__metadata__", "a number"});
    checkRefused(fileWith("{\"__metadata__\":{\"a\":{}}}", 0), {"string", "an object"});
    checkRefused(fileWith("{\"__metadata__\":\"a\"}", 0), {"object", "__metadata__"});
    checkRefused(fileWith("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0), {"\"a\" twice"});
    checkRefused(fileWith("{\"__metadata__\":{},\"__metadata__\":{}}", 0), {"\"__metadata__\" twice"});
  }

  TEST_CASE("tensor fields missing, repeated or of the wrong kind") {
    checkRefused(fileWith("{\"a\":{}}", 0), {"\"a\"", "no dtype"});
    checkRefused(fileWith("{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 0), {"\"a\"", "no data_offsets"});
    checkRefused(fileWith("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 0), {"\"dtype\", got two"});
    checkRefused(fileWith("{\"a\":{\"dtype\":4}}", 0), {"\"a\"", "a string", "a number"});
    checkRefused(fileWith("{\"a\":{\"shape\":\"4\"}}", 0), {"array of integers", "a string"});
    checkRefused(fileWith("{\"a\":{\"shape\":[\"4\"]}}", 0), {"integers", "a string"});
    checkRefused(fileWith("{\"a\":{\"other\":4}}", 0), {"\"other\""});
    checkRefused(fileWith("{\"a\":{\"data_offsets\":[0]}}", 0), {"[begin, end]", "[0]"});
    checkRefused(fileWith("{\"a\":{\"data_offsets\":[4,0]}}", 0), {"[begin, end]", "[4, 0]"});
    checkRefused(fileWith("{\"a\":{\"data_offsets\":[0,1,2]}}", 0), {"[begin, end]"});
  }

  TEST_CASE("overlapping offsets") {
    checkRefused(
        fileWith("{" + tensorJson("a", "F32", "[2]", 0, 8) + "," + tensorJson("b", "F32", "[2]", 4, 12) + "}", 12),
        {"\"b\"", "overlap", "from offset 8", "got 4"});
    checkRefused(
        fileWith("{" + tensorJson("a", "F32", "[2]", 0, 8) + "," + tensorJson("b", "F32", "[2]", 0, 8) + "}", 8),
        {"overlap"});
  }

  TEST_CASE("holes") {
    checkRefused(
        fileWith("{" + tensorJson("a", "F32", "[1]", 0, 4) + "," + tensorJson("b", "F32", "[1]", 8, 12) + "}", 12),
        {"\"b\"", "hole", "from offset 4", "got 8"});
    checkRefused(fileWith("{" + tensorJson("a", "F32", "[1]", 4, 8) + "}", 8), {"hole", "from offset 0"});
    checkRefused(fileWith("{" + tensorJson("a", "F32", "[1]", 0, 4) + "}", 8), {"expected 4 bytes of data", "got 8"});
  }

  TEST_CASE("offsets beyond the file") {
    checkRefused(fileWith("{" + tensorJson("a", "F32", "[4]", 0, 16) + "}", 8), {"expected 16", "got 8", "truncated"});
    checkRefused(fileWith("{\"a\":{\"data_offsets\":[0,9223372036854775808]}}", 0), {"below 2^63"});
    checkRefused(fileWith("{\"a\":{\"data_offsets\":[0,18446744073709551616]}}", 0), {"below 2^63"});
    checkRefused(fileWith("{\"a\":{\"data_offsets\":[0,4.5]}}", 0), {"integers"});
    checkRefused(fileWith("{" + tensorJson("a", "U8", "[9223372036854775807]", 0, 9223372036854775807u) + "}", 8),
                 {"truncated"});
  }

  TEST_CASE("size that does not match the shape") {
    checkRefused(fileWith("{" + tensorJson("a", "F32", "[3]", 0, 8) + "}", 8),
                 {"\"a\"", "expected 12 bytes", "F32 [3]", "8 bytes"});
    checkRefused(fileWith("{" + tensorJson("a", "F64", "[2]", 0, 8) + "}", 8), {"expected 16 bytes"});
    checkRefused(fileWith("{" + tensorJson("a", "F32", "[]", 0, 0) + "}", 0), {"expected 4 bytes", "[]"});
  }

  TEST_CASE("unknown dtype") {
    checkRefused(fileWith("{" + tensorJson("a", "F31", "[2]", 0, 8) + "}", 8), {"\"a\"", "dtype", "\"F31\"", "BF16"});
  }

  TEST_CASE("duplicate names") {
    checkRefused(
        fileWith("{" + tensorJson("a", "F32", "[1]", 0, 4) + "," + tensorJson("a", "F32", "[1]", 4, 8) + "}", 8),
        {"\"a\" twice"});
    checkRefused(
        fileWith("{" + tensorJson("a", "F32", "[1]", 0, 4) + "," + tensorJson("\\u0061", "F32", "[1]", 4, 8) + "}", 8),
        {"\"a\" twice"});
  }

  TEST_CASE("negative shapes and shapes that overflow") {
    checkRefused(fileWith("{" + tensorJson("a", "F32", "[-2]", 0, 8) + "}", 8), {"\"a\"", "integers from 0", "-2"});
    checkRefused(fileWith("{" + tensorJson("a", "F32", "[1e3]", 0, 8) + "}", 8), {"integers"});
    // 2^62 floats and 2^32 x 2^32 bytes wrap to 0 in 64 bits.
    checkRefused(fileWith("{" + tensorJson("a", "F32", "[4611686018427387904]", 0, 0) + "}", 0), {"below 2^63 bytes"});
    checkRefused(fileWith("{" + tensorJson("a", "U8", "[4294967296,4294967296]", 0, 0) + "}", 0), {"below 2^63 bytes"});
    checkRefused(fileWith("{" + tensorJson("a", "U8", "[4294967296,4294967296,0]", 0, 0) + "}", 0),
                 {"below 2^63 bytes"});
    checkRefused(fileWith("{" + tensorJson("a", "U8", "[18446744073709551615]", 0, 0) + "}", 0), {"below 2^63"});
  }

  TEST_CASE("deep nesting") {
    const std::string deep(1'000'000, '[');
    checkRefused(fileWith(deep, 0), {"'{'"});
    checkRefused(fileWith("{\"a\":" + deep, 0), {"an array"});
    checkRefused(fileWith("{\"a\":{\"shape\":" + deep, 0), {"an array"});
    checkRefused(fileWith("{\"__metadata__\":{\"a\":" + deep, 0), {"an array"});
    std::string objects;
    for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
    checkRefused(fileWith(objects, 0), {"dtype, shape and data_offsets"});
  }

  TEST_CASE("long and unprintable names stay readable in messages") {
    checkRefused(fileWith("{\"" + std::string(100'000, 'x') + "\":1}", 0), {"xxx...\""});
    checkRefused(fileWith("{\"a\\u001bb\":1}", 0), {"\"a?b\""});
  }
}

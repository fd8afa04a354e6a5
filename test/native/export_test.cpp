#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "doctest.h"
#include "error_code.h"
#include "export/onnx_ops.h"
#include "export/protobuf.h"
#include "file_helpers.h"
#include "graph/op_kind.h"
#include "op_cases.h"

using namespace ddad;

namespace {

/// An ONNX model of that one op.
OnnxModel modelOf(const testing::OpCaseGraph& g, const testing::OpCase& c) {
  OnnxModel model("case");
  std::vector<OnnxValue> values(g.graph.tensors().size());
  for (const TensorId id : g.inputs)
    values[static_cast<size_t>(id)] = model.input({g.graph.tensor(id).name, false, {"n"}, ""});
  OnnxNetwork network{&g.graph, [](const ParamSpec&, float*) {}, "", OnnxSize{c.height, c.width}, {1, 2}};
  appendNetwork(model, network, values);
  model.output({"out", false, {"n"}, ""}, values[static_cast<size_t>(g.output)]);
  return model;
}

}  // namespace

TEST_SUITE("export") {
  TEST_CASE("every kind of op has an ONNX mapping, and a case") {
    std::set<OpKind> tried;
    for (const testing::OpCase& c : testing::opCases()) {
      const testing::OpCaseGraph g = testing::buildOpCase(c);
      CHECK_MESSAGE(modelOf(g, c).nodeCount() > 1, c.name);
      tried.insert(c.kind);
    }
    int kinds = 0;
    for (; opKindName(static_cast<OpKind>(kinds)) != nullptr; ++kinds) {
      const auto kind = static_cast<OpKind>(kinds);
      CHECK_MESSAGE(hasOnnxMapping(kind), opKindName(kind));
      CHECK_MESSAGE(tried.count(kind) == 1, opKindName(kind));
    }
    CHECK(kinds >= 9);
  }

  TEST_CASE("an op without a mapping is an error that names it") {
    const auto unknown = static_cast<OpKind>(1000);
    CHECK_FALSE(hasOnnxMapping(unknown));
    testing::OpCase c = testing::opCases().front();
    testing::OpCaseGraph g = testing::buildOpCase(c);
    g.graph.addOp(unknown, "strange.op", {g.output}, c.out, 0, {});
    CHECK(testing::codeOf([&] { modelOf(g, c); }) == "ERR_INTERNAL");
    CHECK_THROWS_WITH(modelOf(g, c), doctest::Contains("strange.op"));
  }

  TEST_CASE("protobuf fields") {
    Protobuf inner, p;
    inner.text(1, "ab");
    p.integer(1, 300);  // the varint of the format's description: ac 02
    p.integer(2, -1);   // ten bytes
    p.number(2, 1.0f);
    p.message(16, inner);  // a tag of two bytes
    const std::string expected = std::string("\x08\xac\x02") + "\x10" + std::string(9, '\xff') + "\x01" +
                                 std::string("\x15\x00\x00\x80\x3f", 5) + std::string("\x82\x01\x04\x0a\x02", 5) + "ab";
    CHECK(p.bytes() == expected);
  }

  TEST_CASE("a cancelled write leaves the old files alone") {
    const testing::TemporaryFolder folder;
    OnnxModel model("m");
    const OnnxValue x = model.input({"x", false, {int64_t{4}}, ""});
    const auto fill = [](float* to) { std::fill_n(to, 1024, 1.0f); };
    model.output({"y", false, {int64_t{4}}, ""}, model.node("Add", {x, model.weight("w", {1024}, fill)}));
    const std::string path = folder / "m.onnx";
    REQUIRE(model.write(path, true, Cancel()).size() == 2);
    const auto size = std::filesystem::file_size(path + ".data");
    CHECK(size == 4096);
    Cancel cancel;
    cancel.request();
    CHECK(testing::codeOf([&] { model.write(path, false, cancel); }) == "ERR_ABORTED");
    size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(path).parent_path())) {
      static_cast<void>(entry);
      ++files;
    }
    CHECK(files == 2);
  }
}

// Op checks: see graph/op_check.h.
#include "graph/op_check.h"

#include "base/error.h"
#include "doctest.h"

using namespace ddad;

namespace {

/// What the check says of an op, empty where it says nothing.
std::string refusal(OpKind kind, const OpAttributes& attributes, const Shape& in, const Shape& out,
                    bool training = false) {
  OpRecord record{};
  record.kind = kind;
  record.name = "blocks.1";
  record.attr = attributes;
  OpContext context{nullptr, &record, {in}, out, training, {true}, true};
  try {
    checkOp(context);
  } catch (const Error& error) {
    CHECK(error.code() == "ERR_CONFIG");
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("ops: shapes and attributes that do not fit are refused by the op's name") {
  const Shape image{2, 8, 8, 32};
  OpAttributes attr;
  CHECK(refusal(OpKind::kConv, attr, image, image) == "");
  attr.kernel = 9;
  CHECK(refusal(OpKind::kConv, attr, image, image) == "blocks.1: expected a kernel of 1 to 7, got 9");
  attr.kernel = 3;
  attr.stride = 3;
  CHECK(refusal(OpKind::kConv, attr, image, image) == "blocks.1: expected stride 1 or 2, got 3");
  attr.stride = 1;
  attr.sources = 2;
  CHECK(refusal(OpKind::kConv, attr, image, image) == "blocks.1: two sources need a 1x1 kernel with stride 1");
  attr.sources = 1;
  attr.residual = true;
  attr.activation = Activation::kSilu;
  CHECK(refusal(OpKind::kConv, attr, image, image) == "");
  CHECK(refusal(OpKind::kConv, attr, image, image, true) ==
        "blocks.1: a residual before the activation has no backward");

  attr = {};
  attr.groups = 32;
  CHECK(refusal(OpKind::kGroupNorm, attr, image, image) == "");
  for (const int groups : {0, 5}) {
    attr.groups = groups;
    CHECK(refusal(OpKind::kGroupNorm, attr, image, image) ==
          "blocks.1: expected channels divisible by " + std::to_string(groups) + " groups, got 32");
  }
  attr.heads = 4;
  const Shape qkv{2, 8, 8, 96};
  CHECK(refusal(OpKind::kAttention, attr, qkv, image) == "");
  for (const int heads : {0, 3}) {
    attr.heads = heads;
    CHECK(refusal(OpKind::kAttention, attr, qkv, image) ==
          "blocks.1: expected channels divisible by the number of heads, got 32 channels and " + std::to_string(heads) +
              " heads");
  }
  attr.reduced = 0;
  CHECK(refusal(OpKind::kSqueezeExcite, attr, image, image) ==
        "blocks.1: expected a reduced width of at least 1, got 0");
  const Shape half{2, 4, 4, 32}, odd{2, 9, 8, 32};
  CHECK(refusal(OpKind::kAvgPool, attr, image, half) == "");
  CHECK(refusal(OpKind::kUpsample, attr, half, image) == "");
  CHECK(refusal(OpKind::kAvgPool, attr, odd, half) == "blocks.1: expected an even height and width, got 9 x 8");
  CHECK(refusal(OpKind::kUpsample, attr, half, odd) == "blocks.1: expected an even height and width, got 9 x 8");
}

#pragma once
// The pickles in PyTorch checkpoints, read by a machine that knows the few constructors of a state dict and runs
// nothing.
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "file/safetensors.h"

namespace ddad {

/// A checkpoint that breaks its format. The reader adds the file's name.
class CheckpointError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What one pickle holds. Texts point into its bytes. A value may be part of several others, and of itself.
struct Pickle {
  enum class Kind : uint8_t {
    kNone,
    kBool,
    kInteger,
    kLong,
    kReal,
    kText,
    kTuple,
    kList,
    kDict,
    kGlobal,
    kStorage,
    kTensor
  };

  using Ref = uint32_t;  // index into values

  struct Value {
    Kind kind = Kind::kNone;
    int64_t integer = 0;     // of a bool or integer; of a storage or tensor, its index
    std::string_view text;   // of a text or global; the bytes of a long (an integer of more than 64 bits)
    std::vector<Ref> items;  // of a tuple or list; of a dict, keys and values in turn
  };

  /// A block of elements that tensors are views of; its bytes lie outside of the pickle.
  struct Storage {
    DType dtype = DType::kF32;
    std::string_view key;
    int64_t elements = 0;
  };

  /// A view of a storage; offset and strides in elements, all of it within the storage.
  struct Tensor {
    size_t storage = 0;
    int64_t offset = 0;
    std::vector<int64_t> shape, strides;
  };

  std::vector<Value> values;
  std::vector<Storage> storages;
  std::vector<Tensor> tensors;
  Ref root = 0;
  size_t bytes = 0;  // up to its end

  const Value& at(Ref ref) const { return values[ref]; }
};

/// Longest pickle accepted, in bytes; that of the largest public checkpoint has less than a hundredth of it.
constexpr size_t kMaxPickleBytes = size_t{32} << 20;

/// Reads the pickle that `bytes` begin with (protocols 2 to 5). Known are containers, numbers, texts, OrderedDict,
/// PyTorch's storage types and the functions that rebuild a tensor or parameter. Throws CheckpointError for anything
/// else, naming it, and for a pickle that is damaged or larger than a state dict ever is.
Pickle readPickle(std::string_view bytes);

}  // namespace ddad

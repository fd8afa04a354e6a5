#include "file/checkpoint/pickle.h"

#include <cstring>
#include <limits>
#include <utility>

#include "file/safetensors_header.h"

namespace ddad {
namespace {

using Kind = Pickle::Kind;
using Ref = Pickle::Ref;
using Value = Pickle::Value;

constexpr size_t kMaxValues = 1'000'000;
constexpr size_t kMaxMoved = 8'000'000;  // values put into others, one by one: work and memory beyond the pickle's size
constexpr size_t kMaxMarks = 10'000;     // open at once
constexpr size_t kMaxDimensions = 8;
constexpr size_t kMaxKeyBytes = 200;  // of a storage

struct StorageType {
  std::string_view name;
  DType dtype;
};
constexpr StorageType kStorageTypes[] = {
    {"torch.FloatStorage", DType::kF32},  {"torch.HalfStorage", DType::kF16}, {"torch.BFloat16Storage", DType::kBF16},
    {"torch.DoubleStorage", DType::kF64}, {"torch.LongStorage", DType::kI64}, {"torch.IntStorage", DType::kI32},
    {"torch.ShortStorage", DType::kI16},  {"torch.CharStorage", DType::kI8},  {"torch.ByteStorage", DType::kU8},
    {"torch.BoolStorage", DType::kBool},
};

constexpr std::string_view kOrderedDict = "collections.OrderedDict";
constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildTensorOld = "torch._utils._rebuild_tensor";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";

[[noreturn]] void fail(const std::string& what) { throw CheckpointError("its pickle: " + what); }

/// The name that the list knows; its text outlives the pickle.
std::string_view allowedGlobal(std::string_view module, std::string_view name) {
  const std::string full = std::string(module) + "." + std::string(name);
  for (std::string_view known : {kOrderedDict, kRebuildTensor, kRebuildTensorOld, kRebuildParameter})
    if (full == known) return known;
  for (const StorageType& type : kStorageTypes)
    if (full == type.name) return type.name;
  fail("refused, since it asks for " + quoteName(full) + ", which no state dict needs; nothing of the file was run");
}

class Machine {
 public:
  explicit Machine(std::string_view bytes) : bytes_(bytes) {}

  Pickle run() {
    if (peek() != 0x80) fail("expected one of protocol 2 to 5");
    while (step()) {
    }
    pickle_.bytes = at_;
    return std::move(pickle_);
  }

 private:
  // --- bytes ---

  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - at_) fail("ends in the middle (the file is truncated)");
    const std::string_view taken = bytes_.substr(at_, static_cast<size_t>(count));
    at_ += static_cast<size_t>(count);
    return taken;
  }
  int peek() const { return at_ < bytes_.size() ? static_cast<unsigned char>(bytes_[at_]) : -1; }

  /// Little-endian.
  uint64_t number(int size) {
    const std::string_view raw = take(static_cast<uint64_t>(size));
    uint64_t value = 0;
    std::memcpy(&value, raw.data(), raw.size());
    return value;
  }

  std::string_view line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) fail("ends in the middle (the file is truncated)");
    const std::string_view text = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return text;
  }

  // --- values and the stack ---

  Ref add(Value value) {
    if (pickle_.values.size() >= kMaxValues) fail("expected at most " + std::to_string(kMaxValues) + " values");
    pickle_.values.push_back(std::move(value));
    return static_cast<Ref>(pickle_.values.size() - 1);
  }
  Value& at(Ref ref) { return pickle_.values[ref]; }

  void push(Ref ref) { stack_.push_back(ref); }
  void push(Value value) { push(add(std::move(value))); }
  void pushInteger(int64_t integer, Kind kind = Kind::kInteger) {
    Value value;
    value.kind = kind;
    value.integer = integer;
    push(std::move(value));
  }
  void pushText(std::string_view text, Kind kind = Kind::kText) {
    Value value;
    value.kind = kind;
    value.text = text;
    push(std::move(value));
  }
  void pushItems(Kind kind, std::vector<Ref> items) {
    Value value;
    value.kind = kind;
    value.items = std::move(items);
    push(std::move(value));
  }

  /// Values above the last mark.
  size_t height() const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()); }
  Ref top() {
    if (height() == 0) fail("takes a value from an empty stack");
    return stack_.back();
  }
  Ref pop() {
    const Ref ref = top();
    stack_.pop_back();
    return ref;
  }
  std::vector<Ref> pop(size_t count) {
    if (height() < count) fail("takes a value from an empty stack");
    return cut(stack_.size() - count);
  }
  std::vector<Ref> popToMark() {
    if (marks_.empty()) fail("goes back to a mark that is not there");
    const size_t mark = marks_.back();
    marks_.pop_back();
    return cut(mark);
  }
  std::vector<Ref> cut(size_t from) {
    charge(stack_.size() - from);
    std::vector<Ref> items(stack_.begin() + static_cast<std::ptrdiff_t>(from), stack_.end());
    stack_.resize(from);
    return items;
  }
  void charge(size_t count) {
    moved_ += count;
    if (moved_ > kMaxMoved) fail("expected a state dict, got more values than one ever has");
  }

  void memoize(uint64_t key) {
    memo_[key] = top();
    if (memo_.size() > kMaxValues) fail("expected at most " + std::to_string(kMaxValues) + " values");
  }
  void recall(uint64_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) fail("recalls a value that it has not kept");
    push(found->second);
  }

  // --- instructions ---

  /// Runs one; false after the last.
  bool step() {
    const int code = peek();
    if (code < 0) fail("ends in the middle (the file is truncated)");
    ++at_;
    switch (code) {
      case '.':  // STOP
        pickle_.root = pop();
        return false;
      case 0x80: {  // PROTO
        const uint64_t protocol = number(1);
        if (protocol < 2 || protocol > 5) fail("expected protocol 2 to 5, got " + std::to_string(protocol));
        return true;
      }
      case 0x95:  // FRAME
        number(8);
        return true;
      case '(':  // MARK
        if (marks_.size() >= kMaxMarks) fail("nests deeper than any state dict");
        marks_.push_back(stack_.size());
        return true;
      case '0':  // POP
        pop();
        return true;
      case 'q':  // BINPUT
        memoize(number(1));
        return true;
      case 'r':  // LONG_BINPUT
        memoize(number(4));
        return true;
      case 0x94:  // MEMOIZE
        memoize(memo_.size());
        return true;
      case 'h':  // BINGET
        recall(number(1));
        return true;
      case 'j':  // LONG_BINGET
        recall(number(4));
        return true;
      default:
        if (!scalar(code) && !container(code)) call(code);
        return true;
    }
  }

  bool scalar(int code) {
    switch (code) {
      case 'N':  // NONE
        push(Value{});
        return true;
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        pushInteger(code == 0x88 ? 1 : 0, Kind::kBool);
        return true;
      case 'J':  // BININT
        pushInteger(static_cast<int32_t>(static_cast<uint32_t>(number(4))));
        return true;
      case 'K':  // BININT1
        pushInteger(static_cast<int64_t>(number(1)));
        return true;
      case 'M':  // BININT2
        pushInteger(static_cast<int64_t>(number(2)));
        return true;
      case 0x8a:  // LONG1
        pushLong(take(number(1)));
        return true;
      case 0x8b:  // LONG4
        pushLong(take(number(4)));
        return true;
      case 'G':  // BINFLOAT
        take(8);
        pushInteger(0, Kind::kReal);  // no real of a state dict is looked at
        return true;
      case 'X':  // BINUNICODE
      case 'T':  // BINSTRING
      case 'B':  // BINBYTES
        pushText(take(number(4)));
        return true;
      case 0x8c:  // SHORT_BINUNICODE
      case 'U':   // SHORT_BINSTRING
      case 'C':   // SHORT_BINBYTES
        pushText(take(number(1)));
        return true;
      case 0x8d:  // BINUNICODE8
      case 0x8e:  // BINBYTES8
        pushText(take(number(8)));
        return true;
      default:
        return false;
    }
  }

  void pushLong(std::string_view raw) {
    if (raw.size() > 8) return pushText(raw, Kind::kLong);
    uint64_t value = 0;
    std::memcpy(&value, raw.data(), raw.size());
    const bool negative = !raw.empty() && (static_cast<unsigned char>(raw.back()) & 0x80) != 0;
    if (negative && raw.size() < 8) value |= ~uint64_t{0} << (8 * raw.size());
    pushInteger(static_cast<int64_t>(value));
  }

  bool container(int code) {
    switch (code) {
      case ')':  // EMPTY_TUPLE
        pushItems(Kind::kTuple, {});
        return true;
      case 0x85:  // TUPLE1
      case 0x86:  // TUPLE2
      case 0x87:  // TUPLE3
        pushItems(Kind::kTuple, pop(static_cast<size_t>(code - 0x84)));
        return true;
      case 't':  // TUPLE
        pushItems(Kind::kTuple, popToMark());
        return true;
      case ']':  // EMPTY_LIST
        pushItems(Kind::kList, {});
        return true;
      case '}':  // EMPTY_DICT
        pushItems(Kind::kDict, {});
        return true;
      case 'a':  // APPEND
        extend(Kind::kList, pop(1));
        return true;
      case 'e':  // APPENDS
        extend(Kind::kList, popToMark());
        return true;
      case 's':  // SETITEM
        extend(Kind::kDict, pop(2));
        return true;
      case 'u':  // SETITEMS
        extend(Kind::kDict, popToMark());
        return true;
      default:
        return false;
    }
  }

  void extend(Kind kind, const std::vector<Ref>& more) {
    Value& container = at(top());
    if (container.kind != kind) fail("puts values into something that is no list or dict");
    if (kind == Kind::kDict && more.size() % 2 != 0) fail("puts a key without a value into a dict");
    container.items.insert(container.items.end(), more.begin(), more.end());
  }

  void call(int code) {
    switch (code) {
      case 'c': {  // GLOBAL
        const std::string_view module = line();
        return pushText(allowedGlobal(module, line()), Kind::kGlobal);
      }
      case 0x93: {  // STACK_GLOBAL
        const std::vector<Ref> names = pop(2);
        for (Ref name : names)
          if (at(name).kind != Kind::kText) fail("names a global with something that is no text");
        return pushText(allowedGlobal(at(names[0]).text, at(names[1]).text), Kind::kGlobal);
      }
      case 'R':  // REDUCE
        return reduce();
      case 'b': {  // BUILD: the attributes of an OrderedDict, such as the _metadata of a state dict; not needed
        pop();
        if (at(top()).kind != Kind::kDict) fail("sets attributes of something that is no dict");
        return;
      }
      case 'Q':  // BINPERSID
        return storage();
      case 'i': {  // INST
        const std::string_view module = line();
        pushText(allowedGlobal(module, line()), Kind::kGlobal);
        fail("expected a state dict, got an instance of " + std::string(at(top()).text));
      }
      default: {
        constexpr char kHex[] = "0123456789abcdef";
        const char digits[] = {kHex[code >> 4], kHex[code & 15], '\0'};
        fail(std::string("expected the instructions of a state dict, got 0x") + digits);
      }
    }
  }

  void reduce() {
    const std::vector<Ref> parts = pop(2);
    if (at(parts[0]).kind != Kind::kGlobal || at(parts[1]).kind != Kind::kTuple) fail("calls something unknown");
    const std::string_view name = at(parts[0]).text;
    const std::vector<Ref>& arguments = at(parts[1]).items;
    if (name == kOrderedDict) return orderedDict(arguments);
    if (name == kRebuildTensor || name == kRebuildTensorOld) return tensor(arguments);
    if (name != kRebuildParameter) fail("calls " + std::string(name) + ", which is a type");
    if (arguments.empty() || at(arguments[0]).kind != Kind::kTensor)
      fail("makes a parameter of something that is no tensor");
    push(arguments[0]);
  }

  /// From nothing, or from a list of pairs, as Python 2 wrote it.
  void orderedDict(const std::vector<Ref>& arguments) {
    std::vector<Ref> items;
    if (arguments.size() > 1 || (arguments.size() == 1 && at(arguments[0]).kind != Kind::kList))
      fail("makes an odd OrderedDict");
    if (!arguments.empty()) {
      charge(2 * at(arguments[0]).items.size());
      for (Ref pair : at(arguments[0]).items) {
        if (at(pair).items.size() != 2 || at(pair).kind == Kind::kDict) fail("makes an OrderedDict of no pairs");
        items.insert(items.end(), at(pair).items.begin(), at(pair).items.end());
      }
    }
    pushItems(Kind::kDict, std::move(items));
  }

  int64_t count(Ref ref, const char* what) {
    if (at(ref).kind != Kind::kInteger || at(ref).integer < 0)
      fail(std::string("expected an integer from 0 as the ") + what);
    return at(ref).integer;
  }

  std::vector<int64_t> counts(Ref ref, const char* what) {
    if (at(ref).kind != Kind::kTuple || at(ref).items.size() > kMaxDimensions)
      fail("expected at most " + std::to_string(kMaxDimensions) + " dimensions in the " + what + " of a tensor");
    std::vector<int64_t> values;
    for (Ref item : at(ref).items) values.push_back(count(item, what));
    return values;
  }

  /// ('storage', type, key, location, elements), and in old files a view of it, always None since.
  void storage() {
    const Ref id = pop();
    const std::vector<Ref>& parts = at(id).items;
    const bool known = at(id).kind == Kind::kTuple && (parts.size() == 5 || parts.size() == 6) &&
                       at(parts[0]).kind == Kind::kText && at(parts[0]).text == "storage" &&
                       at(parts[1]).kind == Kind::kGlobal && at(parts[2]).kind == Kind::kText &&
                       (parts.size() == 5 || at(parts[5]).kind == Kind::kNone);
    if (!known) fail("expected a storage of elements, got another persistent object");
    Pickle::Storage found;
    for (const StorageType& type : kStorageTypes)
      if (type.name == at(parts[1]).text) {
        found = {type.dtype, at(parts[2]).text, count(parts[4], "size of a storage")};
      }
    // it is looked up once for every tensor
    if (found.key.size() > kMaxKeyBytes) fail("expected a short key of a storage");
    if (found.key.empty()) fail("expected a type of storages, got " + std::string(at(parts[1]).text));
    const auto [place, added] = storages_.emplace(found.key, pickle_.storages.size());
    if (added) {
      pickle_.storages.push_back(found);
    } else {
      const Pickle::Storage& before = pickle_.storages[place->second];
      if (before.dtype != found.dtype || before.elements != found.elements)
        fail("describes the storage " + quoteName(found.key) + " in two ways");
    }
    pushInteger(static_cast<int64_t>(place->second), Kind::kStorage);
  }

  /// (storage, offset, shape, strides, …); what follows concerns gradients.
  void tensor(const std::vector<Ref>& arguments) {
    if (arguments.size() < 4 || arguments.size() > 7 || at(arguments[0]).kind != Kind::kStorage)
      fail("makes a tensor of something that is no storage");
    Pickle::Tensor made;
    made.storage = static_cast<size_t>(at(arguments[0]).integer);
    made.offset = count(arguments[1], "offset of a tensor");
    made.shape = counts(arguments[2], "shape");
    made.strides = counts(arguments[3], "strides");
    if (made.shape.size() != made.strides.size()) fail("gives a tensor shape and strides that differ in length");
    checkWithin(made, pickle_.storages[made.storage]);
    pickle_.tensors.push_back(std::move(made));
    pushInteger(static_cast<int64_t>(pickle_.tensors.size()) - 1, Kind::kTensor);
  }

  /// A tensor of more elements than its storage has is one that repeats them, which no parameter does: so a small file
  /// stays a small tensor.
  static void checkWithin(const Pickle::Tensor& tensor, const Pickle::Storage& storage) {
    int64_t elements = 1, last = tensor.offset;
    bool fits = true;
    for (int64_t extent : tensor.shape) fits = fits && !__builtin_mul_overflow(elements, extent, &elements);
    for (size_t i = 0; fits && elements > 0 && i < tensor.shape.size(); ++i) {
      int64_t reach = 0;
      fits = !__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) &&
             !__builtin_add_overflow(last, reach, &last);
    }
    if (fits && elements == 0) return;
    if (!fits || elements > storage.elements || last >= storage.elements)
      fail("expected tensors within their storages, got " + shapeText(tensor.shape) + " with strides " +
           shapeText(tensor.strides) + " at " + std::to_string(tensor.offset) + " of " +
           std::to_string(storage.elements) + " elements");
  }

  const std::string_view bytes_;
  size_t at_ = 0;
  size_t moved_ = 0;
  Pickle pickle_;
  std::vector<Ref> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, Ref> memo_;
  std::unordered_map<std::string_view, size_t> storages_;
};

}  // namespace

Pickle readPickle(std::string_view bytes) { return Machine(bytes.substr(0, kMaxPickleBytes)).run(); }

}  // namespace ddad

#include "file/checkpoint/torch_file.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "file/checkpoint/pickle.h"
#include "file/checkpoint/zip_directory.h"
#include "file/reals.h"
#include "file/safetensors_header.h"

namespace ddad {
namespace {

constexpr int kMaxDepth = 6;  // of dictionaries in dictionaries
constexpr size_t kMaxTensors = 100'000;
constexpr size_t kMaxNameBytes = 32 << 20;  // of all names together

/// 0x1950a86a20f9469cfc6c, which PyTorch's old form begins with, as a pickled integer.
constexpr std::string_view kLegacyMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
constexpr int64_t kLegacyProtocol = 1001;

[[noreturn]] void fail(const std::string& what) { throw CheckpointError(what); }

/// Where the bytes of each storage of a pickle begin.
using Places = std::vector<const std::byte*>;

class Collector {
 public:
  Collector(const Pickle& pickle, const Places& places) : pickle_(pickle), places_(places) {}

  std::vector<StridedTensor> run() {
    if (pickle_.at(pickle_.root).kind != Pickle::Kind::kDict) fail("expected a state dict, got something else");
    collect(pickle_.root, "", 1);
    return std::move(tensors_);
  }

 private:
  void collect(Pickle::Ref ref, const std::string& prefix, int depth) {
    // a dictionary may be part of several, and of itself
    if (depth > kMaxDepth || !seen_.insert(ref).second) return;
    const std::vector<Pickle::Ref>& items = pickle_.at(ref).items;
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      const Pickle::Value &key = pickle_.at(items[i]), &value = pickle_.at(items[i + 1]);
      const bool tensor = value.kind == Pickle::Kind::kTensor;
      if (!tensor && value.kind != Pickle::Kind::kDict) continue;
      std::string name = prefix;
      if (key.kind == Pickle::Kind::kText) {
        charge(prefix.size() + key.text.size());
        name += key.text;
      } else if (key.kind == Pickle::Kind::kInteger) {
        name += std::to_string(key.integer);
      } else {
        continue;
      }
      if (tensor)
        add(std::move(name), pickle_.tensors[static_cast<size_t>(value.integer)]);
      else
        collect(items[i + 1], name + ".", depth + 1);
    }
  }

  void charge(size_t bytes) {
    nameBytes_ += bytes;
    if (nameBytes_ > kMaxNameBytes) fail("expected a state dict, got longer names than one ever has");
  }

  void add(std::string name, const Pickle::Tensor& tensor) {
    if (tensors_.size() >= kMaxTensors) fail("expected at most " + std::to_string(kMaxTensors) + " tensors");
    if (!names_.insert(name).second) fail("expected distinct tensor names, got " + quoteName(name) + " twice");
    const DType dtype = pickle_.storages[tensor.storage].dtype;
    // an empty tensor's offset may be anything
    const std::byte* data = places_[tensor.storage];
    StridedTensor view{std::move(name), dtype, tensor.shape, tensor.strides, data};
    if (view.count() > 0) view.data += tensor.offset * dtypeSize(dtype);
    tensors_.push_back(std::move(view));
  }

  const Pickle& pickle_;
  const Places& places_;
  std::vector<StridedTensor> tensors_;
  std::unordered_set<Pickle::Ref> seen_;
  std::unordered_set<std::string> names_;
  size_t nameBytes_ = 0;
};

/// The bytes that a storage needs; -1 when that overflows.
int64_t storageBytes(const Pickle::Storage& storage) { return shapeBytes({storage.elements}, storage.dtype); }

const std::byte* checkedStorage(const Pickle::Storage& storage, std::string_view bytes) {
  const int64_t needed = storageBytes(storage);
  if (needed < 0 || static_cast<uint64_t>(needed) > bytes.size())
    fail("storage " + quoteName(storage.key) + ": expected " + std::to_string(storage.elements) + " elements of " +
         dtypeName(storage.dtype) + ", got " + std::to_string(bytes.size()) + " bytes");
  return reinterpret_cast<const std::byte*>(bytes.data());
}

std::vector<StridedTensor> readZip(std::string_view bytes) {
  const ZipDirectory zip(bytes);
  const auto folder = zip.folderOf("data.pkl");
  if (!folder) fail("expected a checkpoint of PyTorch, got another zip archive (no data.pkl in it)");
  const std::string root = std::string(*folder) + "/";
  if (zip.find(root + "byteorder").value_or("little") != "little")
    fail("expected little-endian numbers, got a checkpoint of a big-endian machine");
  const std::string_view data = *zip.find(root + "data.pkl");
  if (data.size() > kMaxPickleBytes)
    fail("expected a pickle of at most " + std::to_string(kMaxPickleBytes) + " bytes, got " +
         std::to_string(data.size()));
  const Pickle pickle = readPickle(data);
  Places places;
  for (const Pickle::Storage& storage : pickle.storages) {
    const auto found = zip.find(root + "data/" + std::string(storage.key));
    if (!found) fail("storage " + quoteName(storage.key) + ": expected an entry of that name, got none");
    places.push_back(checkedStorage(storage, *found));
  }
  return Collector(pickle, places).run();
}

/// Takes a pickle from the front of `rest`.
Pickle takePickle(std::string_view& rest) {
  Pickle pickle = readPickle(rest);
  rest.remove_prefix(pickle.bytes);
  return pickle;
}

/// The old form: five pickles (magic number, version, machine, state dict, keys of the storages), then of each storage
/// the number of its elements and these.
std::vector<StridedTensor> readLegacy(std::string_view bytes) {
  using Kind = Pickle::Kind;
  std::string_view rest = bytes;
  const Pickle magic = takePickle(rest);
  if (magic.at(magic.root).kind != Kind::kLong || magic.at(magic.root).text != kLegacyMagic)
    fail("expected a checkpoint of PyTorch, got another pickle");
  const Pickle version = takePickle(rest);
  if (version.at(version.root).kind != Kind::kInteger || version.at(version.root).integer != kLegacyProtocol)
    fail("expected version 1001 of the old checkpoint form, got another");
  const Pickle machine = takePickle(rest);
  const std::vector<Pickle::Ref>& facts = machine.at(machine.root).items;
  for (size_t i = 0; i + 1 < facts.size(); i += 2)
    if (machine.at(facts[i]).text == "little_endian" && machine.at(facts[i + 1]).integer != 1)
      fail("expected little-endian numbers, got a checkpoint of a big-endian machine");
  const Pickle pickle = takePickle(rest);
  const Pickle keys = takePickle(rest);
  if (keys.at(keys.root).kind != Kind::kList) fail("expected a list of storages after the state dict");

  std::unordered_map<std::string_view, size_t> known;
  for (size_t i = 0; i < pickle.storages.size(); ++i) known.emplace(pickle.storages[i].key, i);
  Places places(pickle.storages.size(), nullptr);
  for (Pickle::Ref ref : keys.at(keys.root).items) {
    const auto found = known.find(keys.at(ref).text);
    if (found == known.end()) fail("expected storages that the state dict uses, got " + quoteName(keys.at(ref).text));
    const Pickle::Storage& storage = pickle.storages[found->second];
    uint64_t elements = 0;
    if (rest.size() < sizeof(elements)) fail("ends before its storages do (the file is truncated)");
    std::memcpy(&elements, rest.data(), sizeof(elements));
    rest.remove_prefix(sizeof(elements));
    if (elements != static_cast<uint64_t>(storage.elements))
      fail("storage " + quoteName(storage.key) + ": expected " + std::to_string(storage.elements) + " elements, got " +
           std::to_string(elements));
    places[found->second] = checkedStorage(storage, rest);
    rest.remove_prefix(static_cast<size_t>(storageBytes(storage)));
  }
  for (size_t i = 0; i < places.size(); ++i)
    if (!places[i]) fail("storage " + quoteName(pickle.storages[i].key) + ": expected its elements, got none");
  return Collector(pickle, places).run();
}

}  // namespace

int64_t StridedTensor::count() const {
  int64_t product = 1;
  for (int64_t extent : shape) product *= extent;
  return product;
}

bool StridedTensor::contiguous() const {
  if (count() == 0) return true;  // and the product of a part of the shape may overflow
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

int64_t StridedTensor::span() const {
  if (count() == 0) return 0;
  int64_t last = 0;
  for (size_t i = 0; i < shape.size(); ++i) last += (shape[i] - 1) * strides[i];
  return last + 1;
}

StridedTensor stridedView(const TensorEntry& entry) {
  StridedTensor view{entry.name, entry.dtype, entry.shape, entry.shape, entry.data};
  if (entry.count() == 0) return view;
  int64_t stride = 1;
  for (size_t i = view.shape.size(); i-- > 0;) {
    view.strides[i] = stride;
    stride *= view.shape[i];
  }
  return view;
}

void readReals(const StridedTensor& tensor, int64_t first, int64_t count, float* out) {
  const int64_t size = dtypeSize(tensor.dtype);
  if (tensor.contiguous()) return readReals(tensor.dtype, tensor.data + first * size, 1, count, out);
  const size_t last = tensor.shape.size() - 1;
  const int64_t row = tensor.shape[last];
  while (count > 0) {  // by pieces of rows
    int64_t offset = first % row * tensor.strides[last];
    int64_t rest = first / row;
    for (size_t i = last; i-- > 0; rest /= tensor.shape[i]) offset += rest % tensor.shape[i] * tensor.strides[i];
    const int64_t piece = std::min(count, row - first % row);
    readReals(tensor.dtype, tensor.data + offset * size, tensor.strides[last], piece, out);
    out += piece;
    first += piece;
    count -= piece;
  }
}

TorchFormat torchFormat(std::string_view bytes) {
  // the length of a safetensors header, which this brace follows, may begin as a pickle does
  if (bytes.size() > 8 && bytes[8] == '{') return TorchFormat::kNone;
  if (ZipDirectory::looksLike(bytes)) return TorchFormat::kZip;
  const bool pickle = bytes.size() > 2 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5;
  return pickle ? TorchFormat::kLegacy : TorchFormat::kNone;
}

std::vector<StridedTensor> readTorchTensors(std::string_view bytes, TorchFormat format) {
  return format == TorchFormat::kZip ? readZip(bytes) : readLegacy(bytes);
}

}  // namespace ddad

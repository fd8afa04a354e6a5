#include "torch_support.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "file/reals.h"

namespace ddad::fuzz {
namespace {

template <class T>
std::string raw(T value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}
std::string u16(size_t value) { return raw(static_cast<uint16_t>(value)); }
std::string u32(size_t value) { return raw(static_cast<uint32_t>(value)); }

std::string text(const std::string& value) { return "X" + u32(value.size()) + value; }
std::string integer(int value) { return "K" + std::string(1, static_cast<char>(value)); }
std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }

std::string tuple(const std::vector<int>& values) {
  std::string items = "(";
  for (int value : values) items += integer(value);
  return items + "t";
}

std::string storage(const std::string& type, const std::string& key, int elements, bool legacy) {
  return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + integer(elements) +
         (legacy ? "N" : "") + "tQ";
}

std::string tensor(const std::string& held, int offset, const std::vector<int>& shape,
                   const std::vector<int>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + held + integer(offset) + tuple(shape) + tuple(strides) +
         "\x89" + global("collections", "OrderedDict") + ")RtR";
}

std::string stateDict(bool legacy) {
  const std::string floats = storage("FloatStorage", "0", 16, legacy), halves = storage("HalfStorage", "1", 4, legacy);
  return global("collections", "OrderedDict") + ")Rq\x05(" + text("a.weight") + tensor(floats, 4, {2, 3}, {1, 2}) +
         text("a.bias") + tensor(halves, 0, {4}, {1}) + text("scalar") + tensor(floats, 15, {}, {}) +
         text("parameter") + global("torch._utils", "_rebuild_parameter") + "(" + tensor(floats, 0, {2, 2}, {4, 1}) +
         "\x88N" + "tRu}" + text("_metadata") + "h\x05sb";
}

}  // namespace

std::string zipArchive(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string file, directory;
  for (const auto& [name, content] : entries) {
    const std::string sizes = u32(0) + u32(content.size()) + u32(content.size()) + u16(name.size());
    directory += "PK\1\2" + u16(0) + u16(0) + u16(0) + u16(0) + u32(0) + sizes + u16(0) + u16(0) + u16(0) + u16(0) +
                 u32(0) + u32(file.size()) + name;
    file += "PK\3\4" + u16(0) + u16(0) + u16(0) + u32(0) + sizes + u16(0) + name + content;
  }
  return file + directory + "PK\5\6" + u16(0) + u16(0) + u16(entries.size()) + u16(entries.size()) +
         u32(directory.size()) + u32(file.size()) + u16(0);
}

std::string legacyFile(std::string_view pickle) {
  const std::string magic("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
  const std::string version = "\x80\x02M\xe9\x03.";
  const std::string machine = "\x80\x02}" + text("little_endian") + "\x88s.";
  const std::string keys = "\x80\x02](" + text("0") + text("1") + "e.";
  return magic + version + machine + std::string(pickle) + keys + raw(uint64_t{16}) + std::string(64, '1') +
         raw(uint64_t{4}) + "12345678";
}

std::vector<std::string> pickleSeeds() {
  const std::string begin = "\x80\x02", nested = "}(" + text("state_dict");
  std::vector<std::string> seeds;
  for (const bool legacy : {false, true}) {
    seeds.push_back(begin + stateDict(legacy) + ".");
    seeds.push_back(begin + nested + stateDict(legacy) + text("epoch") + integer(3) + text("lr") + "G" + raw(1.0) +
                    text("big") + "\x8a\x09" + "123456789" + text("more") + "](NNe" + "u.");
  }
  return seeds;
}

void readWhole(const StridedTensor& tensor, std::string_view file) {
  const auto* begin = reinterpret_cast<const std::byte*>(file.data());
  if (tensor.count() == 0) return;
  const int64_t bytes = tensor.span() * dtypeSize(tensor.dtype);
  if (tensor.data < begin || bytes > static_cast<int64_t>(file.size()) - (tensor.data - begin)) std::abort();
  if (!isReal(tensor.dtype)) return;
  std::vector<float> values(static_cast<size_t>(tensor.count()));
  readReals(tensor, 0, tensor.count(), values.data());
}

}  // namespace ddad::fuzz

/* SPDX-License-Identifier: Apache-2.0 */
/* FlexBuffers, as its published format says: the last two bytes are the root's packed type and width, offsets point
   backwards, a map is a vector of values with one type byte each behind them, and in front of it (offset of, width of)
   a sorted vector of keys. */
#include "options.h"

#include <string.h>

namespace rqdkm {
namespace {

constexpr uint8_t kInteger = 1, kUnsigned = 2, kString = 5, kIndirectInteger = 6, kIndirectUnsigned = 7, kMap = 9,
                  kVector = 10;
constexpr uint8_t kIntegers = 11, kUnsigneds = 12;

constexpr size_t Width(uint8_t type) { return size_t{1} << (type & 3); }
constexpr uint8_t Kind(uint8_t type) { return static_cast<uint8_t>(type >> 2); }

}  // namespace

const char *KeyName(Key key) {
  static const char *const names[] = {
#define RQDKM_NAME(name) #name,
      RQDKM_OPTION_KEYS(RQDKM_NAME)
#undef RQDKM_NAME
  };
  return names[static_cast<size_t>(key)];
}

Options::Options(const void *data, size_t bytes) : data_(static_cast<const uint8_t *>(data)), bytes_(bytes) {
  if (data_ == nullptr || bytes_ < 3) return;
  const size_t root_width = data_[bytes_ - 1];
  const uint8_t root_type = data_[bytes_ - 2];
  if (Kind(root_type) != kMap || root_width > 8 || bytes_ - 2 < root_width) return;
  size_t values = 0;
  if (Follow(bytes_ - 2 - root_width, root_width, &values)) SetMap(values, Width(root_type));
}

void Options::SetMap(size_t values, size_t width) {
  size_t keys = 0;
  uint64_t size = 0, key_width = 0, key_count = 0;
  if (values < 3 * width || !Unsigned(values - width, width, &size) || size > bytes_) return;
  if (!Unsigned(values - 2 * width, width, &key_width) || key_width > 8) return;
  if (!Follow(values - 3 * width, width, &keys) || keys < key_width) return;
  const size_t wide = static_cast<size_t>(key_width), count = static_cast<size_t>(size);
  if (wide == 0 || !Unsigned(keys - wide, wide, &key_count) || key_count != size) return;
  if (count > (bytes_ - values) / (width + 1) || count > (bytes_ - keys) / wide) return;
  values_ = values;
  keys_ = keys;
  width_ = width;
  key_width_ = wide;
  size_ = count;
}

bool Options::Unsigned(size_t at, size_t width, uint64_t *value) const {
  if (at > bytes_ || width > bytes_ - at || (width != 1 && width != 2 && width != 4 && width != 8)) return false;
  *value = 0;
  for (size_t i = width; i > 0; i--) *value = *value << 8 | data_[at + i - 1];
  return true;
}

bool Options::Signed(size_t at, size_t width, int64_t *value) const {
  uint64_t raw = 0;
  if (!Unsigned(at, width, &raw)) return false;
  const uint64_t sign = uint64_t{1} << (8 * width - 1);
  if ((raw & sign) != 0) raw |= ~(sign - 1);
  memcpy(value, &raw, sizeof raw);
  return true;
}

bool Options::Follow(size_t at, size_t width, size_t *target) const {
  uint64_t offset = 0;
  if (!Unsigned(at, width, &offset) || offset > at) return false;
  *target = at - static_cast<size_t>(offset);
  return true;
}

bool Options::Find(Key key, Value *found) const {
  const char *const name = KeyName(key);
  const size_t length = strlen(name) + 1; /* with the null */
  for (size_t i = 0; i < size_; i++) {
    size_t text = 0;
    if (!Follow(keys_ + i * key_width_, key_width_, &text)) continue;
    if (length > bytes_ - text || memcmp(data_ + text, name, length) != 0) continue;
    *found = {values_ + i * width_, static_cast<uint8_t>(width_), data_[values_ + size_ * width_ + i]};
    return true;
  }
  return false;
}

bool Options::Has(Key key) const {
  Value found;
  return Find(key, &found);
}

bool Options::Integer(Key key, int64_t *value) const {
  Value found;
  if (!Find(key, &found)) return false;
  const uint8_t kind = Kind(found.type);
  size_t at = found.at, width = found.width;
  if (kind == kIndirectInteger || kind == kIndirectUnsigned) {
    if (!Follow(found.at, found.width, &at)) return false;
    width = Width(found.type);
  }
  if (kind == kInteger || kind == kIndirectInteger) return Signed(at, width, value);
  uint64_t plain = 0;
  if ((kind != kUnsigned && kind != kIndirectUnsigned) || !Unsigned(at, width, &plain) || plain > INT64_MAX) {
    return false;
  }
  *value = static_cast<int64_t>(plain);
  return true;
}

bool Options::Integers(Key key, int32_t *values, size_t count) const {
  Value found;
  size_t start = 0;
  uint64_t size = 0;
  if (!Find(key, &found) || (Kind(found.type) != kIntegers && Kind(found.type) != kUnsigneds)) return false;
  const size_t width = Width(found.type);
  if (!Follow(found.at, found.width, &start) || start < width) return false;
  if (!Unsigned(start - width, width, &size) || size != count) return false;
  for (size_t i = 0; i < count; i++) {
    int64_t value = 0;
    uint64_t plain = 0;
    if (Kind(found.type) == kIntegers) {
      if (!Signed(start + i * width, width, &value)) return false;
    } else {
      if (!Unsigned(start + i * width, width, &plain) || plain > INT32_MAX) return false;
      value = static_cast<int64_t>(plain);
    }
    if (value < INT32_MIN || value > INT32_MAX) return false;
    values[i] = static_cast<int32_t>(value);
  }
  return true;
}

bool Options::Length(Key key, size_t *count) const {
  Value found;
  size_t start = 0;
  uint64_t size = 0;
  if (!Find(key, &found) || (Kind(found.type) != kIntegers && Kind(found.type) != kUnsigneds)) return false;
  const size_t width = Width(found.type);
  if (!Follow(found.at, found.width, &start) || start < width || !Unsigned(start - width, width, &size)) return false;
  if (size > bytes_) return false;
  *count = static_cast<size_t>(size);
  return true;
}

bool Options::Map(Key key, size_t index, Options *map) const {
  Value found;
  size_t start = 0, values = 0;
  uint64_t size = 0;
  if (!Find(key, &found) || Kind(found.type) != kVector || !Follow(found.at, found.width, &start)) return false;
  const size_t width = Width(found.type);
  if (start < width || !Unsigned(start - width, width, &size) || index >= size) return false;
  if (size > (bytes_ - start) / (width + 1)) return false; /* each has a type behind the last */
  const uint8_t type = data_[start + static_cast<size_t>(size) * width + index];
  if (Kind(type) != kMap || !Follow(start + index * width, width, &values)) return false;
  *map = Options();
  map->data_ = data_;
  map->bytes_ = bytes_;
  map->SetMap(values, Width(type));
  return map->valid();
}

const char *Options::Text(Key key) const {
  Value found;
  size_t start = 0;
  if (!Find(key, &found) || Kind(found.type) != kString || !Follow(found.at, found.width, &start)) return "?";
  return memchr(data_ + start, 0, bytes_ - start) != nullptr ? reinterpret_cast<const char *>(data_ + start) : "?";
}

}  // namespace rqdkm

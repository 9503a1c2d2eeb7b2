/* SPDX-License-Identifier: Apache-2.0 */
/* The options of a custom operator, read from bytes that nobody vouches for. */
#ifndef RQDKM_TFLM_OPTIONS_H
#define RQDKM_TFLM_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "option_keys.h"

namespace rqdkm {

enum class Key : uint8_t {
#define RQDKM_ENUM(name) name,
  RQDKM_OPTION_KEYS(RQDKM_ENUM)
#undef RQDKM_ENUM
};

const char *KeyName(Key key);

/* A FlexBuffers map; every access stays within its bytes. Keys that are not asked for are passed over. */
class Options {
 public:
  Options() = default;
  /* data: `bytes` bytes, alive as long as this. */
  Options(const void *data, size_t bytes);

  /* Whether the bytes are a map at all. */
  bool valid() const { return size_ > 0; }
  bool Has(Key key) const;
  /* False: the key is missing, of another type, or its value is out of range. */
  bool Integer(Key key, int64_t *value) const;
  /* Exactly `count` integers of 32 bits. */
  bool Integers(Key key, int32_t *values, size_t count) const;
  /* How many integers a vector has. */
  bool Length(Key key, size_t *count) const;
  /* One of a vector of maps. */
  bool Map(Key key, size_t index, Options *map) const;
  /* Null-terminated; "?" where there is none. */
  const char *Text(Key key) const;

 private:
  struct Value {
    size_t at;     /* where the value stands */
    uint8_t width; /* of it, bytes */
    uint8_t type;  /* FlexBuffers' type and width of what it refers to */
  };
  /* This is the map whose values stand there, `width` bytes each. */
  void SetMap(size_t values, size_t width);
  bool Find(Key key, Value *found) const;
  bool Unsigned(size_t at, size_t width, uint64_t *value) const;
  bool Signed(size_t at, size_t width, int64_t *value) const;
  /* Follows an offset that points back from where it stands. */
  bool Follow(size_t at, size_t width, size_t *target) const;

  const uint8_t *data_ = nullptr;
  size_t bytes_ = 0;
  size_t values_ = 0, keys_ = 0; /* where the map's values and key offsets stand */
  size_t width_ = 0, key_width_ = 0;
  size_t size_ = 0; /* entries */
};

}  // namespace rqdkm

#endif

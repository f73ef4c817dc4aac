// Choosing the k units with the largest scores of one token, exactly and with the lower index first among equals.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "top_k.h"

namespace dipc {

// Maps floats to integers of the same order. Zeros of either sign are equal, and NaN counts as +infinity.
inline uint32_t ordered(float value) {
  constexpr uint32_t kInfinity = 0xFF800000u;
  const float unsigned_zero = value + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &unsigned_zero, sizeof bits);
  const uint32_t flip = (bits >> 31) ? 0xFFFFFFFFu : 0x80000000u;
  return value != value ? kInfinity : bits ^ flip;
}

class Selector {
 public:
  explicit Selector(int64_t units) : units_(units), key_(units) { keys_.reserve(units); }

  // mask u8[U]: the k largest of score f32[U], those outside the cache scaled by gamma.
  void select(const float* score, const uint8_t* cached, int64_t k, float gamma, uint8_t* mask) {
    if (k == 0 || k == units_) {
      std::memset(mask, k != 0, units_);
      return;
    }
    const float factor[2] = {gamma, 1.0f};
    for (int64_t i = 0; i < units_; ++i) key_[i] = ordered(score[i] * factor[cached[i]]);
    keys_.assign(key_.begin(), key_.end());
    Cut<uint32_t> cut = find_cut(keys_, k);
    for (int64_t i = 0; i < units_; ++i) mask[i] = key_[i] > cut.value;
    for (int64_t i = 0; cut.ties > 0; ++i) {
      if (key_[i] != cut.value) continue;
      mask[i] = 1;
      --cut.ties;
    }
  }

 private:
  int64_t units_;
  std::vector<uint32_t> key_;   // [U]
  std::vector<uint32_t> keys_;  // a copy, consumed by find_cut
};

}  // namespace dipc

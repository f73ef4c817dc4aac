// Choosing the k units with the largest scores of one token, exactly and with the lower index first among equals.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "gemv_kernels.h"
#include "parallel.h"
#include "top_k.h"

namespace dipc {

class Selector {
 public:
  explicit Selector(int64_t units) : units_(units), key_(units), keys_(units + 16) {}

  // mask u8[U]: the k largest of score f32[U], those outside the cache scaled by gamma.
  void select(const float* score, const uint8_t* cached, int64_t k, float gamma, uint8_t* mask) {
    if (k == 0 || k == units_) {
      std::fill_n(mask, units_, static_cast<uint8_t>(k != 0));
      return;
    }
    kernels().order(score, cached, gamma, units_, key_.data());
    Cut<uint32_t> cut = narrow(k);
    kernels().mark_above(key_.data(), units_, cut.value, mask);
    for (int64_t i = 0; cut.ties > 0; ++i) {
      if (key_[i] != cut.value) continue;
      mask[i] = 1;
      --cut.ties;
    }
  }

 private:
  static constexpr int64_t kSample = 256;
  static constexpr int64_t kMargin = 24;  // three standard deviations of a rank in the sample

  // The cut, sought among the keys near the one that a sample puts there; among all where it was mistaken.
  Cut<uint32_t> narrow(int64_t k) {
    uint32_t low = 0, high = std::numeric_limits<uint32_t>::max();
    if (units_ >= 4 * kSample) {
      uint32_t sample[kSample];
      for (int64_t i = 0; i < kSample; ++i) sample[i] = key_[i * units_ / kSample];
      const int64_t rank = kSample - 1 - k * kSample / units_;
      if (rank - kMargin >= 0) low = ranked(sample, rank - kMargin);
      if (rank + kMargin < kSample) high = ranked(sample, rank + kMargin);
    }
    for (;; low = 0, high = std::numeric_limits<uint32_t>::max()) {
      int64_t found = 0;
      keys_.resize(units_ + 16);
      const int64_t above = kernels().between(key_.data(), units_, low, high, keys_.data(), &found);
      if (above >= k || above + found < k) continue;
      keys_.resize(found);
      return find_cut(keys_, k - above);
    }
  }

  static uint32_t ranked(uint32_t* sample, int64_t rank) {
    std::nth_element(sample, sample + rank, sample + kSample);
    return sample[rank];
  }

  int64_t units_;
  std::vector<uint32_t> key_;   // [U]
  std::vector<uint32_t> keys_;  // those among which the cut is sought, consumed by find_cut
};

// mask u8[T,U]: the k largest of each token's score f32[T,U]; all where `dense` u8[T], which may be null.
void select_topk(const float* score, const uint8_t* dense, int64_t tokens, int64_t units, int64_t k, uint8_t* mask,
                 Parallel& parallel);

}  // namespace dipc

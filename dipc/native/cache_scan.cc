// The weight cache: one update rule, used by the cache-aware selection (a scan over tokens) and by trace replay.
//
// The rule, its tiers and its tie-breaks are stated in README.md beside this file; the torch reference and this file
// must agree bit for bit.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "dipc_native.h"
#include "top_k.h"

namespace dipc {
namespace {

enum Policy : int { kNone = 0, kLru = 1, kLfu = 2 };

// Keys order as the reference's int64 keys do: tier * 2^50 + policy key. They are never negative.
constexpr int kTierShift = 50;
constexpr int kFreqShift = 25;

struct CacheState {
  uint8_t* cached;     // [U]
  int64_t* freq;       // [U]
  int64_t* last_used;  // [U]
  int64_t* t;          // [1]
};

class WeightCache {
 public:
  WeightCache(CacheState state, int64_t units, int64_t capacity, int policy)
      : state_(state),
        units_(units),
        capacity_(policy == kNone ? 0 : std::clamp<int64_t>(capacity, 0, units)),
        by_frequency_(policy == kLfu),
        key_(units) {
    keys_.reserve(units);
  }

  // Applies one token's mask, u8[U].
  void update(const uint8_t* mask) {
    const int64_t now = *state_.t;
    int64_t candidates = 0;
    for (int64_t i = 0; i < units_; ++i) {
      state_.freq[i] += mask[i];
      state_.last_used[i] = mask[i] ? now : state_.last_used[i];
      candidates += mask[i] | state_.cached[i];
    }
    *state_.t = now + 1;
    if (capacity_ == 0) {
      std::memset(state_.cached, 0, units_);
    } else if (candidates <= capacity_) {
      for (int64_t i = 0; i < units_; ++i) state_.cached[i] |= mask[i];
    } else {
      evict(mask);
    }
  }

 private:
  // Keeps the capacity_ candidates with the greatest key, the lower index first among equals.
  void evict(const uint8_t* mask) {
    keys_.resize(units_);
    size_t candidates = 0;
    for (int64_t i = 0; i < units_; ++i) {
      const uint64_t tier = 2 * mask[i] + state_.cached[i];
      const uint64_t recency = static_cast<uint64_t>(state_.last_used[i] + 1);
      const uint64_t frequency = by_frequency_ ? static_cast<uint64_t>(state_.freq[i]) << kFreqShift : 0;
      key_[i] = tier ? (tier << kTierShift) + frequency + recency : 0;
      keys_[candidates] = key_[i];
      candidates += tier != 0;
    }
    keys_.resize(candidates);
    Cut<uint64_t> cut = find_cut(keys_, capacity_);
    for (int64_t i = 0; i < units_; ++i) {
      const bool tie = key_[i] == cut.value && cut.ties > 0;
      cut.ties -= tie;
      state_.cached[i] = key_[i] > cut.value || tie;
    }
  }

  CacheState state_;
  int64_t units_;
  int64_t capacity_;
  bool by_frequency_;
  std::vector<uint64_t> key_;   // [U], 0 where a unit is no candidate
  std::vector<uint64_t> keys_;  // the candidates' keys, consumed by find_cut
};

// Maps floats to integers of the same order. Zeros of either sign are equal, and NaN comes above everything, as in a
// stable descending torch.sort.
inline uint32_t ordered(float value) {
  const float unsigned_zero = value + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &unsigned_zero, sizeof bits);
  const uint32_t flip = (bits >> 31) ? 0xFFFFFFFFu : 0x80000000u;
  return value != value ? 0xFFFFFFFFu : bits ^ flip;
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
    for (int64_t i = 0; i < units_; ++i) {
      const float discounted = score[i] * gamma;
      key_[i] = ordered(cached[i] ? score[i] : discounted);
    }
    keys_.assign(key_.begin(), key_.end());
    Cut<uint32_t> cut = find_cut(keys_, k);
    for (int64_t i = 0; i < units_; ++i) {
      const bool tie = key_[i] == cut.value && cut.ties > 0;
      cut.ties -= tie;
      mask[i] = key_[i] > cut.value || tie;
    }
  }

 private:
  int64_t units_;
  std::vector<uint32_t> key_;   // [U]
  std::vector<uint32_t> keys_;  // a copy, consumed by find_cut
};

bool is_policy(int policy) { return policy == kNone || policy == kLru || policy == kLfu; }

}  // namespace
}  // namespace dipc

DIPC_EXPORT int dipc_select_cache_aware(const float* score, const uint8_t* dense, uint8_t* cached, int64_t* freq,
                                        int64_t* last_used, int64_t* t, int64_t tokens, int64_t units, int64_t k,
                                        int64_t capacity, float gamma, int policy, uint8_t* mask_out) {
  using namespace dipc;
  if (tokens < 0 || units < 0 || k < 0 || k > units || !is_policy(policy)) return kBadArgument;
  try {
    WeightCache cache({cached, freq, last_used, t}, units, capacity, policy);
    Selector selector(units);
    for (int64_t token = 0; token < tokens; ++token) {
      uint8_t* mask = mask_out + token * units;
      if (dense != nullptr && dense[token]) {
        std::memset(mask, 1, units);
        continue;
      }
      selector.select(score + token * units, cached, k, gamma, mask);
      cache.update(mask);
    }
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

DIPC_EXPORT int dipc_cache_replay(const uint8_t* mask, int64_t tokens, int64_t units, int64_t capacity, int policy,
                                  int64_t* hits_out) {
  using namespace dipc;
  if (tokens < 0 || units < 0 || !is_policy(policy)) return kBadArgument;
  try {
    std::vector<uint8_t> cached(units, 0);
    std::vector<int64_t> freq(units, 0), last_used(units, -1);
    int64_t t = 0;
    WeightCache cache({cached.data(), freq.data(), last_used.data(), &t}, units, capacity, policy);
    for (int64_t token = 0; token < tokens; ++token) {
      const uint8_t* active = mask + token * units;
      int64_t hits = 0;
      for (int64_t i = 0; i < units; ++i) hits += active[i] & cached[i];
      hits_out[token] = hits;
      cache.update(active);
    }
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

DIPC_EXPORT int dipc_abi_version() { return dipc::kAbiVersion; }

// The weight cache: one update rule, used by the cache-aware selection (a scan over tokens) and by trace replay.
//
// The rule, its tiers and its tie-breaks are stated in README.md beside this file; the torch reference and this file
// must agree bit for bit.
#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "dipc_native.h"
#include "selector.h"
#include "top_k.h"

namespace dipc {
namespace {

enum Policy : int { kNone = 0, kLru = 1, kLfu = 2 };

constexpr int64_t kFrequencyWeight = int64_t{1} << 25;

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
        frequency_weight_(policy == kLfu ? kFrequencyWeight : 0),
        tier_(units),
        index_(units),
        keys_(units) {}

  // Applies one token's mask, u8[U].
  void update(const uint8_t* mask) {
    count_use(mask);
    int64_t active = 0, cached = 0, hits = 0;
    for (int64_t i = 0; i < units_; ++i) {
      active += mask[i];
      cached += state_.cached[i];
      hits += mask[i] & state_.cached[i];
    }
    for (int64_t i = 0; i < units_; ++i) tier_[i] = static_cast<uint8_t>(2 * mask[i] + state_.cached[i]);
    const int64_t size[4] = {0, cached - hits, active - hits, hits};
    // Tiers fill the cache in turn; all above `split` fit whole, and of `split` itself only `room` units do.
    int split = 3;
    int64_t room = capacity_;
    while (split > 0 && size[split] <= room) room -= size[split--];
    for (int64_t i = 0; i < units_; ++i) state_.cached[i] = tier_[i] > split;
    if (split > 0 && room > 0) admit(static_cast<uint8_t>(split), room);
  }

 private:
  void count_use(const uint8_t* mask) {
    const int64_t now = (*state_.t)++;
    for (int64_t i = 0; i < units_; ++i) {
      state_.freq[i] += mask[i];
      state_.last_used[i] += (now - state_.last_used[i]) * mask[i];  // a branch here is a coin toss, and costs more
    }
  }

  // Caches the `room` units of one tier with the greatest policy key, the lower index first among equals.
  void admit(uint8_t tier, int64_t room) {
    keys_.resize(units_);
    size_t members = 0;
    for (int64_t i = 0; i < units_; ++i) {
      index_[members] = i;
      keys_[members] = policy_key(i);
      members += tier_[i] == tier;
    }
    keys_.resize(members);
    Cut<int64_t> cut = find_cut(keys_, room);
    for (size_t j = 0; j < members; ++j) {
      const int64_t key = policy_key(index_[j]);
      const bool tie = key == cut.value && cut.ties > 0;
      cut.ties -= tie;
      state_.cached[index_[j]] = key > cut.value || tie;
    }
  }

  int64_t policy_key(int64_t i) const {
    return state_.freq[i] * frequency_weight_ + state_.last_used[i] + 1;
  }

  CacheState state_;
  int64_t units_;
  int64_t capacity_;
  int64_t frequency_weight_;
  std::vector<uint8_t> tier_;   // [U]
  std::vector<int64_t> index_;  // the units of the tier that is split, ascending
  std::vector<int64_t> keys_;   // their keys, consumed by find_cut
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
        std::fill_n(mask, units, uint8_t{1});
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

DIPC_EXPORT int dipc_cache_replay(const uint8_t* mask, uint8_t* cached, int64_t* freq, int64_t* last_used, int64_t* t,
                                  int64_t tokens, int64_t units, int64_t capacity, int policy, int64_t* hits_out) {
  using namespace dipc;
  if (tokens < 0 || units < 0 || !is_policy(policy)) return kBadArgument;
  try {
    WeightCache cache({cached, freq, last_used, t}, units, capacity, policy);
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

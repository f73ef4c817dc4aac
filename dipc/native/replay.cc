// Replay of a site's recorded masks through several weight caches at once, piece by piece.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <optional>
#include <vector>

#include "dipc_native.h"
#include "weight_cache.h"

namespace dipc {
namespace {

// Counts and times of use, which depend on the masks alone: caches that do not forget share them.
struct Uses {
  std::optional<Aligned<int32_t>> freq, last_used;

  int32_t* counts() const { return freq ? freq->data() : nullptr; }
  int32_t* times() const { return last_used ? last_used->data() : nullptr; }
};

class Case {
 public:
  Case(int policy, int64_t units, int64_t capacity, const Uses& shared, const int64_t* popularity)
      : words_(words_of(units)), forgets_(rule_of(policy).forgets), is_fixed_(policy == kStatic) {
    if (forgets_) own_.freq.emplace(words_ * kWordUnits);
    cache_.emplace(policy, units, capacity, forgets_ ? own_.counts() : shared.counts(), shared.times());
    if (cache_->capacity() == 0) is_fixed_ = true;
    if (policy == kStatic) preload(units, popularity);
  }

  int64_t replay(const uint64_t* mask, int64_t active, int32_t now, const CacheScratch& scratch) {
    const CacheKernels& kernel = cache_kernels();
    // The most popular units are there from the start, so none that is read is better.
    if (is_fixed_) return kernel.intersect(mask, cache_->cached(), words_, scratch.hit);
    if (forgets_) kernel.use(mask, words_, now, own_.counts(), nullptr);
    const int64_t hits = cache_->update(mask, active, scratch);
    if (forgets_) kernel.forget(cache_->cached(), words_, own_.counts());
    return hits;
  }

 private:
  void preload(int64_t units, const int64_t* popularity) {
    std::vector<int64_t> order(units);
    std::iota(order.begin(), order.end(), 0);
    const auto middle = order.begin() + cache_->capacity();
    std::nth_element(order.begin(), middle, order.end(), [&](int64_t a, int64_t b) {
      return popularity[a] != popularity[b] ? popularity[a] > popularity[b] : a < b;
    });
    for (auto unit = order.begin(); unit != middle; ++unit) {
      cache_->cached()[*unit / kWordUnits] |= uint64_t{1} << (*unit % kWordUnits);
    }
  }

  int64_t words_;
  bool forgets_;
  bool is_fixed_;  // the same units stay for ever
  Uses own_;
  std::optional<WeightCache> cache_;
};

}  // namespace
}  // namespace dipc

// Caches of one site.
struct dipc_replay {
  dipc_replay(int64_t units, const int32_t* policies, const int64_t* capacities, int64_t count,
              const int64_t* popularity)
      : units(units), words(dipc::words_of(units)), mask(words), scratch(words) {
    using namespace dipc;
    const auto any = [&](auto&& is_true) { return std::any_of(policies, policies + count, is_true); };
    const int64_t size = words * kWordUnits;
    if (any([](int32_t policy) { return policy == kLfu || policy == kLfuAdmission; })) uses.freq.emplace(size);
    if (any([](int32_t policy) { return policy >= kLru && policy <= kLfuAdmission; })) uses.last_used.emplace(size);
    if (uses.last_used) std::fill_n(uses.times(), size, -1);
    for (int64_t i = 0; i < count; ++i) cases.emplace_back(policies[i], units, capacities[i], uses, popularity);
  }

  void run(const uint8_t* packed, int64_t tokens, int64_t* hits, uint8_t* missed) {
    using namespace dipc;
    const CacheKernels& kernel = cache_kernels();
    const int64_t bytes = (units + 7) / 8;
    const CacheScratch room = scratch.view();
    for (int64_t token = 0; token < tokens; ++token) {
      kernel.unpack(packed + token * bytes, units, mask.data());
      const int64_t active = kernel.count(mask.data(), words);
      kernel.use(mask.data(), words, now, uses.counts(), uses.times());
      for (size_t i = 0; i < cases.size(); ++i) {
        const int64_t at = static_cast<int64_t>(i) * tokens + token;
        hits[at] = cases[i].replay(mask.data(), active, now, room);
        if (missed == nullptr) continue;
        for (int64_t w = 0; w < words; ++w) room.hit[w] ^= mask[w];
        kernel.pack(room.hit, units, missed + at * bytes);
      }
      ++now;
    }
  }

  int64_t units, words;
  int32_t now = 0;
  dipc::Uses uses;
  std::vector<dipc::Case> cases;
  dipc::Aligned<uint64_t> mask;
  dipc::Scratch scratch;
};

DIPC_EXPORT int dipc_replay_open(int64_t units, const int32_t* policies, const int64_t* capacities, int64_t cases,
                                 const int64_t* popularity, dipc_replay** replay) {
  using namespace dipc;
  if (units < 0 || cases < 0 || !std::all_of(policies, policies + cases, is_online)) return kBadArgument;
  if (popularity == nullptr && std::count(policies, policies + cases, kStatic) > 0) return kBadArgument;
  try {
    *replay = new dipc_replay(units, policies, capacities, cases, popularity);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

DIPC_EXPORT int dipc_replay_run(dipc_replay* replay, const uint8_t* packed, int64_t tokens, int64_t* hits,
                                uint8_t* missed) {
  using namespace dipc;
  if (tokens < 0 || tokens >= std::numeric_limits<int32_t>::max() - replay->now) return kBadArgument;
  replay->run(packed, tokens, hits, missed);
  return kOk;
}

DIPC_EXPORT void dipc_replay_close(dipc_replay* replay) { delete replay; }

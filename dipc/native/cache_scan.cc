// Cache-aware selection: a scan over tokens, each of which finds the cache that the one before it left.
//
// The rule, its tiers and its tie-breaks are stated in README.md beside this file; the torch reference and this file
// must agree bit for bit.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>

#include "dipc_native.h"
#include "selector.h"
#include "weight_cache.h"

namespace dipc {
namespace {

bool fits(const int64_t* values, int64_t count, int64_t most) {
  return std::all_of(values, values + count, [&](int64_t value) { return value >= -1 && value <= most; });
}

}  // namespace
}  // namespace dipc

DIPC_EXPORT int dipc_select_cache_aware(const float* score, const uint8_t* dense, uint8_t* cached, int64_t* freq,
                                        int64_t* last_used, int64_t* t, int64_t tokens, int64_t units, int64_t k,
                                        int64_t capacity, float gamma, int policy, uint8_t* mask_out) {
  using namespace dipc;
  if (tokens < 0 || units < 0 || k < 0 || k > units || !is_online(policy)) return kBadArgument;
  const int64_t most = std::numeric_limits<int32_t>::max() - tokens - 1;
  if (!fits(freq, units, most) || !fits(last_used, units, most) || !fits(t, 1, most)) return kBadArgument;
  try {
    const CacheKernels& kernel = cache_kernels();
    const Rule rule = rule_of(policy);
    const int64_t words = words_of(units);
    const Aligned<int32_t> counts(words * kWordUnits), times(words * kWordUnits);
    const Aligned<uint64_t> mask(words);
    const Scratch scratch(words);
    std::copy_n(freq, units, counts.data());
    std::copy_n(last_used, units, times.data());
    WeightCache cache(policy, units, capacity, counts.data(), times.data());
    kernel.from_bytes(cached, units, cache.cached());
    cache.recount();
    Selector selector(units);
    for (int64_t token = 0; token < tokens; ++token) {
      uint8_t* chosen = mask_out + token * units;
      if (dense != nullptr && dense[token]) {
        std::fill_n(chosen, units, uint8_t{1});
        continue;
      }
      selector.select(score + token * units, cached, k, gamma, chosen);
      kernel.from_bytes(chosen, units, mask.data());
      kernel.use(mask.data(), words, static_cast<int32_t>((*t)++), rule.counts ? counts.data() : nullptr, times.data());
      cache.update(mask.data(), k, scratch.view());
      if (rule.forgets) kernel.forget(cache.cached(), words, counts.data());
      kernel.to_bytes(cache.cached(), units, cached);
    }
    std::copy_n(counts.data(), units, freq);
    std::copy_n(times.data(), units, last_used);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

DIPC_EXPORT int dipc_abi_version() { return dipc::kAbiVersion; }

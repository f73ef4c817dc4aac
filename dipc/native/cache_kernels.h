// What an instruction set has to offer for the weight cache: the inner loops of replay and of the closed loop.
//
// Sets of units are bits: unit i is bit i % 64 of word i / 64, and bits past U are 0. Arrays by unit have room for whole
// words. W = ceil(U / 64).
#pragma once

#include <cstdint>

namespace dipc {

constexpr int64_t kWordUnits = 64;

inline int64_t words_of(int64_t units) { return (units + kWordUnits - 1) / kWordUnits; }

// Where a key was cut last: the next cut is looked for near it.
struct Guess {
  int32_t first = 0;
  int32_t second = 0;
};

// One cache, and the order in which its units stay: by `first`, then `second`, then the lower index.
struct CacheView {
  int64_t capacity;
  int64_t size;           // units in `cached`
  uint64_t* cached;       // [W]
  const int32_t* first;   // [64 W], the greater stays
  const int32_t* second;  // likewise among equals of `first`; null: the lower index
  int32_t drift;          // how much a cut of `first` grows from token to token, as a rule
  bool protects;          // touched units stay before all others
  Guess held, fresh;      // cuts among units that were not touched, and among touched ones (or all, unprotected)
};

// Room for what an update works with.
struct CacheScratch {
  uint64_t* hit;         // [W], after an update: the touched units that were cached
  uint64_t* candidates;  // [W]
  uint64_t* above[2];    // [W] each
  uint64_t* ties[2];     // [W] each
};

struct CacheKernels {
  // mask[W] = a token's units as a trace packs them: unit 0 is the highest bit of byte 0.
  void (*unpack)(const uint8_t* packed, int64_t units, uint64_t* mask);
  // The other way round.
  void (*pack)(const uint64_t* mask, int64_t units, uint8_t* packed);
  // mask[W] = the units whose byte, 0 or 1, is set; and the other way round.
  void (*from_bytes)(const uint8_t* bytes, int64_t units, uint64_t* mask);
  void (*to_bytes)(const uint64_t* mask, int64_t units, uint8_t* bytes);
  int64_t (*count)(const uint64_t* mask, int64_t words);
  // common[W] = the units of both; returns how many.
  int64_t (*intersect)(const uint64_t* mask, const uint64_t* other, int64_t words, uint64_t* common);
  // freq[i] += 1 and last_used[i] = now for the units of the mask; either array may be null.
  void (*use)(const uint64_t* mask, int64_t words, int32_t now, int32_t* freq, int32_t* last_used);
  // freq[i] = 0 for units outside of `cached`.
  void (*forget)(const uint64_t* cached, int64_t words, int32_t* freq);
  // A token's update, after `use`; returns its hits. `active` units are in the mask.
  int64_t (*update)(CacheView& cache, const uint64_t* mask, int64_t active, int64_t words, const CacheScratch& scratch);
  // Moves times[i] of the units of the mask behind one another to `out`, sets them to `now`; returns how many.
  int64_t (*take)(const uint64_t* mask, int64_t words, int32_t now, int32_t* times, int32_t* out);
  // The next values from `in` to keys[i] of the units of the mask; returns how many.
  int64_t (*give)(const uint64_t* mask, int64_t words, const int32_t* in, int32_t* keys);
};

// Those of the instruction set in use.
const CacheKernels& cache_kernels();

const CacheKernels& portable_cache_kernels();
#if defined(DIPC_X86)
const CacheKernels& avx2_cache_kernels();
const CacheKernels& avx512_cache_kernels();
#endif

}  // namespace dipc

// The cache's update on sets of bits, over the vectors of an instruction set (`Simd`). Everything is in an unnamed
// namespace, so that code compiled for one processor is never linked for another.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "cache_kernels.h"

#if defined(__GNUC__)
#define DIPC_INLINE inline __attribute__((always_inline))
#else
#define DIPC_INLINE inline
#endif

namespace dipc {
namespace {

// Ties of up to so many units are ranked one against the other; more are cut by their second key.
constexpr int64_t kFew = 64;

DIPC_INLINE int64_t ones(uint64_t word) {
#if defined(__GNUC__)
  return __builtin_popcountll(word);
#else
  int64_t count = 0;
  for (; word; word &= word - 1) ++count;
  return count;
#endif
}

DIPC_INLINE int lowest(uint64_t word) {
#if defined(__GNUC__)
  return __builtin_ctzll(word);
#else
  int at = 0;
  while (!(word >> at & 1)) ++at;
  return at;
#endif
}

// The bits of every byte in reverse.
DIPC_INLINE uint64_t reversed(uint64_t x) {
  x = (x >> 1 & 0x5555555555555555) | (x & 0x5555555555555555) << 1;
  x = (x >> 2 & 0x3333333333333333) | (x & 0x3333333333333333) << 2;
  return (x >> 4 & 0x0F0F0F0F0F0F0F0F) | (x & 0x0F0F0F0F0F0F0F0F) << 4;
}

template <class Simd>
struct CacheLoops {
  static void unpack(const uint8_t* packed, int64_t units, uint64_t* mask) {
    const int64_t whole = units / kWordUnits, rest = units % kWordUnits;
    for (int64_t w = 0; w < whole; ++w) {
      uint64_t word;  // byte i holds units 8 i to 8 i + 7 on little-endian machines, which all supported ones are
      std::memcpy(&word, packed + 8 * w, 8);
      mask[w] = reversed(word);
    }
    if (rest == 0) return;
    uint64_t word = 0;
    std::memcpy(&word, packed + 8 * whole, (rest + 7) / 8);
    mask[whole] = reversed(word) & ((uint64_t{1} << rest) - 1);
  }

  static void pack(const uint64_t* mask, int64_t units, uint8_t* packed) {
    const int64_t whole = units / kWordUnits, rest = units % kWordUnits;
    for (int64_t w = 0; w < whole; ++w) {
      const uint64_t word = reversed(mask[w]);
      std::memcpy(packed + 8 * w, &word, 8);
    }
    if (rest == 0) return;
    const uint64_t word = reversed(mask[whole]);
    std::memcpy(packed + 8 * whole, &word, (rest + 7) / 8);
  }

  static void from_bytes(const uint8_t* bytes, int64_t units, uint64_t* mask) {
    int64_t i = 0;
    for (; i + kWordUnits <= units; i += kWordUnits) mask[i / kWordUnits] = Simd::bits(bytes + i);
    if (i == units) return;
    uint8_t rest[kWordUnits] = {};
    std::memcpy(rest, bytes + i, units - i);
    mask[i / kWordUnits] = Simd::bits(rest);
  }

  static void to_bytes(const uint64_t* mask, int64_t units, uint8_t* bytes) {
    int64_t i = 0;
    for (; i + kWordUnits <= units; i += kWordUnits) Simd::bytes(mask[i / kWordUnits], bytes + i);
    if (i == units) return;
    uint8_t rest[kWordUnits];
    Simd::bytes(mask[i / kWordUnits], rest);
    std::memcpy(bytes + i, rest, units - i);
  }

  static int64_t count(const uint64_t* mask, int64_t words) {
    int64_t total = 0;
    for (int64_t w = 0; w < words; ++w) total += ones(mask[w]);
    return total;
  }

  static int64_t intersect(const uint64_t* mask, const uint64_t* other, int64_t words, uint64_t* common) {
    int64_t total = 0;
    for (int64_t w = 0; w < words; ++w) {
      common[w] = mask[w] & other[w];
      total += ones(common[w]);
    }
    return total;
  }

  static void use(const uint64_t* mask, int64_t words, int32_t now, int32_t* freq, int32_t* last_used) {
    for (int64_t w = 0; freq != nullptr && w < words; ++w) Simd::add_one(freq + kWordUnits * w, mask[w]);
    for (int64_t w = 0; last_used != nullptr && w < words; ++w) Simd::set(last_used + kWordUnits * w, mask[w], now);
  }

  static void forget(const uint64_t* cached, int64_t words, int32_t* freq) {
    for (int64_t w = 0; w < words; ++w) Simd::set(freq + kWordUnits * w, ~cached[w], 0);
  }

  static int64_t update(CacheView& cache, const uint64_t* mask, int64_t active, int64_t words,
                        const CacheScratch& scratch) {
    const int64_t hits = intersect(mask, cache.cached, words, scratch.hit);
    const int64_t candidates = cache.size + active - hits;
    if (candidates <= cache.capacity) {
      for (int64_t w = 0; w < words; ++w) cache.cached[w] |= mask[w];
      cache.size = candidates;
      return hits;
    }
    // Protected, tiers fill the space in turn: hits, new units, held ones. All but one fit whole or not at all.
    if (!cache.protects) {
      for (int64_t w = 0; w < words; ++w) scratch.candidates[w] = cache.cached[w] | mask[w];
      keep_best(cache, cache.capacity, cache.fresh, words, scratch);
      std::memcpy(cache.cached, scratch.above[0], words * sizeof(uint64_t));
    } else if (active <= cache.capacity) {
      for (int64_t w = 0; w < words; ++w) scratch.candidates[w] = cache.cached[w] & ~mask[w];
      keep_best(cache, cache.capacity - active, cache.held, words, scratch);
      for (int64_t w = 0; w < words; ++w) cache.cached[w] = mask[w] | scratch.above[0][w];
    } else if (hits > cache.capacity) {  // a state from a larger cache
      std::memcpy(scratch.candidates, scratch.hit, words * sizeof(uint64_t));
      keep_best(cache, cache.capacity, cache.held, words, scratch);
      std::memcpy(cache.cached, scratch.above[0], words * sizeof(uint64_t));
    } else {
      for (int64_t w = 0; w < words; ++w) scratch.candidates[w] = mask[w] & ~cache.cached[w];
      keep_best(cache, cache.capacity - hits, cache.fresh, words, scratch);
      for (int64_t w = 0; w < words; ++w) cache.cached[w] = scratch.hit[w] | scratch.above[0][w];
    }
    cache.size = cache.capacity;
    return hits;
  }

  // above[0] = the `room` best of the candidates, of which there are at least as many.
  static void keep_best(const CacheView& cache, int64_t room, Guess& guess, int64_t words,
                        const CacheScratch& scratch) {
    uint64_t *best = scratch.above[0], *ties = scratch.ties[0];
    if (room == 0) {
      std::memset(best, 0, words * sizeof(uint64_t));
      return;
    }
    guess.first += cache.drift;
    const Parted parted = part(scratch.candidates, cache.first, room, guess.first, words, best, ties);
    room -= parted.above;
    if (room == 0) return;
    if (room == parted.tied) {
      for (int64_t w = 0; w < words; ++w) best[w] |= ties[w];
    } else if (cache.second == nullptr) {
      add_first(ties, room, best);
    } else if (parted.tied <= kFew) {
      add_best_of_few(ties, parted.tied, cache.second, room, words, best);
    } else {
      const Parted second = part(ties, cache.second, room, guess.second, words, scratch.above[1], scratch.ties[1]);
      for (int64_t w = 0; w < words; ++w) best[w] |= scratch.above[1][w];
      add_first(scratch.ties[1], room - second.above, best);
    }
  }

  struct Parted {
    int64_t above, tied;
  };

  // Finds a cut with at most `room` keys above it, and at least as many above and at it. It is near the one before.
  static Parted part(const uint64_t* from, const int32_t* key, int64_t room, int32_t& cut, int64_t words,
                     uint64_t* above, uint64_t* ties) {
    int64_t low = std::numeric_limits<int32_t>::min(), high = std::numeric_limits<int32_t>::max();
    bool is_low_known = false, is_high_known = false;
    for (int64_t step = 1, at = cut;; step *= 2) {
      const Parted found = part_at(from, key, static_cast<int32_t>(at), words, above, ties);
      cut = static_cast<int32_t>(at);
      if (found.above > room) {
        low = at + 1, is_low_known = true;
      } else if (found.above + found.tied < room) {
        high = at - 1, is_high_known = true;
      } else {
        return found;
      }
      if (is_low_known && is_high_known) {
        at = low + (high - low) / 2;
      } else if (is_low_known) {
        at = high - low < step ? high : low + step - 1;
      } else {
        at = high - low < step ? low : high - step + 1;
      }
    }
  }

  static Parted part_at(const uint64_t* from, const int32_t* key, int32_t cut, int64_t words, uint64_t* above,
                        uint64_t* ties) {
    int64_t count_above = 0, tied = 0;
    for (int64_t w = 0; w < words; ++w) {
      uint64_t greater, equal;
      Simd::compare(key + kWordUnits * w, cut, greater, equal);
      above[w] = greater & from[w];
      ties[w] = equal & from[w];
      count_above += ones(above[w]);
      tied += ones(ties[w]);
    }
    return {count_above, tied};
  }

  // Adds the `room` lowest units of the ties, which are at least as many.
  static void add_first(const uint64_t* ties, int64_t room, uint64_t* best) {
    for (int64_t w = 0; room > 0; ++w) {
      uint64_t word = ties[w];
      const int64_t count = ones(word);
      if (count <= room) {
        best[w] |= word;
        room -= count;
      } else {
        for (; room > 0; --room, word &= word - 1) best[w] |= word & (~word + 1);
      }
    }
  }

  // Adds the `room` ties with the greatest key, the lower index first among equals.
  static void add_best_of_few(const uint64_t* ties, int64_t tied, const int32_t* key, int64_t room, int64_t words,
                              uint64_t* best) {
    int64_t rank[kFew];  // key above index: all differ
    int64_t found = 0;
    for (int64_t w = 0; found < tied && w < words; ++w) {
      for (uint64_t word = ties[w]; word; word &= word - 1) {
        const int64_t unit = kWordUnits * w + lowest(word);
        rank[found++] = static_cast<int64_t>(key[unit]) * (int64_t{1} << 32) - unit;
      }
    }
    for (int64_t i = 0; i < tied; ++i) {
      int64_t better = 0;
      for (int64_t j = 0; j < tied; ++j) better += rank[j] > rank[i];
      const int64_t unit = -rank[i] & 0xFFFFFFFF;
      best[unit / kWordUnits] |= static_cast<uint64_t>(better < room) << (unit % kWordUnits);
    }
  }

  static int64_t take(const uint64_t* mask, int64_t words, int32_t now, int32_t* times, int32_t* out) {
    int64_t taken = 0;
    for (int64_t w = 0; w < words; ++w) {
      taken += Simd::compress(times + kWordUnits * w, mask[w], out + taken);
      Simd::set(times + kWordUnits * w, mask[w], now);
    }
    return taken;
  }

  static int64_t give(const uint64_t* mask, int64_t words, const int32_t* in, int32_t* keys) {
    int64_t given = 0;
    for (int64_t w = 0; w < words; ++w) given += Simd::expand(in + given, mask[w], keys + kWordUnits * w);
    return given;
  }

  static const CacheKernels& table() {
    static const CacheKernels kernels = {unpack, pack,   from_bytes, to_bytes, count, intersect,
                                         use,    forget, update,     take,     give};
    return kernels;
  }
};

// What has no vectors of its own: one unit after the other.
struct UnitByUnit {
  static int64_t compress(const int32_t* from, uint64_t mask, int32_t* out) {
    int64_t count = 0;
    for (; mask; mask &= mask - 1) out[count++] = from[lowest(mask)];
    return count;
  }
  static int64_t expand(const int32_t* in, uint64_t mask, int32_t* to) {
    int64_t count = 0;
    for (; mask; mask &= mask - 1) to[lowest(mask)] = in[count++];
    return count;
  }
  static uint64_t bits(const uint8_t* bytes) {
    uint64_t word = 0;
    for (int i = 0; i < kWordUnits; i += 8) {
      uint64_t eight;
      std::memcpy(&eight, bytes + i, 8);
      word |= (eight * 0x0102040810204080 >> 56) << i;  // byte j of eight becomes bit j
    }
    return word;
  }
  static void bytes(uint64_t word, uint8_t* out) {
    for (int i = 0; i < kWordUnits; ++i) out[i] = word >> i & 1;
  }
};

}  // namespace
}  // namespace dipc

// Belady's rules on a recorded trace: of the cached and the touched units, those whose next use is nearest stay; or of
// the cached ones, once what is touched has come in.
//
// Next uses are known from the end. A pass from the end to the start notes, at the start of every block of tokens, when
// each unit is used next; then each block in turn is run through backwards from the note behind it, which tells the next
// use of what its tokens touch, and forwards with the caches. Blocks of sqrt(T) tokens make notes and blocks equally large.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "dipc_native.h"
#include "weight_cache.h"

namespace dipc {
namespace {

// Times are negative, so that the nearest is the greatest key.
constexpr int32_t kNever = std::numeric_limits<int32_t>::min() / 2;

class Belady {
 public:
  Belady(const uint8_t* packed, int64_t tokens, int64_t units, const int32_t* policies, const int64_t* capacities,
         int64_t count)
      : packed_(packed),
        tokens_(tokens),
        units_(units),
        words_(words_of(units)),
        block_(std::max<int64_t>(16, static_cast<int64_t>(std::sqrt(static_cast<double>(tokens))))),
        blocks_((tokens + block_ - 1) / block_),
        mask_(words_),
        scratch_(words_),
        next_(size()),
        keys_(size()),
        notes_(size() * std::max<int64_t>(blocks_, 1)) {
    std::fill_n(next_.data(), size(), kNever);
    std::fill_n(keys_.data(), size(), kNever);
    for (int64_t i = 0; i < count; ++i) {
      caches_.emplace_back(policies[i], units, capacities[i], nullptr, nullptr, keys_.data());
    }
  }

  void run(int64_t* hits, uint8_t* missed) {
    note_blocks();
    for (int64_t b = 0; b < blocks_; ++b) {
      find_next_uses(b);
      replay(b, hits, missed);
    }
  }

 private:
  int64_t size() const { return words_ * kWordUnits; }
  int64_t bytes() const { return (units_ + 7) / 8; }
  int64_t begin_of(int64_t block) const { return block * block_; }
  int64_t end_of(int64_t block) const { return std::min(tokens_, (block + 1) * block_); }
  // Next uses seen from the end of a block, [64 W].
  int32_t* note(int64_t block) const { return notes_.data() + block * size(); }

  void read(int64_t token) { cache_kernels().unpack(packed_ + token * bytes(), units_, mask_.data()); }

  void note_blocks() {
    for (int64_t b = blocks_ - 1; b >= 0; --b) {
      std::copy_n(next_.data(), size(), note(b));
      for (int64_t token = end_of(b) - 1; token >= begin_of(b); --token) {
        read(token);
        cache_kernels().use(mask_.data(), words_, static_cast<int32_t>(-token), nullptr, next_.data());
      }
    }
  }

  // uses_ = of every token of the block, the last one first, the next uses of the units it touches.
  void find_next_uses(int64_t b) {
    std::copy_n(note(b), size(), next_.data());
    starts_.clear();
    int64_t found = 0;
    for (int64_t token = end_of(b) - 1; token >= begin_of(b); --token) {
      read(token);
      uses_.resize(std::max<size_t>(uses_.size(), found + size() + kWordUnits));
      starts_.push_back(found);
      found += cache_kernels().take(mask_.data(), words_, static_cast<int32_t>(-token), next_.data(), uses_.data() + found);
    }
  }

  void replay(int64_t b, int64_t* hits, uint8_t* missed) {
    const CacheScratch room = scratch_.view();
    for (int64_t token = begin_of(b); token < end_of(b); ++token) {
      read(token);
      const int64_t active =
          cache_kernels().give(mask_.data(), words_, uses_.data() + starts_[end_of(b) - 1 - token], keys_.data());
      for (size_t i = 0; i < caches_.size(); ++i) {
        const int64_t at = static_cast<int64_t>(i) * tokens_ + token;
        hits[at] = caches_[i].update(mask_.data(), active, room);
        if (missed == nullptr) continue;
        for (int64_t w = 0; w < words_; ++w) room.hit[w] ^= mask_[w];
        cache_kernels().pack(room.hit, units_, missed + at * bytes());
      }
    }
  }

  const uint8_t* packed_;
  int64_t tokens_, units_, words_, block_, blocks_;
  Aligned<uint64_t> mask_;
  Scratch scratch_;
  Aligned<int32_t> next_;        // next uses, while running backwards
  Aligned<int32_t> keys_;        // next uses, while running forwards
  Aligned<int32_t> notes_;       // [blocks, 64 W]
  std::vector<int32_t> uses_;
  std::vector<int64_t> starts_;  // where the uses of a token start
  std::vector<WeightCache> caches_;
};

}  // namespace
}  // namespace dipc

DIPC_EXPORT int dipc_replay_belady(const uint8_t* packed, int64_t tokens, int64_t units, const int32_t* policies,
                                   const int64_t* capacities, int64_t cases, int64_t* hits, uint8_t* missed) {
  using namespace dipc;
  if (tokens < 0 || tokens >= -static_cast<int64_t>(kNever) || units < 0 || cases < 0 || !std::all_of(policies, policies + cases, knows_future)) {
    return kBadArgument;
  }
  try {
    Belady(packed, tokens, units, policies, capacities, cases).run(hits, missed);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

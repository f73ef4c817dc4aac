// The weight cache of one site under one policy, and the memory that caches of a site share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#include "cache_kernels.h"

namespace dipc {

// The numbers of the C interface.
enum Policy : int {
  kNone = 0,
  kLru = 1,
  kLfu = 2,
  kLfuInCache = 3,
  kLfuAdmission = 4,
  kStatic = 5,
  kBelady = 6,        // in replay alone, like the next one: they know the next tokens
  kBeladyDemand = 7,  // what is touched comes in
};

inline bool is_online(int policy) { return policy >= kNone && policy <= kStatic; }
inline bool knows_future(int policy) { return policy == kBelady || policy == kBeladyDemand; }

// What sets policies apart; README.md states the rule.
struct Rule {
  bool protects;  // touched units stay before all others
  bool counts;    // freq counts tokens
  bool forgets;   // freq of units outside of the cache becomes 0
};

inline Rule rule_of(int policy) {
  return {policy < kLfuAdmission || policy == kBeladyDemand, policy < kStatic, policy == kLfuInCache};
}

// Zeros, at the start of a cache line.
template <class T>
class Aligned {
 public:
  explicit Aligned(int64_t size) : data_(allocate(size)) { std::fill_n(data_.get(), size, T{}); }
  T* data() const { return data_.get(); }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(T* data) const { ::operator delete(data, kLine); }
  };
  static T* allocate(int64_t size) { return static_cast<T*>(::operator new(std::max<int64_t>(size, 1) * sizeof(T), kLine)); }

  std::unique_ptr<T[], Free> data_;
};

class Scratch {
 public:
  explicit Scratch(int64_t words) : words_(words), memory_(6 * words) {}
  CacheScratch view() const {
    return {part(0), part(1), {part(2), part(3)}, {part(4), part(5)}};
  }

 private:
  uint64_t* part(int64_t i) const { return memory_.data() + i * words_; }

  int64_t words_;
  Aligned<uint64_t> memory_;
};

class WeightCache {
 public:
  // Units stay by the keys of `policy`, made of `freq` and `last_used`, or where it knows the future by `next_use`: all [64 W].
  WeightCache(int policy, int64_t units, int64_t capacity, const int32_t* freq, const int32_t* last_used,
              const int32_t* next_use = nullptr)
      : words_(words_of(units)), cached_(words_) {
    view_ = {};
    view_.capacity = policy == kNone ? 0 : std::clamp<int64_t>(capacity, 0, units);
    view_.cached = cached_.data();
    view_.protects = rule_of(policy).protects;
    if (policy == kLru) {
      view_.first = last_used, view_.drift = 1;
    } else if (knows_future(policy)) {
      view_.first = next_use, view_.drift = -1;  // keys are negative times
    } else {
      view_.first = freq, view_.second = policy == kStatic ? nullptr : last_used;
    }
  }

  uint64_t* cached() const { return cached_.data(); }
  int64_t capacity() const { return view_.capacity; }

  // To be called where `cached` was written to.
  void recount() { view_.size = cache_kernels().count(cached_.data(), words_); }

  // A token's hits, which `scratch.hit` has then. Its mask counts in freq and last_used already.
  int64_t update(const uint64_t* mask, int64_t active, const CacheScratch& scratch) {
    return cache_kernels().update(view_, mask, active, words_, scratch);
  }

 private:
  int64_t words_;
  Aligned<uint64_t> cached_;
  CacheView view_;
};

}  // namespace dipc

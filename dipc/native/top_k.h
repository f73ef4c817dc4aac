// The k-th largest of many integer keys, without sorting them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dipc {

// A cut: every key above `value` is chosen, and the first `ties` keys equal to it in index order.
template <class Key>
struct Cut {
  Key value;
  int64_t ties;
};

// Where to cut `keys` so that exactly `k` are chosen, 1 <= k <= keys.size(). `keys` is consumed.
//
// Each round spreads the remaining keys over buckets between their least and greatest and keeps the bucket that holds
// the k-th. The buckets follow the keys' own range, so the exponent-heavy bit patterns of floats split well, and equal
// keys end the search at once.
template <class Key>
Cut<Key> find_cut(std::vector<Key>& keys, int64_t k) {
  constexpr int kBucketBits = 11;
  int64_t count[1 << kBucketBits];
  for (;;) {
    Key low = keys[0], high = keys[0];
    for (const Key key : keys) {
      low = std::min(low, key);
      high = std::max(high, key);
    }
    if (low == high) return {low, k};
    int shift = 0;
    while ((high - low) >> shift >> kBucketBits) ++shift;
    const size_t buckets = static_cast<size_t>((high - low) >> shift) + 1;
    std::fill_n(count, buckets, 0);
    for (const Key key : keys) ++count[(key - low) >> shift];
    size_t bucket = buckets - 1;
    while (count[bucket] < k) k -= count[bucket--];
    size_t kept = 0;
    for (const Key key : keys) {
      keys[kept] = key;
      kept += static_cast<size_t>((key - low) >> shift) == bucket;
    }
    keys.resize(kept);
  }
}

}  // namespace dipc

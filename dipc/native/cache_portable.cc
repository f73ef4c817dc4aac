// The weight cache for any processor.
#include "cache_generic.h"

namespace dipc {
namespace {

struct Plain : UnitByUnit {
  static void add_one(int32_t* values, uint64_t mask) {
    for (int i = 0; i < kWordUnits; ++i) values[i] += static_cast<int32_t>(mask >> i & 1);
  }
  static void set(int32_t* values, uint64_t mask, int32_t value) {
    for (int i = 0; i < kWordUnits; ++i) values[i] = mask >> i & 1 ? value : values[i];
  }
  static void compare(const int32_t* key, int32_t cut, uint64_t& greater, uint64_t& equal) {
    greater = equal = 0;
    for (int i = 0; i < kWordUnits; ++i) {
      greater |= static_cast<uint64_t>(key[i] > cut) << i;
      equal |= static_cast<uint64_t>(key[i] == cut) << i;
    }
  }
};

}  // namespace

const CacheKernels& portable_cache_kernels() { return CacheLoops<Plain>::table(); }

}  // namespace dipc

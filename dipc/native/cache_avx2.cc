// The weight cache with AVX2.
#include <immintrin.h>

#include "cache_generic.h"

namespace dipc {
namespace {

constexpr int kLanes = 8;

DIPC_INLINE __m256i load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
DIPC_INLINE void store(int32_t* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

// All ones in the lanes whose bit is set.
DIPC_INLINE __m256i lanes(uint64_t mask) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int32_t>(mask & 0xFF)), bit), bit);
}

DIPC_INLINE uint64_t signs(__m256i v) { return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(v))); }

struct Simd : UnitByUnit {
  DIPC_INLINE static void add_one(int32_t* values, uint64_t mask) {
    for (int i = 0; i < kWordUnits; i += kLanes) {
      store(values + i, _mm256_sub_epi32(load(values + i), lanes(mask >> i)));
    }
  }
  DIPC_INLINE static void set(int32_t* values, uint64_t mask, int32_t value) {
    const __m256i all = _mm256_set1_epi32(value);
    for (int i = 0; i < kWordUnits; i += kLanes) {
      store(values + i, _mm256_blendv_epi8(load(values + i), all, lanes(mask >> i)));
    }
  }
  DIPC_INLINE static void compare(const int32_t* key, int32_t cut, uint64_t& greater, uint64_t& equal) {
    const __m256i at = _mm256_set1_epi32(cut);
    greater = equal = 0;
    for (int i = 0; i < kWordUnits; i += kLanes) {
      greater |= signs(_mm256_cmpgt_epi32(load(key + i), at)) << i;
      equal |= signs(_mm256_cmpeq_epi32(load(key + i), at)) << i;
    }
  }
};

}  // namespace

const CacheKernels& avx2_cache_kernels() { return CacheLoops<Simd>::table(); }

}  // namespace dipc

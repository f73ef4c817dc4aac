// The weight cache with AVX-512.
#include <immintrin.h>

#include "cache_generic.h"

namespace dipc {
namespace {

constexpr int kLanes = 16;

DIPC_INLINE __mmask16 lanes(uint64_t mask) { return static_cast<__mmask16>(mask); }

DIPC_INLINE uint64_t joined(__mmask16 a, __mmask16 b, __mmask16 c, __mmask16 d) {
  return _cvtmask64_u64(_mm512_kunpackd(_mm512_kunpackw(d, c), _mm512_kunpackw(b, a)));
}

struct Simd {
  DIPC_INLINE static void add_one(int32_t* values, uint64_t mask) {
    const __m512i one = _mm512_set1_epi32(1);
    for (int i = 0; i < kWordUnits; i += kLanes) {
      const __m512i v = _mm512_loadu_si512(values + i);
      _mm512_storeu_si512(values + i, _mm512_mask_add_epi32(v, lanes(mask >> i), v, one));
    }
  }
  DIPC_INLINE static void set(int32_t* values, uint64_t mask, int32_t value) {
    const __m512i all = _mm512_set1_epi32(value);
    for (int i = 0; i < kWordUnits; i += kLanes) {
      const __m512i v = _mm512_loadu_si512(values + i);
      _mm512_storeu_si512(values + i, _mm512_mask_mov_epi32(v, lanes(mask >> i), all));
    }
  }
  DIPC_INLINE static void compare(const int32_t* key, int32_t cut, uint64_t& greater, uint64_t& equal) {
    const __m512i at = _mm512_set1_epi32(cut);
    const __m512i a = _mm512_loadu_si512(key), b = _mm512_loadu_si512(key + kLanes);
    const __m512i c = _mm512_loadu_si512(key + 2 * kLanes), d = _mm512_loadu_si512(key + 3 * kLanes);
    greater = joined(_mm512_cmpgt_epi32_mask(a, at), _mm512_cmpgt_epi32_mask(b, at), _mm512_cmpgt_epi32_mask(c, at),
                     _mm512_cmpgt_epi32_mask(d, at));
    equal = joined(_mm512_cmpeq_epi32_mask(a, at), _mm512_cmpeq_epi32_mask(b, at), _mm512_cmpeq_epi32_mask(c, at),
                   _mm512_cmpeq_epi32_mask(d, at));
  }
  // Writes whole vectors: `out` has room for 16 more.
  DIPC_INLINE static int64_t compress(const int32_t* from, uint64_t mask, int32_t* out) {
    int64_t count = 0;
    for (int i = 0; i < kWordUnits; i += kLanes) {
      _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi32(lanes(mask >> i), _mm512_loadu_si512(from + i)));
      count += ones(mask >> i & 0xFFFF);
    }
    return count;
  }
  // Reads whole vectors.
  DIPC_INLINE static int64_t expand(const int32_t* in, uint64_t mask, int32_t* to) {
    int64_t count = 0;
    for (int i = 0; i < kWordUnits; i += kLanes) {
      const __m512i v = _mm512_loadu_si512(to + i);
      _mm512_storeu_si512(to + i, _mm512_mask_expand_epi32(v, lanes(mask >> i), _mm512_loadu_si512(in + count)));
      count += ones(mask >> i & 0xFFFF);
    }
    return count;
  }
  DIPC_INLINE static uint64_t bits(const uint8_t* bytes) {
    const __m512i v = _mm512_loadu_si512(bytes);
    return _cvtmask64_u64(_mm512_test_epi8_mask(v, v));
  }
  DIPC_INLINE static void bytes(uint64_t word, uint8_t* out) {
    _mm512_storeu_si512(out, _mm512_maskz_set1_epi8(_cvtu64_mask64(word), 1));
  }
};

}  // namespace

const CacheKernels& avx512_cache_kernels() { return CacheLoops<Simd>::table(); }

}  // namespace dipc

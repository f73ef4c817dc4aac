// Selection and the sparse products with AVX-512.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // of values that the compiler's own header leaves open on purpose
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "gemv_avx512_codes.h"
#include "gemv_generic.h"
#include "gemv_panel.h"

namespace dipc {
namespace {

struct Simd {
  using Vector = __m512;
  static constexpr int64_t kLanes = 16;
  static constexpr int kVectors = 4;
  static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static Vector all(float value) { return _mm512_set1_ps(value); }
  static Vector add_product(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
};

struct VectorFloat32 : AsFloat32 {
  static __m512 vector(const float* p) { return _mm512_loadu_ps(p); }
};
struct VectorFloat16 : AsFloat16 {
  static __m512 vector(const uint16_t* p) { return load_half(p); }
};
struct VectorBfloat16 : AsBfloat16 {
  static __m512 vector(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
};

int64_t find_kept_512(const float* values, const uint8_t* mask, int64_t units, int32_t* unit, float* x) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t count = 0;
  for (int64_t i = 0; i < units; i += kLanes) {
    const __mmask16 there = units - i < kLanes ? static_cast<__mmask16>((1u << (units - i)) - 1) : __mmask16{0xFFFF};
    const __m128i bytes = _mm_maskz_loadu_epi8(there, mask + i);
    const __mmask16 kept = _mm_test_epi8_mask(bytes, bytes);
    const __m512i index = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(i)), lanes);
    _mm512_storeu_si512(unit + count, _mm512_maskz_compress_epi32(kept, index));
    _mm512_storeu_ps(x + count, _mm512_maskz_compress_ps(kept, _mm512_maskz_loadu_ps(there, values + i)));
    count += __builtin_popcount(kept);
  }
  return count;
}

int64_t between_512(const uint32_t* key, int64_t units, uint32_t low, uint32_t high, uint32_t* middle, int64_t* found) {
  const __m512i lowest = _mm512_set1_epi32(static_cast<int32_t>(low));
  const __m512i highest = _mm512_set1_epi32(static_cast<int32_t>(high));
  int64_t count = 0, above = 0;
  for (int64_t i = 0; i < units; i += kLanes) {
    const __mmask16 there = units - i < kLanes ? static_cast<__mmask16>((1u << (units - i)) - 1) : __mmask16{0xFFFF};
    const __m512i keys = _mm512_maskz_loadu_epi32(there, key + i);
    const __mmask16 over = _mm512_mask_cmpgt_epu32_mask(there, keys, highest);
    const __mmask16 within = _mm512_mask_cmpge_epu32_mask(static_cast<__mmask16>(there & ~over), keys, lowest);
    _mm512_storeu_si512(middle + count, _mm512_maskz_compress_epi32(within, keys));
    count += __builtin_popcount(within);
    above += __builtin_popcount(over);
  }
  *found = count;
  return above;
}

// Eight units at a time: y is read and written once for all of them.
template <class Type>
void add_eight(const UnitMatrix& matrix, const int32_t* unit, const float* x, int64_t begin, int64_t end, float* y) {
  const typename Type::Stored* row[8];
  __m512 a[8];
  for (int k = 0; k < 8; ++k) {
    row[k] = float_row<Type>(matrix, unit[k]);
    a[k] = _mm512_set1_ps(x[k]);
  }
  int64_t o = begin;
  for (; o + kLanes <= end; o += kLanes) {
    __m512 sum = load(y + o);
    for (int k = 0; k < 8; ++k) sum = _mm512_fmadd_ps(a[k], Type::vector(row[k] + o), sum);
    _mm512_storeu_ps(y + o, sum);
  }
  for (; o < end; ++o) {
    for (int k = 0; k < 8; ++k) y[o] = __builtin_fmaf(x[k], Type::load(row[k][o]), y[o]);
  }
}

template <class Type>
void add_type(const UnitMatrix& matrix, const int32_t* unit, const float* x, int64_t count, int64_t begin, int64_t end,
              float* y) {
  int64_t j = 0;
  for (; j + 8 <= count; j += 8) add_eight<Type>(matrix, unit + j, x + j, begin, end, y);
  for (; j < count; ++j) {
    const auto* row = float_row<Type>(matrix, unit[j]);
    for (int64_t o = begin; o < end; ++o) y[o] = __builtin_fmaf(x[j], Type::load(row[o]), y[o]);
  }
}

void add_floats_512(const UnitMatrix& matrix, const int32_t* unit, const float* x, int64_t count, int64_t begin,
                    int64_t end, float* y) {
  if (matrix.format == kFloat32) return add_type<VectorFloat32>(matrix, unit, x, count, begin, end, y);
  if (matrix.format == kFloat16) return add_type<VectorFloat16>(matrix, unit, x, count, begin, end, y);
  return add_type<VectorBfloat16>(matrix, unit, x, count, begin, end, y);
}

template <class Type>
float dot_type(const UnitMatrix& matrix, int64_t unit, const float* x) {
  const auto* row = float_row<Type>(matrix, unit);
  __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= matrix.length; i += 4 * kLanes) {
    for (int64_t line = 0; line < static_cast<int64_t>(sizeof *row); ++line) {
      prefetch(reinterpret_cast<const char*>(row + i) + 2048 + 64 * line);
    }
    for (int k = 0; k < 4; ++k) {
      sum[k] = _mm512_fmadd_ps(Type::vector(row + i + k * kLanes), load(x + i + k * kLanes), sum[k]);
    }
  }
  float total = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
  for (; i < matrix.length; ++i) total += Type::load(row[i]) * x[i];
  return total;
}

float dot_floats_512(const UnitMatrix& matrix, int64_t unit, const float* x) {
  if (matrix.format == kFloat32) return dot_type<VectorFloat32>(matrix, unit, x);
  if (matrix.format == kFloat16) return dot_type<VectorFloat16>(matrix, unit, x);
  return dot_type<VectorBfloat16>(matrix, unit, x);
}

}  // namespace

const Kernels& avx512_kernels() {
  static const Kernels kernels = {"avx512-vnni", order, between_512, mark_above,        find_kept_512,   round_chunk, add_floats_512, add_codes_512,
                                  add_scaled_codes_512, scale_chunk_512, dot_floats_512,  dot_codes_512,  widen, Panel<Simd>::add_rows, activate_all};
  return kernels;
}

}  // namespace dipc

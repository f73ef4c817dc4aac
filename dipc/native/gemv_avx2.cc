// The sparse products with AVX2: units are interleaved in pairs, because its byte products add up in twos.
#include <immintrin.h>

#include "gemv_generic.h"
#include "gemv_panel.h"

namespace dipc {
namespace {

constexpr int64_t kLanes = 8;
constexpr int64_t kWide = 16;    // units read side by side: as many 4-bit products as 16-bit sums can hold
constexpr int64_t kSpan = 4096;  // outputs whose sums stay in the nearest cache

// Into the second-level cache; inlined by force, because a compiler may drop calls of a function without an effect.
DIPC_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

inline __m256 load(const float* p) { return _mm256_loadu_ps(p); }
inline __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m256 load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

struct Simd {
  using Vector = __m256;
  static constexpr int64_t kLanes = 8;
  static constexpr int kVectors = 2;
  static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  static Vector all(float value) { return _mm256_set1_ps(value); }
  static Vector add_product(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
};

struct VectorFloat32 : AsFloat32 {
  static __m256 vector(const float* p) { return _mm256_loadu_ps(p); }
};
struct VectorFloat16 : AsFloat16 {
  static __m256 vector(const uint16_t* p) { return load_half(p); }
};
struct VectorBfloat16 : AsBfloat16 {
  static __m256 vector(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
};

// Four units at a time: y is read and written once for all of them. The sums are those of AVX-512, in the same order.
template <class Type>
void add_four(const UnitMatrix& matrix, const int32_t* unit, const float* x, int64_t begin, int64_t end, float* y) {
  const typename Type::Stored* row[4];
  __m256 a[4];
  for (int k = 0; k < 4; ++k) {
    row[k] = float_row<Type>(matrix, unit[k]);
    a[k] = _mm256_set1_ps(x[k]);
  }
  int64_t o = begin;
  for (; o + kLanes <= end; o += kLanes) {
    __m256 sum = load(y + o);
    for (int k = 0; k < 4; ++k) sum = _mm256_fmadd_ps(a[k], Type::vector(row[k] + o), sum);
    _mm256_storeu_ps(y + o, sum);
  }
  for (; o < end; ++o) {
    for (int k = 0; k < 4; ++k) y[o] = __builtin_fmaf(x[k], Type::load(row[k][o]), y[o]);
  }
}

template <class Type>
void add_type(const UnitMatrix& matrix, const int32_t* unit, const float* x, int64_t count, int64_t begin, int64_t end,
              float* y) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) add_four<Type>(matrix, unit + j, x + j, begin, end, y);
  for (; j < count; ++j) {
    const auto* row = float_row<Type>(matrix, unit[j]);
    for (int64_t o = begin; o < end; ++o) y[o] = __builtin_fmaf(x[j], Type::load(row[o]), y[o]);
  }
}

void add_floats_256(const UnitMatrix& matrix, const int32_t* unit, const float* x, int64_t count, int64_t begin,
                    int64_t end, float* y) {
  if (matrix.format == kFloat32) return add_type<VectorFloat32>(matrix, unit, x, count, begin, end, y);
  if (matrix.format == kFloat16) return add_type<VectorFloat16>(matrix, unit, x, count, begin, end, y);
  return add_type<VectorBfloat16>(matrix, unit, x, count, begin, end, y);
}

// The activations of a block of outputs: in each of the two lanes those of the lane's group of outputs.
struct Source {
  const int32_t *high, *low;
  int64_t stride;  // from four units to the next four
  int64_t second;  // from the group of the lower lane to that of the upper one

  DIPC_INLINE static __m256i bytes(const int32_t* quads, int64_t second, int64_t half) {
    const auto pair = [&](int64_t at) { return _mm_set1_epi16(static_cast<int16_t>(quads[at] >> (16 * half))); };
    return _mm256_set_m128i(pair(second), pair(0));
  }
  // The pair's bytes, for 16-bit lanes.
  DIPC_INLINE __m256i high_bytes(int64_t pair) const { return bytes(high + pair / 2 * stride, second, pair % 2); }
  DIPC_INLINE __m256i low_bytes(int64_t pair) const { return bytes(low + pair / 2 * stride, second, pair % 2); }
  // The pair's 15-bit values, for 32-bit lanes.
  DIPC_INLINE __m256i whole(int64_t pair) const {
    const auto value = [&](int64_t at) {
      const int32_t h = high[pair / 2 * stride + at] >> (16 * (pair % 2)), l = low[pair / 2 * stride + at] >> (16 * (pair % 2));
      const int32_t first = 128 * static_cast<int8_t>(h) + static_cast<int8_t>(l);
      const int32_t other = 128 * static_cast<int8_t>(h >> 8) + static_cast<int8_t>(l >> 8);
      return _mm_set1_epi32(static_cast<int32_t>((static_cast<uint32_t>(other) << 16) | (first & 0xFFFF)));
    };
    return _mm256_set_m128i(value(second), value(0));
  }
};

DIPC_INLINE void add_to_sum(int32_t* sum, __m256i value) {
  auto* at = reinterpret_cast<__m256i*>(sum);
  _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), value));
}

template <int kLane>
DIPC_INLINE __m256i wide(__m256i high, __m256i low) {
  const __m256i h = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(high, kLane));
  return _mm256_add_epi32(_mm256_slli_epi32(h, 7), _mm256_cvtepi16_epi32(_mm256_extracti128_si256(low, kLane)));
}

// sum[0:16] += even and odd outputs in turn.
DIPC_INLINE void add_in_turn(int32_t* sum, __m256i even, __m256i odd) {
  const __m256i a = _mm256_unpacklo_epi32(even, odd), b = _mm256_unpackhi_epi32(even, odd);
  add_to_sum(sum, _mm256_permute2x128_si256(a, b, 0x20));
  add_to_sum(sum + 8, _mm256_permute2x128_si256(a, b, 0x31));
}

struct Int4 {
  static constexpr int64_t kBlock = 64;  // outputs in 32 bytes
  static int64_t bytes(int64_t outputs) { return outputs / 2; }

  DIPC_INLINE static void dot(__m256i& high, __m256i& low, __m256i code, __m256i x_high, __m256i x_low) {
    high = _mm256_add_epi16(high, _mm256_maddubs_epi16(code, x_high));
    low = _mm256_add_epi16(low, _mm256_maddubs_epi16(code, x_low));
  }

  // sum[0:64] += activations times codes of up to kWide units, four at least.
  DIPC_INLINE static void add(const uint8_t* const* row, const Source& source, int64_t count, int64_t offset,
                              int32_t* sum) {
    const __m256i nibble = _mm256_set1_epi8(0x0F);
    __m256i h0 = _mm256_setzero_si256(), h1 = h0, h2 = h0, h3 = h0, l0 = h0, l1 = h0, l2 = h0, l3 = h0;
    for (int64_t pair = 0; 2 * pair < count; ++pair) {
      const __m256i a = load(row[2 * pair] + offset), b = load(row[2 * pair + 1] + offset);
      const __m256i x_high = source.high_bytes(pair), x_low = source.low_bytes(pair);
      const __m256i even_a = _mm256_and_si256(a, nibble), odd_a = _mm256_and_si256(_mm256_srli_epi16(a, 4), nibble);
      const __m256i even_b = _mm256_and_si256(b, nibble), odd_b = _mm256_and_si256(_mm256_srli_epi16(b, 4), nibble);
      dot(h0, l0, _mm256_unpacklo_epi8(even_a, even_b), x_high, x_low);
      dot(h1, l1, _mm256_unpackhi_epi8(even_a, even_b), x_high, x_low);
      dot(h2, l2, _mm256_unpacklo_epi8(odd_a, odd_b), x_high, x_low);
      dot(h3, l3, _mm256_unpackhi_epi8(odd_a, odd_b), x_high, x_low);
    }
    add_in_turn(sum, wide<0>(h0, l0), wide<0>(h2, l2));
    add_in_turn(sum + 16, wide<0>(h1, l1), wide<0>(h3, l3));
    add_in_turn(sum + 32, wide<1>(h0, l0), wide<1>(h2, l2));
    add_in_turn(sum + 48, wide<1>(h1, l1), wide<1>(h3, l3));
  }
};

struct Int8 {
  static constexpr int64_t kBlock = 32;
  static int64_t bytes(int64_t outputs) { return outputs; }

  DIPC_INLINE static void add(const uint8_t* const* row, const Source& source, int64_t count, int64_t offset,
                              int32_t* sum) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i s0 = zero, s1 = zero, s2 = zero, s3 = zero;
    for (int64_t pair = 0; 2 * pair < count; ++pair) {
      const __m256i a = load(row[2 * pair] + offset), b = load(row[2 * pair + 1] + offset);
      const __m256i x = source.whole(pair);
      const __m256i first = _mm256_unpacklo_epi8(a, b), last = _mm256_unpackhi_epi8(a, b);
      s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(_mm256_unpacklo_epi8(first, zero), x));
      s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(_mm256_unpackhi_epi8(first, zero), x));
      s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(_mm256_unpacklo_epi8(last, zero), x));
      s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(_mm256_unpackhi_epi8(last, zero), x));
    }
    add_to_sum(sum, _mm256_permute2x128_si256(s0, s1, 0x20));
    add_to_sum(sum + 8, _mm256_permute2x128_si256(s2, s3, 0x20));
    add_to_sum(sum + 16, _mm256_permute2x128_si256(s0, s1, 0x31));
    add_to_sum(sum + 24, _mm256_permute2x128_si256(s2, s3, 0x31));
  }
};

// sum = what one chunk adds to the outputs from..to, whole blocks.
template <class Code, class SourceAt>
DIPC_INLINE void sum_span(const UnitMatrix& matrix, const int32_t* unit, int64_t count, const int32_t* ahead_end,
                          int64_t from, int64_t to, SourceAt&& source_at, int32_t* sum) {
  const int64_t blocks = (to - from) / Code::kBlock, bytes = Code::bytes(matrix.length);
  const uint8_t* codes = static_cast<const uint8_t*>(matrix.data) + Code::bytes(from);
  std::memset(sum, 0, static_cast<size_t>(to - from) * sizeof *sum);
  for (int64_t j = 0; j < count; j += kWide) {
    const int64_t here = count - j < kWide ? count - j : kWide;
    const int64_t behind = ahead_end - (unit + j + here), ahead = behind < kWide ? behind : kWide;
    const uint8_t *row[kWide], *next[kWide];
    for (int64_t k = 0; k < here; ++k) row[k] = codes + unit[j + k] * bytes;
    for (int64_t k = 0; k < ahead; ++k) next[k] = codes + unit[j + here + k] * bytes;
    for (int64_t b = 0; b < blocks; ++b) {
      if (b % 2 == 0) {
        for (int64_t k = 0; k < ahead; ++k) prefetch(next[k] + 32 * b);
      }
      Code::add(row, source_at(b, j / 4), here, 32 * b, sum + b * Code::kBlock);
    }
  }
}

DIPC_INLINE void add_to(float* y, __m256i whole, __m256 factor) {
  _mm256_storeu_ps(y, _mm256_add_ps(load(y), _mm256_mul_ps(_mm256_cvtepi32_ps(whole), factor)));
}

DIPC_INLINE __m256i load_sum(const int32_t* sum) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sum)); }

DIPC_INLINE __m256 load_scales(const UnitMatrix& matrix, int64_t at) {
  return matrix.tables == kFloat32 ? load(static_cast<const float*>(matrix.scales) + at)
                                   : load_half(static_cast<const uint16_t*>(matrix.scales) + at);
}

template <class Code>
void add_across(const UnitMatrix& matrix, const Chunk* chunks, int64_t count, int64_t from, int64_t to, float* y) {
  alignas(32) int32_t sum[kSpan];
  const int32_t* end = chunks[count - 1].unit + chunks[count - 1].count;
  for (int64_t c = 0; c < count; ++c) {
    const Chunk& chunk = chunks[c];
    sum_span<Code>(
        matrix, chunk.unit, chunk.count, end, from, to,
        [&](int64_t, int64_t quad) { return Source{chunk.high + quad, chunk.low + quad, 1, 0}; }, sum);
    const __m256 step = _mm256_set1_ps(chunk.step);
    const __m256i total = _mm256_set1_epi32(chunk.sum), middle = _mm256_set1_epi32(chunk.sum * dipc::middle(matrix));
    const int64_t at = chunk.group * matrix.length;
    const uint8_t* zeros = matrix.zeros ? matrix.zeros + at : nullptr;
    for (int64_t o = from; o < to; o += kLanes) {
      __m256i zero = middle;
      if (zeros) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros + o));
        zero = _mm256_mullo_epi32(total, _mm256_cvtepu8_epi32(bytes));
      }
      add_to(y + o, _mm256_sub_epi32(load_sum(sum + o - from), zero), _mm256_mul_ps(step, load_scales(matrix, at + o)));
    }
  }
}

template <class Code>
void add_along(const UnitMatrix& matrix, const ScaledChunk& chunk, int64_t from, int64_t to, float* y) {
  alignas(32) int32_t sum[kSpan];
  int32_t group_of[kSpan / kLanes];
  for (int64_t o = from; o < to; o += kLanes) {
    group_of[(o - from) / kLanes] = static_cast<int32_t>(o / matrix.group - chunk.first_group);
  }
  constexpr int64_t kLane = Code::kBlock / 2 / kLanes;
  sum_span<Code>(
      matrix, chunk.unit, chunk.count, chunk.unit + chunk.count + chunk.ahead, from, to,
      [&](int64_t b, int64_t quad) {
        const int32_t *groups = group_of + 2 * kLane * b, first = groups[0];
        const int64_t at = quad * chunk.groups + first;
        return Source{chunk.high + at, chunk.low + at, chunk.groups, groups[kLane] - first};
      },
      sum);
  for (int64_t o = from; o < to; o += kLanes) {
    const int32_t g = group_of[(o - from) / kLanes];
    const __m256i whole = _mm256_sub_epi32(load_sum(sum + o - from), _mm256_set1_epi32(chunk.zero_sum[g]));
    add_to(y + o, whole, _mm256_set1_ps(chunk.step[g]));
  }
}

int64_t block_of(const UnitMatrix& matrix) { return matrix.format == kInt4 ? Int4::kBlock : Int8::kBlock; }

// The outputs that whole blocks cover; the rest goes the plain way.
int64_t end_of_blocks(const UnitMatrix& matrix, int64_t begin, int64_t end) {
  return begin % 2 == 0 ? begin + (end - begin) / block_of(matrix) * block_of(matrix) : begin;
}

void add_codes_256(const UnitMatrix& matrix, const Chunk* chunks, int64_t count, int64_t begin, int64_t end, float* y) {
  if (count == 0) return;
  const int64_t whole = end_of_blocks(matrix, begin, end);
  for (int64_t from = begin; from < whole; from += kSpan) {
    const int64_t to = from + kSpan < whole ? from + kSpan : whole;
    if (matrix.format == kInt4) add_across<Int4>(matrix, chunks, count, from, to, y);
    if (matrix.format == kInt8) add_across<Int8>(matrix, chunks, count, from, to, y);
  }
  add_codes(matrix, chunks, count, whole, end, y);
}

void add_scaled_codes_256(const UnitMatrix& matrix, const ScaledChunk& chunk, int64_t begin, int64_t end, float* y) {
  const bool covered = matrix.group % (block_of(matrix) / 2) == 0 && begin % matrix.group == 0;
  const int64_t whole = covered ? end_of_blocks(matrix, begin, end) : begin;
  for (int64_t from = begin; from < whole; from += kSpan) {
    const int64_t to = from + kSpan < whole ? from + kSpan : whole;
    if (matrix.format == kInt4) add_along<Int4>(matrix, chunk, from, to, y);
    if (matrix.format == kInt8) add_along<Int8>(matrix, chunk, from, to, y);
  }
  if (whole < end) add_scaled_codes(matrix, chunk, whole, end, y);
}

float dot_codes_256(const UnitMatrix& matrix, int64_t unit, int64_t next, const int16_t* q, const float* factor) {
  const uint8_t* row = code_row(matrix, unit);
  const uint8_t* ahead = code_row(matrix, next);
  const __m256i nibble = _mm256_set1_epi16(15);
  __m256 sum = _mm256_setzero_ps();
  alignas(32) uint8_t padded[kChunk];
  for (int64_t first = 0; first < matrix.length; first += kChunk, q += kChunk, factor += kChunk / kFine) {
    const int64_t left = matrix.length - first < kChunk ? matrix.length - first : kChunk;
    const int64_t at = matrix.format == kInt4 ? first / 2 : first;
    const uint8_t* codes = row + at;
    prefetch(ahead + at);
    if (matrix.format != kInt4) prefetch(ahead + at + 64);
    if (left < kChunk) {
      std::memset(padded, 0, kChunk);
      std::memcpy(padded, codes, static_cast<size_t>(matrix.format == kInt4 ? left / 2 : left));
      codes = padded;
    }
    const auto product = [&](__m256i c, int64_t i) {
      return _mm256_madd_epi16(c, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + i)));
    };
    if (matrix.format == kInt4) {
      for (int64_t half = 0; half < 2; ++half) {
        const __m256i c = load(codes + 32 * half);
        __m256i whole = product(_mm256_and_si256(c, nibble), 16 * half);
        whole = _mm256_add_epi32(whole, product(_mm256_and_si256(_mm256_srli_epi16(c, 4), nibble), 32 + 16 * half));
        whole = _mm256_add_epi32(whole, product(_mm256_and_si256(_mm256_srli_epi16(c, 8), nibble), 64 + 16 * half));
        whole = _mm256_add_epi32(whole, product(_mm256_srli_epi16(c, 12), 96 + 16 * half));
        const __m256 two = _mm256_set_m128(_mm_set1_ps(factor[2 * half + 1]), _mm_set1_ps(factor[2 * half]));
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), two, sum);
      }
    } else {
      for (int64_t i = 0; i < kChunk; i += 16) {
        const __m256i c = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product(c, i)), _mm256_set1_ps(factor[i / kFine]), sum);
      }
    }
  }
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, sum);
  float total = 0.0f;
  for (const float lane : lanes) total += lane;
  return total;
}

}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels kernels = {"avx2", order, between, mark_above, find_kept,   round_chunk, add_floats_256, add_codes_256, add_scaled_codes_256,
                                  scale_chunk, dot_floats, dot_codes_256, widen, Panel<Simd>::add_rows, activate_all};
  return kernels;
}

}  // namespace dipc

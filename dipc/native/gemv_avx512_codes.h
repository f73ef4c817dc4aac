// Integer codes with AVX-512 and its int8 dot products (VNNI).
//
// Four units are interleaved byte by byte, so that one instruction multiplies them by four activations and adds up. An
// activation has 15 bits, which takes two such instructions, one for its high and one for its low part.
#pragma once

#include <immintrin.h>

#include "gemv_generic.h"

namespace dipc {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kWide = 16;    // units read side by side, and summed in registers before memory sees the sum
constexpr int64_t kSpan = 8192;  // outputs whose sums stay in the nearest cache

// Into the second-level cache: fetching into the first would compete with what is being read. Inlined by force, because
// a compiler that sees a function without an effect may drop its calls.
DIPC_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }
inline __m512 load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// Four vectors of 32-bit values that fit a byte -> for each lane, the four bytes.
inline __m512i four_bytes(const __m512i v[4]) {
  const __m512i words = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(order));
}

void scale_chunk_512(const UnitMatrix& matrix, const int32_t* unit, const float* x, int64_t count, int64_t first_group,
                     int64_t groups, float* scratch, int32_t* high, int32_t* low, float* step, int32_t* zero_sum) {
  constexpr int64_t kFar = 16;  // units
  const int64_t all = groups_along(matrix);
  const __m512 largest = _mm512_set1_ps(static_cast<float>(kLargest));
  for (int64_t g = 0; g < groups; g += kLanes) {
    const __mmask16 there = groups - g < kLanes ? static_cast<__mmask16>((1u << (groups - g)) - 1) : __mmask16{0xFFFF};
    const uint16_t* scales = static_cast<const uint16_t*>(matrix.scales) + first_group + g;
    __m512i bits = _mm512_setzero_si512();  // of the largest magnitude, as integers: NaN is the largest then
    for (int64_t j = 0; j < count; ++j) {
      if (j + kFar < count) _mm_prefetch(reinterpret_cast<const char*>(scales + unit[j + kFar] * all), _MM_HINT_T0);
      const __m256i half = _mm256_maskz_loadu_epi16(there, scales + unit[j] * all);
      const __m512 product = _mm512_mul_ps(_mm512_set1_ps(x[j]), _mm512_cvtph_ps(half));
      bits = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(product)), bits);
      _mm512_storeu_ps(scratch + j * kLanes, product);
    }
    const __m512 most = _mm512_castsi512_ps(bits), infinity = _mm512_set1_ps(__builtin_inff());
    const __mmask16 finite = _mm512_cmp_ps_mask(most, infinity, _CMP_LT_OQ);
    const __mmask16 usable = _mm512_mask_cmp_ps_mask(finite, most, _mm512_set1_ps(1e-30f), _CMP_GT_OQ);
    const __m512 inverse = _mm512_maskz_div_ps(usable, largest, most);
    __m512i zeros = _mm512_setzero_si512();
    for (int64_t j = 0; j < count; j += 4) {
      __m512i upper[4], lower[4];
      for (int k = 0; k < 4; ++k) {
        const __m512 product = _mm512_loadu_ps(scratch + (j + k) * kLanes);
        const __m512i q = _mm512_cvtps_epi32(_mm512_maskz_mul_ps(usable, product, inverse));
        upper[k] = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(64)), 7);
        lower[k] = _mm512_sub_epi32(q, _mm512_slli_epi32(upper[k], 7));
        if (matrix.zeros) {
          const __m128i zero = _mm_maskz_loadu_epi8(there, matrix.zeros + unit[j + k] * all + first_group + g);
          zeros = _mm512_add_epi32(zeros, _mm512_mullo_epi32(q, _mm512_cvtepu8_epi32(zero)));
        } else {
          zeros = _mm512_add_epi32(zeros, q);
        }
      }
      _mm512_mask_storeu_epi32(high + j / 4 * groups + g, there, four_bytes(upper));
      _mm512_mask_storeu_epi32(low + j / 4 * groups + g, there, four_bytes(lower));
    }
    if (!matrix.zeros) zeros = _mm512_mullo_epi32(zeros, _mm512_set1_epi32(middle(matrix)));
    _mm512_mask_storeu_ps(step + g, there, _mm512_div_ps(most, largest));
    _mm512_mask_storeu_epi32(zero_sum + g, there, zeros);
  }
}

// Where the activations of a block of outputs come from: four bytes for each four units. Across units they are the same
// for all outputs; along the unit they differ by group of outputs, and `lane` says which group each lane belongs to.
struct Across {
  const int32_t* quads;
  DIPC_INLINE __m512i operator()(int64_t quad) const { return _mm512_set1_epi32(quads[quad]); }
};
struct Along {
  const int32_t* quads;
  int64_t stride;
  __m512i lane;
  DIPC_INLINE __m512i operator()(int64_t quad) const {
    const __m128i four = _mm_loadu_si128(reinterpret_cast<const __m128i*>(quads + quad * stride));
    return _mm512_permutexvar_epi32(lane, _mm512_castsi128_si512(four));
  }
};

// sum += the four products of unsigned and signed bytes in each 32-bit lane. Written out because compilers, given the
// intrinsic, copy sixteen sums about and spill them, which costs half of the speed.
DIPC_INLINE void dot(__m512i& sum, __m512i code, __m512i x) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(code), "v"(x)); }

#define DIPC_DOT(k, expression)           \
  {                                       \
    const __m512i code = expression;      \
    dot(h##k, code, high), dot(l##k, code, low); \
  }
#define DIPC_JOIN(k) sums[k] = _mm512_add_epi32(l##k, _mm512_slli_epi32(h##k, 7));

// Four rows of 64 bytes, interleaved: byte 4 i + r of the 128-bit lane l of q<k> is byte 16 l + 4 k + i of row r.
struct Interleaved {
  __m512i q0, q1, q2, q3;
  DIPC_INLINE Interleaved(const uint8_t* const* row, int64_t offset) {
    const __m512i a = load(row[0] + offset), b = load(row[1] + offset), c = load(row[2] + offset), d = load(row[3] + offset);
    const __m512i ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
    const __m512i cd0 = _mm512_unpacklo_epi8(c, d), cd1 = _mm512_unpackhi_epi8(c, d);
    q0 = _mm512_unpacklo_epi16(ab0, cd0), q1 = _mm512_unpackhi_epi16(ab0, cd0);
    q2 = _mm512_unpacklo_epi16(ab1, cd1), q3 = _mm512_unpackhi_epi16(ab1, cd1);
  }
};

struct Int4 {
  static constexpr int64_t kBlock = 128;  // outputs in 64 bytes
  static constexpr int64_t kSums = 8;
  static int64_t bytes(int64_t outputs) { return outputs / 2; }

  // sums = before + activations times codes of up to kWide units: even outputs in 0..3, odd ones, 16 times too large, in 4..7.
  template <class Source>
  DIPC_INLINE static void add(const uint8_t* const* row, Source highs, Source lows, int64_t count, int64_t offset,
                              const __m512i* before, __m512i* sums) {
    const __m512i low_nibble = _mm512_set1_epi8(0x0F), high_nibble = _mm512_set1_epi8(static_cast<char>(0xF0));
    // One variable each: compilers keep these in registers, and arrays often not.
    __m512i h0 = _mm512_setzero_si512(), h1 = h0, h2 = h0, h3 = h0, h4 = h0, h5 = h0, h6 = h0, h7 = h0;
    __m512i l0 = before[0], l1 = before[1], l2 = before[2], l3 = before[3];
    __m512i l4 = before[4], l5 = before[5], l6 = before[6], l7 = before[7];
#pragma GCC unroll 1
    for (int64_t j = 0; j < count; j += 4) {
      const Interleaved four(row + j, offset);
      const __m512i high = highs(j / 4), low = lows(j / 4);
      DIPC_DOT(0, _mm512_and_si512(four.q0, low_nibble)) DIPC_DOT(4, _mm512_and_si512(four.q0, high_nibble))
      DIPC_DOT(1, _mm512_and_si512(four.q1, low_nibble)) DIPC_DOT(5, _mm512_and_si512(four.q1, high_nibble))
      DIPC_DOT(2, _mm512_and_si512(four.q2, low_nibble)) DIPC_DOT(6, _mm512_and_si512(four.q2, high_nibble))
      DIPC_DOT(3, _mm512_and_si512(four.q3, low_nibble)) DIPC_DOT(7, _mm512_and_si512(four.q3, high_nibble))
    }
    DIPC_JOIN(0) DIPC_JOIN(1) DIPC_JOIN(2) DIPC_JOIN(3) DIPC_JOIN(4) DIPC_JOIN(5) DIPC_JOIN(6) DIPC_JOIN(7)
  }

  // The sums of outputs at(i)..at(i)+15, for i of 8.
  static void in_order(const __m512i* sums, __m512i out[8]);
  static int64_t at(int64_t i) { return 32 * (i % 4) + 16 * (i / 4); }
  static int32_t factor(int64_t sum) { return sum < 4 ? 1 : 16; }
};

struct Int8 {
  static constexpr int64_t kBlock = 64;
  static constexpr int64_t kSums = 4;
  static int64_t bytes(int64_t outputs) { return outputs; }

  template <class Source>
  DIPC_INLINE static void add(const uint8_t* const* row, Source highs, Source lows, int64_t count, int64_t offset,
                              const __m512i* before, __m512i* sums) {
    __m512i h0 = _mm512_setzero_si512(), h1 = h0, h2 = h0, h3 = h0;
    __m512i l0 = before[0], l1 = before[1], l2 = before[2], l3 = before[3];
#pragma GCC unroll 1
    for (int64_t j = 0; j < count; j += 4) {
      const Interleaved four(row + j, offset);
      const __m512i high = highs(j / 4), low = lows(j / 4);
      DIPC_DOT(0, four.q0) DIPC_DOT(1, four.q1) DIPC_DOT(2, four.q2) DIPC_DOT(3, four.q3)
    }
    DIPC_JOIN(0) DIPC_JOIN(1) DIPC_JOIN(2) DIPC_JOIN(3)
  }

  static void in_order(const __m512i* sums, __m512i out[8]);
  static int64_t at(int64_t i) { return 16 * i; }
  static int32_t factor(int64_t) { return 1; }
};

#undef DIPC_DOT
#undef DIPC_JOIN

// out[i] lane k = in[k] lane i, of 128 bits each.
inline void transpose(const __m512i* in, __m512i* out) {
  const __m512i a = _mm512_shuffle_i32x4(in[0], in[1], 0x44), b = _mm512_shuffle_i32x4(in[0], in[1], 0xEE);
  const __m512i c = _mm512_shuffle_i32x4(in[2], in[3], 0x44), d = _mm512_shuffle_i32x4(in[2], in[3], 0xEE);
  out[0] = _mm512_shuffle_i32x4(a, c, 0x88), out[1] = _mm512_shuffle_i32x4(a, c, 0xDD);
  out[2] = _mm512_shuffle_i32x4(b, d, 0x88), out[3] = _mm512_shuffle_i32x4(b, d, 0xDD);
}

inline void Int4::in_order(const __m512i* sums, __m512i out[8]) {
  __m512i pairs[8];
  for (int k = 0; k < 4; ++k) {
    const __m512i even = sums[k], odd = _mm512_srai_epi32(sums[k + 4], 4);
    pairs[2 * k] = _mm512_unpacklo_epi32(even, odd);      // lane l: outputs 32 l + 8 k + 0..3
    pairs[2 * k + 1] = _mm512_unpackhi_epi32(even, odd);  // lane l: outputs 32 l + 8 k + 4..7
  }
  transpose(pairs, out);
  transpose(pairs + 4, out + 4);
}

inline void Int8::in_order(const __m512i* sums, __m512i out[8]) { transpose(sums, out); }

// sums = start, the same for each block, + what one chunk adds to the outputs from..to, whole blocks. The units up to
// `ahead_end` come after the chunk's.
template <class Code, class SourceAt>
DIPC_INLINE void add_chunk_span(const UnitMatrix& matrix, const int32_t* unit, int64_t count, const int32_t* ahead_end,
                                int64_t from, int64_t to, SourceAt&& source_at, const __m512i* start, __m512i* sums) {
  const int64_t blocks = (to - from) / Code::kBlock, bytes = Code::bytes(matrix.length);
  const uint8_t* codes = static_cast<const uint8_t*>(matrix.data) + Code::bytes(from);
  for (int64_t j = 0; j < count; j += kWide) {
    const int64_t wide = count - j < kWide ? count - j : kWide;
    const uint8_t *row[kWide], *next[kWide];
    const int64_t ahead = ahead_end - (unit + j + wide) < kWide ? ahead_end - (unit + j + wide) : kWide;
    for (int64_t k = 0; k < wide; ++k) row[k] = codes + unit[j + k] * bytes;
    for (int64_t k = 0; k < ahead; ++k) next[k] = codes + unit[j + wide + k] * bytes;
    for (int64_t b = 0; b < blocks; ++b) {
      if (ahead == kWide) {
#pragma GCC unroll 16
        for (int64_t k = 0; k < kWide; ++k) prefetch(next[k] + 64 * b);
      } else {
        for (int64_t k = 0; k < ahead; ++k) prefetch(next[k] + 64 * b);
      }
      const auto [highs, lows] = source_at(b, j / 4);
      __m512i* sum = sums + Code::kSums * b;
      Code::add(row, highs, lows, wide, 64 * b, j == 0 ? start : sum, sum);
    }
  }
}

inline void add_to(float* y, __m512i whole, __m512 factor) {
  _mm512_storeu_ps(y, _mm512_add_ps(load(y), _mm512_mul_ps(_mm512_cvtepi32_ps(whole), factor)));
}

template <class Source>
struct Pair {
  Source highs, lows;
};

inline __m512 load_scales(const UnitMatrix& matrix, int64_t at) {
  return matrix.tables == kFloat32 ? load(static_cast<const float*>(matrix.scales) + at)
                                   : load_half(static_cast<const uint16_t*>(matrix.scales) + at);
}

template <class Code>
void add_across(const UnitMatrix& matrix, const Chunk* chunks, int64_t count, int64_t from, int64_t to, float* y) {
  alignas(64) __m512i sums[kSpan / kLanes];
  const int32_t* end = chunks[count - 1].unit + chunks[count - 1].count;
  for (int64_t c = 0; c < count; ++c) {
    const Chunk& chunk = chunks[c];
    // Without zero points of their own, all codes are off by the middle one.
    alignas(64) __m512i start[Code::kSums];
    for (int64_t k = 0; k < Code::kSums; ++k) {
      start[k] = _mm512_set1_epi32(matrix.zeros ? 0 : -chunk.sum * middle(matrix) * Code::factor(k));
    }
    add_chunk_span<Code>(
        matrix, chunk.unit, chunk.count, end, from, to,
        [&](int64_t, int64_t quad) { return Pair<Across>{{chunk.high + quad}, {chunk.low + quad}}; }, start, sums);
    const __m512 step = _mm512_set1_ps(chunk.step);
    const __m512i total = _mm512_set1_epi32(chunk.sum);
    const int64_t table = chunk.group * matrix.length;
    const uint8_t* zeros = matrix.zeros ? matrix.zeros + table : nullptr;
    // Memory is kept busy meanwhile: what comes next was asked for, now what comes after that.
    const int32_t* after = chunk.unit + chunk.count + kWide;
    const int64_t more = end - after < kWide ? end - after : kWide, bytes = Code::bytes(matrix.length);
    const uint8_t* rows[kWide];
    for (int64_t k = 0; k < more; ++k) {
      rows[k] = static_cast<const uint8_t*>(matrix.data) + Code::bytes(from) + after[k] * bytes;
    }
    for (int64_t block = from; block < to; block += Code::kBlock) {
      __m512i out[8];
      for (int64_t k = 0; k < more; ++k) prefetch(rows[k] + (block - from) / Code::kBlock * 64);
      Code::in_order(sums + (block - from) / Code::kBlock * Code::kSums, out);
      for (int64_t i = 0; i < Code::kBlock / kLanes; ++i) {
        const int64_t o = block + Code::at(i);
        if (zeros) {
          const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros + o));
          out[i] = _mm512_sub_epi32(out[i], _mm512_mullo_epi32(total, _mm512_cvtepu8_epi32(bytes)));
        }
        add_to(y + o, out[i], _mm512_mul_ps(step, load_scales(matrix, table + o)));
      }
    }
  }
}

template <class Code>
void add_along(const UnitMatrix& matrix, const ScaledChunk& chunk, int64_t from, int64_t to, float* y) {
  alignas(64) __m512i sums[kSpan / kLanes];
  const int64_t group = matrix.group, lane_outputs = Code::kBlock / 4;
  alignas(64) int32_t lane[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lane[i] = static_cast<int32_t>(i / 4 * lane_outputs / group);
  const __m512i lanes = _mm512_load_si512(lane);
  alignas(64) const __m512i start[Code::kSums] = {};
  int64_t group_of[kSpan / Code::kBlock];
  for (int64_t b = 0; from + b * Code::kBlock < to; ++b) {
    group_of[b] = (from + b * Code::kBlock) / group - chunk.first_group;
  }
  add_chunk_span<Code>(
      matrix, chunk.unit, chunk.count, chunk.unit + chunk.count + chunk.ahead, from, to,
      [&](int64_t block, int64_t quad) {
        const int64_t at = quad * chunk.groups + group_of[block];
        return Pair<Along>{{chunk.high + at, chunk.groups, lanes}, {chunk.low + at, chunk.groups, lanes}};
      },
      start, sums);
  for (int64_t block = from; block < to; block += Code::kBlock) {
    __m512i out[8];
    Code::in_order(sums + (block - from) / Code::kBlock * Code::kSums, out);
    const int64_t first = group_of[(block - from) / Code::kBlock];
    for (int64_t i = 0; i < Code::kBlock / kLanes; ++i) {
      const int64_t o = block + Code::at(i), g = first + lane[Code::at(i) / lane_outputs * 4];
      const __m512i whole = _mm512_sub_epi32(out[i], _mm512_set1_epi32(chunk.zero_sum[g]));
      add_to(y + o, whole, _mm512_set1_ps(chunk.step[g]));
    }
  }
}

// The outputs that whole blocks cover; the rest goes the plain way.
int64_t end_of_blocks(const UnitMatrix& matrix, int64_t begin, int64_t end) {
  const int64_t block = matrix.format == kInt4 ? Int4::kBlock : Int8::kBlock;
  return begin % 2 == 0 ? begin + (end - begin) / block * block : begin;
}

void add_codes_512(const UnitMatrix& matrix, const Chunk* chunks, int64_t count, int64_t begin, int64_t end, float* y) {
  if (count == 0) return;
  const int64_t whole = end_of_blocks(matrix, begin, end);
  for (int64_t from = begin; from < whole; from += kSpan) {
    const int64_t to = from + kSpan < whole ? from + kSpan : whole;
    if (matrix.format == kInt4) add_across<Int4>(matrix, chunks, count, from, to, y);
    if (matrix.format == kInt8) add_across<Int8>(matrix, chunks, count, from, to, y);
  }
  add_codes(matrix, chunks, count, whole, end, y);
}

void add_scaled_codes_512(const UnitMatrix& matrix, const ScaledChunk& chunk, int64_t begin, int64_t end, float* y) {
  const int64_t block = matrix.format == kInt4 ? Int4::kBlock : Int8::kBlock;
  const bool covered = matrix.group % (block / 4) == 0 && (matrix.group % block == 0 || block % matrix.group == 0) &&
                       begin % matrix.group == 0;
  const int64_t whole = covered ? end_of_blocks(matrix, begin, end) : begin;
  for (int64_t from = begin; from < whole; from += kSpan) {
    const int64_t to = from + kSpan < whole ? from + kSpan : whole;
    if (matrix.format == kInt4) add_along<Int4>(matrix, chunk, from, to, y);
    if (matrix.format == kInt8) add_along<Int8>(matrix, chunk, from, to, y);
  }
  if (whole < end) add_scaled_codes(matrix, chunk, whole, end, y);
}

float dot_codes_512(const UnitMatrix& matrix, int64_t unit, int64_t next, const int16_t* q, const float* factor) {
  const uint8_t* row = code_row(matrix, unit);
  const uint8_t* ahead = code_row(matrix, next);
  const __m512i nibble = _mm512_set1_epi16(15);
  const __m512i quarters = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t first = 0; first < matrix.length; first += kChunk, q += kChunk, factor += kChunk / kFine) {
    const int64_t left = matrix.length - first;
    if (matrix.format == kInt4) {
      const uint8_t* at = row + first / 2;
      prefetch(ahead + first / 2);
      const __mmask64 there = left < kChunk ? (__mmask64{1} << (left / 2)) - 1 : ~__mmask64{0};
      const __m512i codes = _mm512_maskz_loadu_epi8(there, at);
      __m512i whole = _mm512_dpwssd_epi32(_mm512_setzero_si512(), _mm512_and_si512(codes, nibble), load(q));
      whole = _mm512_dpwssd_epi32(whole, _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble), load(q + 32));
      whole = _mm512_dpwssd_epi32(whole, _mm512_and_si512(_mm512_srli_epi16(codes, 8), nibble), load(q + 64));
      whole = _mm512_dpwssd_epi32(whole, _mm512_srli_epi16(codes, 12), load(q + 96));
      const __m512 four = _mm512_permutexvar_ps(quarters, _mm512_castps128_ps512(_mm_loadu_ps(factor)));
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), four, sum);
    } else {
      prefetch(ahead + first), prefetch(ahead + first + 64);
      for (int64_t i = 0; i < kChunk && i < left; i += kFine) {
        const __mmask32 there = left - i < kFine ? (__mmask32{1} << (left - i)) - 1 : ~__mmask32{0};
        const __m512i codes = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(there, row + first + i));
        const __m512i whole = _mm512_dpwssd_epi32(_mm512_setzero_si512(), codes, load(q + i));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(factor[i / kFine]), sum);
      }
    }
  }
  return _mm512_reduce_add_ps(sum);
}

}  // namespace
}  // namespace dipc

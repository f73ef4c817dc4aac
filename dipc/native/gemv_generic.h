// The inner loops in plain C++, for compilers to vectorise: each instruction set includes them for what it does not do
// by hand. Everything is in an unnamed namespace, so that code compiled for one processor is never linked for another.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "gemv_kernels.h"
#include "stored_units.h"

namespace dipc {
namespace {

template <class Type>
void add_floats_of(const UnitMatrix& matrix, const int32_t* unit, const float* x, int64_t count, int64_t begin,
                   int64_t end, float* y) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) {
    const auto* r0 = float_row<Type>(matrix, unit[j]);
    const auto* r1 = float_row<Type>(matrix, unit[j + 1]);
    const auto* r2 = float_row<Type>(matrix, unit[j + 2]);
    const auto* r3 = float_row<Type>(matrix, unit[j + 3]);
    const float a0 = x[j], a1 = x[j + 1], a2 = x[j + 2], a3 = x[j + 3];
    for (int64_t o = begin; o < end; ++o) {
      y[o] = y[o] + a0 * Type::load(r0[o]) + a1 * Type::load(r1[o]) + a2 * Type::load(r2[o]) + a3 * Type::load(r3[o]);
    }
  }
  for (; j < count; ++j) {
    const auto* row = float_row<Type>(matrix, unit[j]);
    const float a = x[j];
    for (int64_t o = begin; o < end; ++o) y[o] += a * Type::load(row[o]);
  }
}

inline void add_floats(const UnitMatrix& matrix, const int32_t* unit, const float* x, int64_t count, int64_t begin,
                       int64_t end, float* y) {
  if (matrix.format == kFloat32) return add_floats_of<AsFloat32>(matrix, unit, x, count, begin, end, y);
  if (matrix.format == kFloat16) return add_floats_of<AsFloat16>(matrix, unit, x, count, begin, end, y);
  return add_floats_of<AsBfloat16>(matrix, unit, x, count, begin, end, y);
}

constexpr int64_t kTile = 256;  // outputs whose sums are kept in registers or the nearest cache

inline void sum_codes(const UnitMatrix& matrix, const Chunk& chunk, int64_t begin, int64_t count, int32_t* sum) {
  std::memset(sum, 0, count * sizeof *sum);
  for (int64_t j = 0; j < chunk.count; ++j) {
    const int32_t q = chunk.q[j];
    if (q == 0) continue;
    const uint8_t* row = code_row(matrix, chunk.unit[j]);
    if (matrix.format == kInt8) {
      for (int64_t o = 0; o < count; ++o) sum[o] += q * row[begin + o];
    } else if (begin % 2 == 0) {
      for (int64_t o = 0; o < count / 2; ++o) {
        sum[2 * o] += q * (row[begin / 2 + o] & 15);
        sum[2 * o + 1] += q * (row[begin / 2 + o] >> 4);
      }
      if (count % 2) sum[count - 1] += q * code_at(matrix, row, begin + count - 1);
    } else {
      for (int64_t o = 0; o < count; ++o) sum[o] += q * code_at(matrix, row, begin + o);
    }
  }
}

inline void add_chunk(const UnitMatrix& matrix, const Chunk& chunk, int64_t begin, int64_t end, float* y) {
  int32_t sum[kTile];
  const int64_t at = chunk.group * matrix.length;
  const uint8_t* zeros = matrix.zeros ? matrix.zeros + at : nullptr;
  for (int64_t from = begin; from < end; from += kTile) {
    const int64_t count = end - from < kTile ? end - from : kTile;
    sum_codes(matrix, chunk, from, count, sum);
    with_tables(matrix, [&](auto type, const auto* scales, const auto*) {
      for (int64_t o = 0; o < count; ++o) {
        const int32_t zero = zeros ? zeros[from + o] : middle(matrix);
        const float whole = static_cast<float>(sum[o] - zero * chunk.sum);
        y[from + o] += whole * (chunk.step * type.load(scales[at + from + o]));
      }
    });
  }
}

inline void add_codes(const UnitMatrix& matrix, const Chunk* chunks, int64_t count, int64_t begin, int64_t end,
                      float* y) {
  for (int64_t i = 0; i < count; ++i) add_chunk(matrix, chunks[i], begin, end, y);
}

inline int byte_of(int32_t quad, int64_t i) { return static_cast<int8_t>(static_cast<uint32_t>(quad) >> (8 * i)); }

inline void add_scaled_codes(const UnitMatrix& matrix, const ScaledChunk& chunk, int64_t begin, int64_t end, float* y) {
  int16_t q[kChunk];
  int32_t sum[kTile];
  for (int64_t g = 0; g < chunk.groups; ++g) {
    for (int64_t j = 0; j < chunk.count; ++j) {
      const int64_t at = j / 4 * chunk.groups + g;
      q[j] = static_cast<int16_t>(128 * byte_of(chunk.high[at], j % 4) + byte_of(chunk.low[at], j % 4));
    }
    const Chunk part{chunk.unit, q, nullptr, nullptr, chunk.count, 0, 0.0f, 0};
    const int64_t first = (chunk.first_group + g) * matrix.group;
    const int64_t last = first + matrix.group < end ? first + matrix.group : end;
    for (int64_t from = first < begin ? begin : first; from < last; from += kTile) {
      const int64_t count = last - from < kTile ? last - from : kTile;
      sum_codes(matrix, part, from, count, sum);
      for (int64_t o = 0; o < count; ++o) {
        y[from + o] += static_cast<float>(sum[o] - chunk.zero_sum[g]) * chunk.step[g];
      }
    }
  }
}

// The nearest integer, halves to even, without a call: adding and taking off 1.5 * 2^23 rounds to a whole number.
inline int32_t nearest(float value) {
  const float shifted = value + 12582912.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return bits - 0x4B400000;
}

// What magnitudes up to `most` are multiplied by to fill kLargest; 0 where they are too small to divide by.
inline float inverse_step(float most) { return most > 1e-30f ? static_cast<float>(kLargest) / most : 0.0f; }

// 128 * high + low = q.
inline int32_t high_of(int32_t q) { return (q + 64) >> 7; }

// Zeros of either sign are equal, and NaN counts as +infinity.
inline uint32_t ordered(float value) {
  constexpr uint32_t kInfinity = 0xFF800000u;
  const float unsigned_zero = value + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &unsigned_zero, sizeof bits);
  const uint32_t flip = (bits >> 31) ? 0xFFFFFFFFu : 0x80000000u;
  return value != value ? kInfinity : bits ^ flip;
}

inline void order(const float* score, const uint8_t* cached, float gamma, int64_t units, uint32_t* key) {
  for (int64_t i = 0; i < units; ++i) key[i] = ordered(score[i] * (cached[i] ? 1.0f : gamma));
}

inline int64_t between(const uint32_t* key, int64_t units, uint32_t low, uint32_t high, uint32_t* middle,
                       int64_t* found) {
  int64_t count = 0, above = 0;
  for (int64_t i = 0; i < units; ++i) {
    above += key[i] > high;
    middle[count] = key[i];
    count += key[i] >= low && key[i] <= high;
  }
  *found = count;
  return above;
}

inline void mark_above(const uint32_t* key, int64_t units, uint32_t cut, uint8_t* mask) {
  for (int64_t i = 0; i < units; ++i) mask[i] = key[i] > cut;
}

inline int64_t find_kept(const float* values, const uint8_t* mask, int64_t units, int32_t* unit, float* x) {
  int64_t count = 0;
  for (int64_t i = 0; i < units; ++i) {
    unit[count] = static_cast<int32_t>(i);
    x[count] = values[i];
    count += mask[i] != 0;
  }
  return count;
}

inline float round_chunk(const float* x, int64_t count, int16_t* q, int8_t* high, int8_t* low, int32_t* sum) {
  float most = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float size = x[i] < 0 ? -x[i] : x[i];
    most = size > most ? size : most;
  }
  const float inverse = inverse_step(most);
  int32_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t whole = nearest(x[i] * inverse), upper = high_of(whole);
    q[i] = static_cast<int16_t>(whole);
    high[i] = static_cast<int8_t>(upper);
    low[i] = static_cast<int8_t>(whole - 128 * upper);
    total += whole;
  }
  *sum = total;
  return most / static_cast<float>(kLargest);
}

inline void scale_chunk(const UnitMatrix& matrix, const int32_t* unit, const float* x, int64_t count,
                        int64_t first_group, int64_t groups, float* scratch, int32_t* high, int32_t* low, float* step,
                        int32_t* zero_sum) {
  const int64_t all = groups_along(matrix);
  for (int64_t g = 0; g < groups; ++g) step[g] = 0.0f, zero_sum[g] = 0;
  for (int64_t j = 0; j < count; ++j) {
    const uint16_t* scales = static_cast<const uint16_t*>(matrix.scales) + unit[j] * all + first_group;
    float* products = scratch + j * groups;
    for (int64_t g = 0; g < groups; ++g) {
      const float product = x[j] * from_float16(scales[g]);
      const float size = product < 0 ? -product : product;
      products[g] = product;
      step[g] = size > step[g] || size != size ? size : step[g];
    }
  }
  float* inverse = scratch + count * groups;
  for (int64_t g = 0; g < groups; ++g) inverse[g] = inverse_step(step[g]);
  for (int64_t j = 0; j < count; ++j) {
    const float* products = scratch + j * groups;
    const uint8_t* zeros = matrix.zeros ? matrix.zeros + unit[j] * all + first_group : nullptr;
    int32_t* high_row = high + j / 4 * groups;
    int32_t* low_row = low + j / 4 * groups;
    const int shift = static_cast<int>(8 * (j % 4));
    for (int64_t g = 0; g < groups; ++g) {
      const int32_t q = nearest(inverse[g] > 0.0f ? products[g] * inverse[g] : 0.0f);
      const int32_t upper = high_of(q), lower = q - 128 * upper;
      if (shift == 0) high_row[g] = low_row[g] = 0;
      high_row[g] |= static_cast<int32_t>(static_cast<uint32_t>(upper & 255) << shift);
      low_row[g] |= static_cast<int32_t>(static_cast<uint32_t>(lower & 255) << shift);
      zero_sum[g] += q * (zeros ? zeros[g] : middle(matrix));
    }
  }
  for (int64_t g = 0; g < groups; ++g) step[g] = step[g] / static_cast<float>(kLargest);
}

template <class Type>
float dot_floats_of(const UnitMatrix& matrix, int64_t unit, const float* x) {
  constexpr int64_t kLanes = 32;
  const auto* row = float_row<Type>(matrix, unit);
  float sum[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= matrix.length; i += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) sum[k] += Type::load(row[i + k]) * x[i + k];
  }
  for (; i < matrix.length; ++i) sum[i % kLanes] += Type::load(row[i]) * x[i];
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t k = 0; k < width; ++k) sum[k] += sum[k + width];
  }
  return sum[0];
}

inline float dot_floats(const UnitMatrix& matrix, int64_t unit, const float* x) {
  if (matrix.format == kFloat32) return dot_floats_of<AsFloat32>(matrix, unit, x);
  if (matrix.format == kFloat16) return dot_floats_of<AsFloat16>(matrix, unit, x);
  return dot_floats_of<AsBfloat16>(matrix, unit, x);
}

inline float dot_codes(const UnitMatrix& matrix, int64_t unit, int64_t, const int16_t* q, const float* factor) {
  const uint8_t* row = code_row(matrix, unit);
  float sum = 0.0f;
  for (int64_t first = 0; first < matrix.length; first += kFine) {
    const int64_t end = first + kFine < matrix.length ? first + kFine : matrix.length;
    const int16_t* here = q + first / kChunk * kChunk;
    int32_t whole = 0;
    for (int64_t i = first; i < end; ++i) whole += here[arranged(matrix.format, i % kChunk)] * code_at(matrix, row, i);
    sum += static_cast<float>(whole) * factor[first / kFine];
  }
  return sum;
}

// e^x to about two units in the last place (Cephes' polynomial), in operations that every processor rounds alike.
inline float exponential(float x) {
  const float shifted = x * 1.44269504088896341f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const uint32_t power_bits = (bits - 0x4B400000u + 127u) << 23;
  float power;
  std::memcpy(&power, &power_bits, sizeof power);
  const float value = p * power;
  const float bounded = x > 88.0f ? __builtin_inff() : (x < -87.0f ? 0.0f : value);
  return x != x ? x : bounded;
}

inline void activate_all(Activation activation, const float* gate, const float* up, int64_t count, float* hidden) {
  switch (activation) {
    case kSilu:
      for (int64_t i = 0; i < count; ++i) hidden[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
      return;
    case kGelu:
      for (int64_t i = 0; i < count; ++i) {
        hidden[i] = 0.5f * gate[i] * (1.0f + std::erf(gate[i] * 0.70710678118654752440f)) * up[i];
      }
      return;
    case kGeluTanh:
      for (int64_t i = 0; i < count; ++i) {
        const float x = gate[i], inner = 0.79788456080286535588f * (x + 0.044715f * x * x * x);
        const float tanh = 1.0f - 2.0f / (exponential(2.0f * inner) + 1.0f);
        hidden[i] = 0.5f * x * (1.0f + tanh) * up[i];
      }
      return;
    default:
      for (int64_t i = 0; i < count; ++i) hidden[i] = (gate[i] < 0 ? 0.0f : gate[i]) * up[i];
  }
}

}  // namespace
}  // namespace dipc

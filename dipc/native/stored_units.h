// How a unit-major matrix is stored, and its units as float32. The namespace has no name for the reason that
// gemv_generic.h gives.
#pragma once

#include <cstdint>
#include <cstring>

#include "gemv.h"

namespace dipc {
namespace {

inline float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Exact for every float16, infinities and NaN included: the exponent is moved by a multiplication.
inline float from_float16(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7FFF) << 13;
  float value;
  std::memcpy(&value, &magnitude, sizeof value);
  value *= 0x1p112f;
  uint32_t wide;
  std::memcpy(&wide, &value, sizeof wide);
  if ((bits & 0x7C00) == 0x7C00) wide |= 0x7F800000u;
  wide |= static_cast<uint32_t>(bits & 0x8000) << 16;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

struct AsFloat32 {
  using Stored = float;
  static float load(float value) { return value; }
};
struct AsFloat16 {
  using Stored = uint16_t;
  static float load(uint16_t value) { return from_float16(value); }
};
struct AsBfloat16 {
  using Stored = uint16_t;
  static float load(uint16_t value) { return from_bfloat16(value); }
};

template <class Type>
const typename Type::Stored* float_row(const UnitMatrix& matrix, int64_t unit) {
  return static_cast<const typename Type::Stored*>(matrix.data) + unit * matrix.length;
}

inline int64_t code_bytes(const UnitMatrix& matrix) {
  return matrix.format == kInt4 ? matrix.length / 2 : matrix.length;
}

inline const uint8_t* code_row(const UnitMatrix& matrix, int64_t unit) {
  return static_cast<const uint8_t*>(matrix.data) + unit * code_bytes(matrix);
}

inline int code_at(const UnitMatrix& matrix, const uint8_t* row, int64_t i) {
  if (matrix.format == kInt8) return row[i];
  return i & 1 ? row[i / 2] >> 4 : row[i / 2] & 15;
}

// Where value i of 128 stands for products with codes: 4-bit ones come four to 16 bits, so every fourth value together.
constexpr int64_t arranged(int32_t format, int64_t i) { return format == kInt4 ? i % 4 * 32 + i / 4 : i; }

// The code that stands for zero where no zero points say, or for the minimum where there are minima.
inline int middle(const UnitMatrix& matrix) { return matrix.minima ? 0 : matrix.format == kInt4 ? 8 : 128; }

// Calls body(type, scales, minima) with the tables by their type; minima may be null.
template <class Body>
inline void with_tables(const UnitMatrix& matrix, Body&& body) {
  if (matrix.tables == kFloat32) {
    body(AsFloat32{}, static_cast<const float*>(matrix.scales), static_cast<const float*>(matrix.minima));
  } else {
    body(AsFloat16{}, static_cast<const uint16_t*>(matrix.scales), static_cast<const uint16_t*>(matrix.minima));
  }
}

inline int64_t groups_along(const UnitMatrix& matrix) {
  return matrix.length / matrix.group + (matrix.length % matrix.group != 0);
}

// The values begin..end of a unit, in loops that compilers vectorise: first its codes.
inline void widen_codes(const UnitMatrix& matrix, int64_t unit, int64_t begin, int64_t end, float* row) {
  const uint8_t* codes = code_row(matrix, unit);
  int64_t i = begin;
  if (matrix.format == kInt4 && begin % 2 == 0) {
    for (int64_t j = begin / 2; j < end / 2; ++j) {
      row[2 * j - begin] = static_cast<float>(codes[j] & 15);
      row[2 * j - begin + 1] = static_cast<float>(codes[j] >> 4);
    }
    i = end / 2 * 2;
  } else if (matrix.format == kInt8) {
    for (; i < end; ++i) row[i - begin] = codes[i];
  }
  for (; i < end; ++i) row[i - begin] = static_cast<float>(code_at(matrix, codes, i));
}

inline void scale_across(const UnitMatrix& matrix, int64_t unit, int64_t begin, int64_t end, float* row) {
  const int64_t at = unit / matrix.group * matrix.length + begin, count = end - begin;
  with_tables(matrix, [&](auto type, const auto* scales, const auto* minima) {
    if (minima) {
      for (int64_t i = 0; i < count; ++i) row[i] = row[i] * type.load(scales[at + i]) + type.load(minima[at + i]);
    } else if (matrix.zeros) {
      const uint8_t* zeros = matrix.zeros + at;
      for (int64_t i = 0; i < count; ++i) row[i] = (row[i] - zeros[i]) * type.load(scales[at + i]);
    } else {
      const float zero = static_cast<float>(middle(matrix));
      for (int64_t i = 0; i < count; ++i) row[i] = (row[i] - zero) * type.load(scales[at + i]);
    }
  });
}

inline void scale_along(const UnitMatrix& matrix, int64_t unit, int64_t begin, int64_t end, float* row) {
  const int64_t at = unit * groups_along(matrix);
  with_tables(matrix, [&](auto type, const auto* scales, const auto* minima) {
    for (int64_t from = begin; from < end;) {
      const int64_t g = from / matrix.group, after = (g + 1) * matrix.group, to = after < end ? after : end;
      const float zero = static_cast<float>(matrix.zeros ? matrix.zeros[at + g] : middle(matrix));
      const float scale = type.load(scales[at + g]), least = minima ? type.load(minima[at + g]) : 0.0f;
      for (int64_t i = from - begin; i < to - begin; ++i) row[i] = (row[i] - zero) * scale + least;
      from = to;
    }
  });
}

// row[0:end-begin] = matrix[unit, begin:end] as float32.
inline void widen(const UnitMatrix& matrix, int64_t unit, int64_t begin, int64_t end, float* row) {
  const int64_t count = end - begin;
  if (matrix.format == kFloat32) {
    std::memcpy(row, float_row<AsFloat32>(matrix, unit) + begin, count * sizeof *row);
  } else if (matrix.format == kFloat16) {
    const uint16_t* stored = float_row<AsFloat16>(matrix, unit) + begin;
    for (int64_t i = 0; i < count; ++i) row[i] = from_float16(stored[i]);
  } else if (matrix.format == kBfloat16) {
    const uint16_t* stored = float_row<AsBfloat16>(matrix, unit) + begin;
    for (int64_t i = 0; i < count; ++i) row[i] = from_bfloat16(stored[i]);
  } else {
    widen_codes(matrix, unit, begin, end, row);
    matrix.axis == 0 ? scale_across(matrix, unit, begin, end, row) : scale_along(matrix, unit, begin, end, row);
  }
}

}  // namespace
}  // namespace dipc

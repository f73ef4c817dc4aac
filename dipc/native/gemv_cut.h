// What the sparse products share: how work is cut into pieces.
//
// It is cut by outputs, or by units in numbers that do not depend on the threads, so that neither do the results.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "gemv.h"

namespace dipc {

inline bool is_integer(const UnitMatrix& matrix) { return matrix.format == kInt8 || matrix.format == kInt4; }

inline int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

inline bool all_finite(const float* x, int64_t count) {
  uint32_t largest = 0;  // magnitudes are ordered as their bits, infinity and NaN above all
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest < 0x7f800000u;
}

// Cuts [0, length) where multiples of `step` are at most into a piece for each thread, and calls body(begin, end).
template <class Body>
void by_pieces(Parallel& parallel, int64_t length, int64_t step, Body&& body) {
  if (length == 0) return;
  const int64_t steps = ceil_div(length, std::max<int64_t>(step, 1));
  const int64_t pieces = std::min<int64_t>(std::max(parallel.width(), 1), steps);
  parallel_for(parallel, pieces, [&](int64_t i) {
    body(steps * i / pieces * step, std::min(length, steps * (i + 1) / pieces * step));
  });
}

}  // namespace dipc

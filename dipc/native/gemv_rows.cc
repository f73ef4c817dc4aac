// Products whose units each give one output: only the kept ones are computed.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "gemv_cut.h"
#include "gemv_generic.h"

namespace dipc {
namespace {

constexpr int64_t kAheadBytes = 4096;

// A token's inputs, rounded in pieces that share a scale.
struct Rounded {
  std::vector<int16_t> q;     // as dot_codes takes them
  std::vector<float> step;    // of each kFine inputs
  std::vector<float> offset;  // sum of q times the zero point, or of q, for each kFine inputs

  void make(const float* x, int64_t length, int64_t piece, int32_t format, const uint8_t* zeros) {
    const int64_t blocks = ceil_div(length, kChunk), fine = ceil_div(length, kFine);
    q.resize(blocks * kChunk);
    // Four more than there are, for vectors that read beyond the end.
    step.assign(fine + 4, 0.0f);
    offset.assign(fine + 4, 0.0f);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * kChunk, last = std::min(length, first + kChunk);
      int16_t plain[kChunk] = {};
      int8_t high[kChunk], low[kChunk];
      for (int64_t from = first; from < last; from += piece) {
        const int64_t to = std::min(from + piece, last);
        int32_t total;
        const float one = kernels().round_chunk(x + from, to - from, plain + (from - first), high, low, &total);
        for (int64_t p = from / kFine; p < ceil_div(to, kFine); ++p) step[p] = one;
      }
      for (int64_t from = first; from < last; from += kFine) {
        const int64_t count = std::min(kFine, last - from);
        offset[from / kFine] = static_cast<float>(sum_of(plain + (from - first), zeros ? zeros + from : nullptr, count));
      }
      arrange(format, plain, q.data() + first);
    }
  }

 private:
  static void arrange(int32_t format, const int16_t* plain, int16_t* to) {
    if (format != kInt4) {
      std::copy_n(plain, kChunk, to);
      return;
    }
    static_assert(arranged(kInt4, 4 * 5 + 3) == 3 * (kChunk / 4) + 5);
    for (int64_t k = 0; k < 4; ++k) {
      for (int64_t i = 0; i < kChunk / 4; ++i) to[k * (kChunk / 4) + i] = plain[4 * i + k];
    }
  }

  static int32_t sum_of(const int16_t* q, const uint8_t* zeros, int64_t count) {
    int32_t sum = 0;
    if (zeros) {
      for (int64_t i = 0; i < count; ++i) sum += q[i] * zeros[i];
    } else {
      for (int64_t i = 0; i < count; ++i) sum += q[i];
    }
    return sum;
  }
};

// Whether groups along a unit are made of whole pieces of kFine; others are not worth a fast path.
bool has_pieces(const UnitMatrix& matrix) {
  return matrix.axis == 0 || (matrix.group % kFine == 0 && (kChunk % matrix.group == 0 || matrix.group % kChunk == 0));
}

float dot(const float* a, const float* b, int64_t count) {
  const UnitMatrix plain{a, nullptr, nullptr, 1, count, 0, kFloat32, 0};
  return kernels().dot_floats(plain, 0, b);
}

// Scales, or minima, as a matrix of floats [rows, columns].
UnitMatrix table_of(const UnitMatrix& matrix, const void* table) {
  const int64_t rows = matrix.axis == 0 ? ceil_div(matrix.units, matrix.group) : matrix.units;
  const int64_t columns = matrix.axis == 0 ? matrix.length : groups_along(matrix);
  return {table, nullptr, nullptr, rows, columns, 0, matrix.tables, 0};
}

// A row of the scales as float32.
void widen_scales(const UnitMatrix& matrix, int64_t row, float* wide) {
  const UnitMatrix scales = table_of(matrix, matrix.scales);
  kernels().widen(scales, row, 0, scales.length, wide);
}

// The sums of the inputs of each group along the units, which minima are multiplied by.
std::vector<float> group_sums(const UnitMatrix& matrix, const float* x) {
  std::vector<float> sums(groups_along(matrix), 0.0f);
  for (int64_t i = 0; i < matrix.length; ++i) sums[i / matrix.group] += x[i];
  return sums;
}

// What the units begin..end share.
struct RowProduct {
  const UnitMatrix& matrix;
  const float* x;
  bool exact;            // the inputs cannot be rounded
  const Rounded* along;  // axis 1: the inputs as all units see them
  const float* sums;     // axis 1: those of each group, where there are minima

  void run(const uint8_t* mask, const float* bias, int64_t begin, int64_t end, float* y) const {
    std::vector<float> buffer, factor, offset;
    Rounded across;
    float zeros = 0.0f;  // what the zero points take off, less what the minima add
    int64_t group = -1;
    bool rounds = false;
    std::vector<int64_t> kept;
    for (int64_t u = begin; u < end; ++u) {
      if (mask[u]) kept.push_back(u);
      y[u] = 0.0f;
    }
    const int64_t count = static_cast<int64_t>(kept.size()), ahead = units_ahead();
    for (int64_t j = 0; j < count; ++j) {
      const int64_t u = kept[j], next = kept[std::min(j + ahead, count - 1)];
      float value;
      if (!is_integer(matrix)) {
        value = kernels().dot_floats(matrix, u, x);
      } else if (exact) {
        value = dot_widened(u, buffer);
      } else if (along) {
        value = dot_along(u, next, factor, offset);
      } else {
        if (u / matrix.group != group) {
          group = u / matrix.group;
          rounds = scale_across_units(group, buffer);
          if (rounds) zeros = round_across(group, buffer, across);
        }
        value = rounds ? kernels().dot_codes(matrix, u, next, across.q.data(), across.step.data()) - zeros
                       : dot_widened(u, buffer);
      }
      y[u] = bias ? value + bias[u] : value;
    }
  }

 private:
  // How far ahead of their use units are fetched: what memory can deliver in the time that it takes to answer.
  int64_t units_ahead() const { return ceil_div(kAheadBytes, std::max<int64_t>(code_bytes(matrix), 1)); }

  float dot_widened(int64_t unit, std::vector<float>& row) const {
    row.resize(matrix.length);
    kernels().widen(matrix, unit, 0, matrix.length, row.data());
    return dot(row.data(), x, matrix.length);
  }

  // Scales across units are multiplied into the inputs before these are rounded; returns whether they can be.
  bool scale_across_units(int64_t group, std::vector<float>& scaled) const {
    scaled.resize(matrix.length);
    widen_scales(matrix, group, scaled.data());
    for (int64_t i = 0; i < matrix.length; ++i) scaled[i] *= x[i];
    return all_finite(scaled.data(), matrix.length);
  }

  // Returns what the zero points take off, or the minima add, negated.
  float round_across(int64_t group, const std::vector<float>& scaled, Rounded& rounded) const {
    const uint8_t* zeros = matrix.zeros ? matrix.zeros + group * matrix.length : nullptr;
    rounded.make(scaled.data(), matrix.length, kChunk, matrix.format, zeros);
    if (matrix.minima) return -kernels().dot_floats(table_of(matrix, matrix.minima), group, x);
    const float sum = dot(rounded.offset.data(), rounded.step.data(), static_cast<int64_t>(rounded.step.size()));
    return zeros ? sum : sum * static_cast<float>(middle(matrix));
  }

  // Scales along the unit: the inputs were rounded once for all units.
  float dot_along(int64_t unit, int64_t next, std::vector<float>& factor, std::vector<float>& offset) const {
    const int64_t fine = ceil_div(matrix.length, kFine), repeat = std::min(matrix.group / kFine, fine);
    const int64_t groups = groups_along(matrix), at = unit * groups;
    factor.resize(fine + repeat + 4);
    offset.resize(std::max(fine, groups));
    widen_scales(matrix, unit, offset.data());
    for (int64_t g = 0, p = 0; p < fine; ++g) {
      const float scale = offset[g];
      for (const int64_t end = std::min(p + repeat, fine); p < end; ++p) factor[p] = along->step[p] * scale;
    }
    const float value = kernels().dot_codes(matrix, unit, next, along->q.data(), factor.data());
    if (matrix.minima) return value + kernels().dot_floats(table_of(matrix, matrix.minima), unit, sums);
    if (!matrix.zeros) {
      return value - static_cast<float>(middle(matrix)) * dot(along->offset.data(), factor.data(), fine);
    }
    for (int64_t p = 0; p < fine; ++p) offset[p] = along->offset[p] * matrix.zeros[at + p / repeat];
    return value - dot(offset.data(), factor.data(), fine);
  }
};

}  // namespace

void row_linear(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, int64_t tokens,
                float* y, Parallel& parallel) {
  Rounded along;
  for (int64_t t = 0; t < tokens; ++t, x += matrix.length, mask += matrix.units, y += matrix.units) {
    const bool rounds = is_integer(matrix) && matrix.axis == 1 && has_pieces(matrix);
    const bool exact = is_integer(matrix) && (!has_pieces(matrix) || !all_finite(x, matrix.length));
    if (rounds && !exact) along.make(x, matrix.length, std::min(matrix.group, kChunk), matrix.format, nullptr);
    const auto sums = rounds && matrix.minima ? group_sums(matrix, x) : std::vector<float>{};
    const RowProduct product{matrix, x, exact, rounds ? &along : nullptr, sums.data()};
    by_pieces(parallel, matrix.units, is_integer(matrix) && matrix.axis == 0 ? matrix.group : 16,
              [&](int64_t begin, int64_t end) { product.run(mask, bias, begin, end, y); });
  }
}

}  // namespace dipc

// Products whose units each give one output: only the kept ones are computed.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "gemv_cut.h"
#include "gemv_generic.h"

namespace dipc {
namespace {

// One token's inputs, rounded in pieces of at most kChunk that lie within a group.
struct Rounded {
  std::vector<int16_t> q;
  std::vector<int64_t> end;    // of each piece
  std::vector<float> step;
  std::vector<int32_t> sum;    // of q, or of q times the zero point

  void make(const float* x, int64_t length, int64_t piece, const uint8_t* zeros) {
    int8_t high[kChunk], low[kChunk];
    q.resize(length);
    end.clear();
    step.clear();
    sum.clear();
    for (int64_t first = 0; first < length; first += piece) {
      const int64_t count = std::min(piece, length - first);
      int32_t plain;
      step.push_back(kernels().round_chunk(x + first, count, q.data() + first, high, low, &plain));
      int32_t total = 0;
      for (int64_t i = first; i < first + count; ++i) total += q[i] * (zeros ? zeros[i] : 1);
      sum.push_back(total);
      end.push_back(first + count);
    }
  }
};

// Pieces begin at even places, because 4-bit codes go two to a byte; groups of odd size are not worth a fast path.
bool has_pieces(const UnitMatrix& matrix) { return matrix.axis == 0 || matrix.group % 2 == 0; }

int64_t piece_of(const UnitMatrix& matrix) {
  if (matrix.axis == 0) return kChunk;
  int64_t piece = matrix.group;
  while (piece > kChunk) piece = piece % 2 == 0 && piece / 2 % 2 == 0 ? piece / 2 : 2;
  return piece;
}

float dot_widened(const UnitMatrix& matrix, int64_t unit, const float* x, std::vector<float>& row) {
  row.resize(matrix.length);
  kernels().widen(matrix, unit, 0, matrix.length, row.data());
  const UnitMatrix plain{row.data(), nullptr, nullptr, 1, matrix.length, 0, kFloat32, 0};
  return kernels().dot_floats(plain, 0, x);
}

// Scales along the unit: the inputs were rounded once for all units.
float dot_along(const UnitMatrix& matrix, int64_t unit, const Rounded& x) {
  const int64_t groups = ceil_div(matrix.length, matrix.group);
  const int32_t middle = matrix.format == kInt4 ? 8 : 128;
  float y = 0.0f;
  int64_t begin = 0;
  for (size_t p = 0; p < x.end.size(); begin = x.end[p++]) {
    const int64_t g = unit * groups + begin / matrix.group;
    const int32_t zero = matrix.zeros ? matrix.zeros[g] : middle;
    const int32_t whole = kernels().dot_codes(matrix, unit, begin, x.end[p], x.q.data()) - zero * x.sum[p];
    y += static_cast<float>(whole) * (x.step[p] * from_float16(matrix.scales[g]));
  }
  return y;
}

// Scales across units: they were multiplied into the inputs before these were rounded.
float dot_across(const UnitMatrix& matrix, int64_t unit, const Rounded& x) {
  const int32_t middle = matrix.format == kInt4 ? 8 : 128;
  float y = 0.0f;
  int64_t begin = 0;
  for (size_t p = 0; p < x.end.size(); begin = x.end[p++]) {
    const int32_t zeros = matrix.zeros ? x.sum[p] : middle * x.sum[p];
    y += static_cast<float>(kernels().dot_codes(matrix, unit, begin, x.end[p], x.q.data()) - zeros) * x.step[p];
  }
  return y;
}

// What the units begin..end share.
struct RowProduct {
  const UnitMatrix& matrix;
  const float* x;
  bool exact;            // the inputs cannot be rounded
  const Rounded* along;  // axis 1: the inputs as all units see them

  void run(const uint8_t* mask, const float* bias, int64_t begin, int64_t end, float* y) const {
    std::vector<float> buffer;
    Rounded across;
    int64_t group = -1;
    for (int64_t u = begin; u < end; ++u) {
      if (!mask[u]) {
        y[u] = 0.0f;
        continue;
      }
      float value;
      if (!is_integer(matrix)) {
        value = kernels().dot_floats(matrix, u, x);
      } else if (exact) {
        value = dot_widened(matrix, u, x, buffer);
      } else if (along) {
        value = dot_along(matrix, u, *along);
      } else {
        if (u / matrix.group != group) {
          group = u / matrix.group;
          buffer.resize(matrix.length);
          const int64_t at = group * matrix.length;
          for (int64_t i = 0; i < matrix.length; ++i) buffer[i] = x[i] * from_float16(matrix.scales[at + i]);
          across.make(buffer.data(), matrix.length, kChunk, matrix.zeros ? matrix.zeros + at : nullptr);
        }
        value = dot_across(matrix, u, across);
      }
      y[u] = bias ? value + bias[u] : value;
    }
  }
};

}  // namespace

void row_linear(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, int64_t tokens,
                float* y, Parallel& parallel) {
  Rounded along;
  for (int64_t t = 0; t < tokens; ++t, x += matrix.length, mask += matrix.units, y += matrix.units) {
    const bool rounds = is_integer(matrix) && matrix.axis == 1 && has_pieces(matrix);
    const bool exact = is_integer(matrix) && (!has_pieces(matrix) || !all_finite(x, matrix.length));
    if (rounds && !exact) along.make(x, matrix.length, piece_of(matrix), nullptr);
    const RowProduct product{matrix, x, exact, rounds ? &along : nullptr};
    by_pieces(parallel, matrix.units, is_integer(matrix) && matrix.axis == 0 ? matrix.group : 16,
              [&](int64_t begin, int64_t end) { product.run(mask, bias, begin, end, y); });
  }
}

}  // namespace dipc

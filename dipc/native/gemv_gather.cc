// Sums of the kept units of a unit-major matrix: which units, in which groups, and who sums what.
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "gemv_cut.h"
#include "gemv_generic.h"
#include "gemv_many.h"

namespace dipc {
namespace {

// The kept units of one token, ascending, and their activations.
struct Kept {
  std::vector<int32_t> unit;
  std::vector<float> x;
  int64_t count;

  void find(const float* values, const uint8_t* mask, int64_t units) {
    unit.resize(units + 16);
    x.resize(units + 16);
    count = kernels().find_kept(values, mask, units, unit.data(), x.data());
  }
};

// What a thread needs besides its arguments; kept from call to call.
struct Scratch {
  Kept kept;
  bool rounds;  // the activations are rounded to integers
  std::vector<float> z, sums;
  std::vector<int32_t> unit;
  std::vector<int16_t> q;
  std::vector<int8_t> high, low;
  std::vector<Chunk> chunks;
  std::vector<int32_t> chunk_group;
  std::vector<float> chunk_x;  // the sum of a chunk's activations, which the group's minima are multiplied by
  std::vector<float> products, step;
  std::vector<int32_t> scaled_high, scaled_low, zero_sum;
};

Scratch& scratch() {
  static thread_local Scratch mine;
  return mine;
}

// Cuts the kept units where a group of units ends, rounds each piece, and packs it by fours.
void make_chunks(const UnitMatrix& matrix, Scratch& s) {
  const Kept& kept = s.kept;
  const int64_t count = kept.count;
  const int64_t room = 4 * count;  // every kept unit may be the only one of its group, padded to four
  s.unit.resize(room);
  s.q.resize(room);
  s.high.resize(room);
  s.low.resize(room);
  s.chunks.clear();
  s.chunk_group.clear();
  s.chunk_x.clear();
  int64_t out = 0;
  for (int64_t first = 0; first < count;) {
    const int64_t group = kept.unit[first] / matrix.group;
    int64_t last = first;
    while (last < count && kept.unit[last] / matrix.group == group && last - first < kChunk) ++last;
    Chunk chunk{};
    chunk.group = group;
    const int64_t real = last - first;
    chunk.count = ceil_div(real, 4) * 4;
    chunk.step = kernels().round_chunk(kept.x.data() + first, real, s.q.data() + out, s.high.data() + out,
                                       s.low.data() + out, &chunk.sum);
    for (int64_t j = 0; j < chunk.count; ++j) s.unit[out + j] = kept.unit[std::min(first + j, last - 1)];
    for (int64_t j = real; j < chunk.count; ++j) s.q[out + j] = s.high[out + j] = s.low[out + j] = 0;
    chunk.unit = s.unit.data() + out;
    chunk.q = s.q.data() + out;
    chunk.high = reinterpret_cast<const int32_t*>(s.high.data() + out);
    chunk.low = reinterpret_cast<const int32_t*>(s.low.data() + out);
    s.chunks.push_back(chunk);
    s.chunk_group.push_back(static_cast<int32_t>(group));
    s.chunk_x.push_back(std::accumulate(kept.x.begin() + first, kept.x.begin() + last, 0.0f));
    out += chunk.count;
    first = last;
  }
}

// y[begin:end] += the kept units from..count, whose scales travel with them.
void add_scaled(const UnitMatrix& matrix, const Kept& kept, int64_t from, int64_t count, int64_t begin, int64_t end,
                float* y) {
  Scratch& s = scratch();
  const int64_t first_group = begin / matrix.group, groups = ceil_div(end, matrix.group) - first_group;
  s.products.resize((kChunk + 1) * std::max<int64_t>(groups, 16));
  s.step.resize(groups);
  s.zero_sum.resize(groups);
  s.scaled_high.resize(kChunk / 4 * groups + 4);
  s.scaled_low.resize(kChunk / 4 * groups + 4);
  constexpr int64_t kAhead = 32;
  int32_t unit[kChunk + kAhead];
  float x[kChunk];
  for (int64_t first = from; first < count; first += kChunk) {
    const int64_t real = std::min(kChunk, count - first), padded = ceil_div(real, 4) * 4;
    for (int64_t j = 0; j < padded; ++j) {
      unit[j] = kept.unit[j < real ? first + j : first];
      x[j] = j < real ? kept.x[first + j] : 0.0f;
    }
    const int64_t ahead = std::min(kAhead, count - first - real);
    std::copy_n(kept.unit.data() + first + real, ahead, unit + padded);
    kernels().scale_chunk(matrix, unit, x, padded, first_group, groups, s.products.data(), s.scaled_high.data(),
                          s.scaled_low.data(), s.step.data(), s.zero_sum.data());
    const ScaledChunk chunk{unit,        ahead,  s.scaled_high.data(), s.scaled_low.data(), padded,
                            first_group, groups, s.step.data(),        s.zero_sum.data()};
    kernels().add_scaled_codes(matrix, chunk, begin, end, y);
  }
}

// The same without rounding the activations, for those that cannot be (infinities and NaN) and for matrices without
// another way.
void add_widened(const UnitMatrix& matrix, const Kept& kept, int64_t begin, int64_t end, float* y) {
  std::vector<float> row(end - begin);
  for (int64_t j = 0; j < kept.count; ++j) {
    kernels().widen(matrix, kept.unit[j], begin, end, row.data());
    for (int64_t o = begin; o < end; ++o) y[o] += kept.x[j] * row[o - begin];
  }
}

void prepare(const UnitMatrix& matrix, const float* x, const uint8_t* mask, Scratch& s) {
  s.kept.find(x, mask, matrix.units);
  if (!is_integer(matrix)) return;
  const bool has_way = matrix.axis == 0 || (matrix.minima == nullptr && matrix.tables == kFloat16);
  s.rounds = has_way && all_finite(s.kept.x.data(), s.kept.count);
  if (s.rounds && matrix.axis == 0) make_chunks(matrix, s);
}

// Where pieces may be cut: vectors are kept whole, and so are groups of outputs that share a scale.
int64_t cut(const UnitMatrix& matrix, int64_t length) {
  const int64_t vector = is_integer(matrix) ? 128 : 64;
  if (!is_integer(matrix) || matrix.axis == 0) return vector;
  return std::min(length, vector % matrix.group == 0 ? vector : matrix.group * (vector / std::min(vector, matrix.group)));
}

void start(const float* bias, int64_t begin, int64_t end, float* y) {
  if (bias) {
    std::copy(bias + begin, bias + end, y + begin);
  } else {
    std::fill(y + begin, y + end, 0.0f);
  }
}

// Where units are short, threads that shared out the outputs would read pieces too short for the memory to be fast. Then
// the units are shared out as well, in this many parts whatever the number of threads, and the parts' sums added in order.
constexpr int64_t kParts = 4;
constexpr int64_t kShortUnit = 8192;  // bytes

int64_t unit_bytes(const UnitMatrix& matrix) { return matrix.format == kInt4 ? matrix.length / 2 : matrix.length; }

int64_t parts_of(const UnitMatrix& matrix, const Scratch& token) {
  const bool is_short = is_integer(matrix) && token.rounds && unit_bytes(matrix) <= kShortUnit;
  return is_short && token.kept.count >= 8 * kParts ? kParts : 1;
}

// y[begin:end] += part `part` of `parts` of the kept units.
void add_part(const UnitMatrix& matrix, const Scratch& token, int64_t part, int64_t parts, int64_t begin, int64_t end,
              float* y) {
  if (begin >= end) return;
  if (!is_integer(matrix)) {
    kernels().add_floats(matrix, token.kept.unit.data(), token.kept.x.data(), token.kept.count, begin, end, y);
  } else if (!token.rounds) {
    add_widened(matrix, token.kept, begin, end, y);
  } else if (matrix.axis == 0) {
    const int64_t count = static_cast<int64_t>(token.chunks.size());
    const int64_t first = count * part / parts, last = count * (part + 1) / parts;
    kernels().add_codes(matrix, token.chunks.data() + first, last - first, begin, end, y);
    if (matrix.minima == nullptr) return;
    const int64_t groups = ceil_div(matrix.units, matrix.group);
    const UnitMatrix minima{matrix.minima, nullptr, nullptr, groups, matrix.length, 0, matrix.tables, 0};
    kernels().add_floats(minima, token.chunk_group.data() + first, token.chunk_x.data() + first, last - first, begin,
                         end, y);
  } else {
    const int64_t count = ceil_div(token.kept.count, kChunk);
    const int64_t first = count * part / parts * kChunk, last = count * (part + 1) / parts * kChunk;
    add_scaled(matrix, token.kept, first, std::min(last, token.kept.count), begin, end, y);
  }
}

// z[N] = bias + the kept units. `finish(begin, end)` is called once for every piece of [0, outputs) when z is there;
// with `halves`, a piece of the outputs is a piece of the first half of z and the same of the second.
template <class Finish>
void gather(const UnitMatrix& matrix, const Scratch& token, const float* bias, bool halves, float* z,
            std::vector<float>& sums, Parallel& parallel, Finish&& finish) {
  const int64_t outputs = halves ? matrix.length / 2 : matrix.length, step = cut(matrix, outputs);
  if (outputs == 0) return;
  const int64_t parts = parts_of(matrix, token);
  const auto each_range = [&](int64_t begin, int64_t end, auto&& body) {
    body(begin, end);
    if (halves) body(begin + outputs, end + outputs);
  };
  if (parts == 1) {
    by_pieces(parallel, outputs, step, [&](int64_t begin, int64_t end) {
      each_range(begin, end, [&](int64_t from, int64_t to) {
        start(bias, from, to, z);
        add_part(matrix, token, 0, 1, from, to, z);
      });
      finish(begin, end);
    });
    return;
  }
  sums.resize(parts * matrix.length);
  const int64_t steps = ceil_div(outputs, step);
  const int64_t pieces = std::min<int64_t>(ceil_div(std::max(parallel.width(), 1), parts), steps);
  parallel_for(parallel, parts * pieces, [&](int64_t i) {
    const int64_t part = i / pieces, piece = i % pieces;
    float* sum = sums.data() + part * matrix.length;
    each_range(steps * piece / pieces * step, std::min(outputs, steps * (piece + 1) / pieces * step),
               [&](int64_t from, int64_t to) {
                 start(part == 0 ? bias : nullptr, from, to, sum);
                 add_part(matrix, token, part, parts, from, to, sum);
               });
  });
  for (int64_t o = 0; o < matrix.length; ++o) {
    float sum = sums[o];
    for (int64_t part = 1; part < parts; ++part) sum += sums[part * matrix.length + o];
    z[o] = sum;
  }
  finish(0, outputs);
}

}  // namespace

void gather_linear(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, int64_t tokens,
                   float* y, Parallel& parallel) {
  if (tokens > few_tokens(matrix)) {
    return gather_many(matrix, x, mask, bias, tokens, y, parallel);
  }
  Scratch& token = scratch();
  for (int64_t t = 0; t < tokens; ++t, x += matrix.units, mask += matrix.units, y += matrix.length) {
    prepare(matrix, x, mask, token);
    gather(matrix, token, bias, false, y, token.sums, parallel, [](int64_t, int64_t) {});
  }
}

void gather_glu(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, Activation activation,
                int64_t tokens, float* hidden, Parallel& parallel) {
  if (tokens > few_tokens(matrix)) {
    return gather_glu_many(matrix, x, mask, bias, activation, tokens, hidden, parallel);
  }
  Scratch& token = scratch();
  const int64_t half = matrix.length / 2;
  token.z.resize(matrix.length);
  float* z = token.z.data();
  for (int64_t t = 0; t < tokens; ++t, x += matrix.units, mask += matrix.units, hidden += half) {
    prepare(matrix, x, mask, token);
    gather(matrix, token, bias, true, z, token.sums, parallel, [&](int64_t begin, int64_t end) {
      kernels().activate(activation, z + begin, z + half + begin, end - begin, hidden + begin);
    });
  }
}

}  // namespace dipc

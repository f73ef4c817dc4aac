// Products with the kept units of a unit-major matrix: which units, in which groups, on which threads and processor.
//
// Work is cut by outputs (or by units where each unit gives one output), never by what is summed, so that results do
// not depend on the number of threads.
#include "gemv.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "gemv_generic.h"

namespace dipc {
namespace {

const Kernels& choose() {
#if defined(DIPC_X86)
  const char* forced = std::getenv("DIPC_ISA");
  const bool below_512 = forced && std::strcmp(forced, "avx512-vnni") != 0;
  const bool below_avx2 = below_512 && std::strcmp(forced, "avx2") != 0;
  __builtin_cpu_init();
  if (!below_512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    return avx512_kernels();
  }
  if (!below_avx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return avx2_kernels();
  }
#endif
  return portable_kernels();
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

bool is_integer(const UnitMatrix& matrix) { return matrix.format == kInt8 || matrix.format == kInt4; }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

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
  bool finite;
  std::vector<float> z;
  std::vector<int32_t> unit;
  std::vector<int16_t> q;
  std::vector<int8_t> high, low;
  std::vector<Chunk> chunks;
  std::vector<float> products, step;
  std::vector<int32_t> scaled_high, scaled_low, zero_sum;
};

Scratch& scratch() {
  static thread_local Scratch mine;
  return mine;
}

bool all_finite(const float* x, int64_t count) {
  float sum = 0.0f;
  for (int64_t i = 0; i < count; ++i) sum += x[i] * 0.0f;  // 0, or NaN
  return sum == 0.0f;
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
    out += chunk.count;
    first = last;
  }
}

// y[begin:end] += the kept units of scales that travel with them.
void add_scaled(const UnitMatrix& matrix, const Kept& kept, int64_t begin, int64_t end, float* y) {
  Scratch& s = scratch();
  const int64_t first_group = begin / matrix.group, groups = ceil_div(end, matrix.group) - first_group;
  const int64_t count = kept.count;
  s.products.resize((kChunk + 1) * std::max<int64_t>(groups, 16));
  s.step.resize(groups);
  s.zero_sum.resize(groups);
  s.scaled_high.resize(kChunk / 4 * groups + 4);
  s.scaled_low.resize(kChunk / 4 * groups + 4);
  constexpr int64_t kAhead = 32;
  int32_t unit[kChunk + kAhead];
  float x[kChunk];
  for (int64_t first = 0; first < count; first += kChunk) {
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

// The same without rounding the activations, for those that cannot be: infinities and NaN.
void add_widened(const UnitMatrix& matrix, const Kept& kept, int64_t begin, int64_t end, float* y) {
  std::vector<float> row(matrix.length);
  for (int64_t j = 0; j < kept.count; ++j) {
    kernels().widen(matrix, kept.unit[j], row.data());
    for (int64_t o = begin; o < end; ++o) y[o] += kept.x[j] * row[o];
  }
}

// y[begin:end] += the kept units.
void add_units(const UnitMatrix& matrix, const Scratch& token, int64_t begin, int64_t end, float* y) {
  if (begin >= end) return;
  if (is_integer(matrix) && !token.finite) {
    add_widened(matrix, token.kept, begin, end, y);
  } else if (!is_integer(matrix)) {
    const int64_t count = token.kept.count;
    kernels().add_floats(matrix, token.kept.unit.data(), token.kept.x.data(), count, begin, end, y);
  } else if (matrix.axis == 0) {
    const int64_t count = static_cast<int64_t>(token.chunks.size());
    kernels().add_codes(matrix, token.chunks.data(), count, begin, end, y);
  } else {
    add_scaled(matrix, token.kept, begin, end, y);
  }
}

void prepare(const UnitMatrix& matrix, const float* x, const uint8_t* mask, Scratch& s) {
  s.kept.find(x, mask, matrix.units);
  if (!is_integer(matrix)) return;
  s.finite = all_finite(s.kept.x.data(), s.kept.count);
  if (s.finite && matrix.axis == 0) make_chunks(matrix, s);
}

// Where pieces may be cut: vectors are kept whole, and so are groups of outputs that share a scale.
int64_t cut(const UnitMatrix& matrix, int64_t length) {
  const int64_t vector = is_integer(matrix) ? 128 : 64;
  if (!is_integer(matrix) || matrix.axis == 0) return vector;
  return std::min(length, vector % matrix.group == 0 ? vector : matrix.group * (vector / std::min(vector, matrix.group)));
}

// Cuts [0, length) into pieces, one for each thread, and calls body(begin, end).
template <class Body>
void by_pieces(Parallel& parallel, int64_t length, int64_t unit, Body&& body) {
  if (length == 0) return;
  const int64_t steps = ceil_div(length, std::max<int64_t>(unit, 1));
  const int64_t pieces = std::min<int64_t>(std::max(parallel.width(), 1), steps);
  parallel_for(parallel, pieces, [&](int64_t i) {
    const int64_t begin = steps * i / pieces * unit, end = std::min(length, steps * (i + 1) / pieces * unit);
    body(begin, end);
  });
}

void start(const float* bias, int64_t begin, int64_t end, float* y) {
  if (bias) {
    std::copy(bias + begin, bias + end, y + begin);
  } else {
    std::fill(y + begin, y + end, 0.0f);
  }
}

float activate(Activation activation, float x) {
  switch (activation) {
    case kSilu:
      return x / (1.0f + std::exp(-x));
    case kGelu:
      return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752440f));
    case kGeluTanh: {
      const float inner = 0.79788456080286535588f * (x + 0.044715f * x * x * x);
      return 0.5f * x * (1.0f + std::tanh(inner));
    }
    default:
      return x > 0 ? x : (x != x ? x : 0.0f);
  }
}

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
  kernels().widen(matrix, unit, row.data());
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

bool is_valid(const UnitMatrix& m) {
  if (m.units < 0 || m.length < 0 || m.format < kFloat32 || m.format > kInt4) return false;
  if ((m.axis != 0 && m.axis != 1) || (m.data == nullptr && m.units * m.length > 0)) return false;
  if (!is_integer(m)) return true;
  return m.group > 0 && m.scales != nullptr && (m.format != kInt4 || m.length % 2 == 0);
}

void gather_linear(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, int64_t tokens,
                   float* y, Parallel& parallel) {
  Scratch& token = scratch();
  for (int64_t t = 0; t < tokens; ++t, x += matrix.units, mask += matrix.units, y += matrix.length) {
    prepare(matrix, x, mask, token);
    by_pieces(parallel, matrix.length, cut(matrix, matrix.length), [&](int64_t begin, int64_t end) {
      start(bias, begin, end, y);
      add_units(matrix, token, begin, end, y);
    });
  }
}

void gather_glu(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, Activation activation,
                int64_t tokens, float* hidden, Parallel& parallel) {
  Scratch& token = scratch();
  const int64_t half = matrix.length / 2;
  token.z.resize(matrix.length);
  float* z = token.z.data();
  for (int64_t t = 0; t < tokens; ++t, x += matrix.units, mask += matrix.units, hidden += half) {
    prepare(matrix, x, mask, token);
    by_pieces(parallel, half, cut(matrix, half), [&](int64_t begin, int64_t end) {
      for (const int64_t shift : {int64_t{0}, half}) {
        start(bias, begin + shift, end + shift, z);
        add_units(matrix, token, begin + shift, end + shift, z);
      }
      for (int64_t i = begin; i < end; ++i) hidden[i] = activate(activation, z[i]) * z[half + i];
    });
  }
}

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

void widen(const UnitMatrix& matrix, int64_t first, int64_t count, float* rows) {
  for (int64_t i = 0; i < count; ++i) kernels().widen(matrix, first + i, rows + i * matrix.length);
}

const char* isa_name() { return kernels().name; }

}  // namespace dipc

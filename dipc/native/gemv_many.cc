// The products of many tokens: a dense product in tiles, of activations that are zero where the mask is.
//
// A tile of outputs takes a block of units at a time, widened to float32 in the nearest cache where it is stored
// otherwise, and multiplies it by all tokens of a batch before the next one is read.
#include "gemv_many.h"

#include <algorithm>
#include <vector>

#include "gemv_cut.h"
#include "gemv_kernels.h"

namespace dipc {
namespace {

constexpr int64_t kTile = 256;   // outputs
constexpr int64_t kBlock = 32;   // units: with the tile 32 KiB of float32
constexpr int64_t kBatch = 128;  // tokens whose sums for a tile stay in the second-level cache

// A batch of tokens: the units that any of them keeps, and what each multiplies them by.
struct Batch {
  std::vector<int32_t> unit;
  std::vector<float> x;  // [tokens, count]
  int64_t tokens, count;

  Batch(const float* values, const uint8_t* mask, int64_t of_tokens, int64_t units) : tokens(of_tokens) {
    std::vector<uint8_t> any(units, 0);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < units; ++i) any[i] |= mask[t * units + i];
    }
    unit.resize(units + 1);
    count = 0;
    for (int64_t i = 0; i < units; ++i) {
      unit[count] = static_cast<int32_t>(i);
      count += any[i] != 0;
    }
    x.resize(tokens * count);
    for (int64_t t = 0; t < tokens; ++t) {
      const float* from = values + t * units;
      const uint8_t* kept = mask + t * units;
      float* to = x.data() + t * count;
      if (count == units) {
        for (int64_t i = 0; i < units; ++i) to[i] = kept[i] ? from[i] : 0.0f;
      } else {
        for (int64_t j = 0; j < count; ++j) to[j] = kept[unit[j]] ? from[unit[j]] : 0.0f;
      }
    }
  }
};

struct Buffers {
  std::vector<float> rows = std::vector<float>(kBlock * kTile);
  std::vector<float> sums = std::vector<float>(2 * kBatch * kTile);
};

Buffers& buffers() {
  static thread_local Buffers mine;
  return mine;
}

// Asks for the next block's rows while this one is multiplied; inlined, for a compiler may drop calls without effect.
DIPC_INLINE void prefetch(const UnitMatrix& matrix, const Batch& batch, int64_t first, int64_t begin, int64_t end) {
#if defined(__GNUC__)
  constexpr int64_t kBits[] = {32, 16, 16, 8, 4};
  const int64_t bits = kBits[matrix.format], last = std::min(first + kBlock, batch.count);
  const char* data = static_cast<const char*>(matrix.data);
  for (int64_t j = first; j < last; ++j) {
    const int64_t at = batch.unit[j] * matrix.length;
    for (const char* p = data + (at + begin) * bits / 8; p < data + (at + end) * bits / 8; p += 64) {
      __builtin_prefetch(p, 0, 2);
    }
  }
#else
  (void)matrix, (void)batch, (void)first, (void)begin, (void)end;
#endif
}

// sums[tokens, kTile] = bias + x times the units, for the outputs begin..end of one tile.
void multiply_tile(const UnitMatrix& matrix, const Batch& batch, const float* bias, int64_t begin, int64_t end,
                   float* sums) {
  const int64_t outputs = end - begin;
  for (int64_t t = 0; t < batch.tokens; ++t) {
    float* sum = sums + t * kTile;
    if (bias) {
      std::copy(bias + begin, bias + end, sum);
    } else {
      std::fill(sum, sum + outputs, 0.0f);
    }
  }
  float* rows = buffers().rows.data();
  for (int64_t first = 0; first < batch.count; first += kBlock) {
    const int64_t count = std::min(kBlock, batch.count - first);
    const float* row[kBlock];
    prefetch(matrix, batch, first + kBlock, begin, end);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t unit = batch.unit[first + k];
      if (matrix.format == kFloat32) {
        row[k] = static_cast<const float*>(matrix.data) + unit * matrix.length + begin;
      } else {
        kernels().widen(matrix, unit, begin, end, rows + k * kTile);
        row[k] = rows + k * kTile;
      }
    }
    kernels().add_rows(row, count, batch.x.data() + first, batch.count, batch.tokens, outputs, sums, kTile);
  }
}

// Calls body(batch, first token, begin, end) for batches of tokens and tiles of outputs, the tiles on all threads.
template <class Body>
void by_tiles(const UnitMatrix& matrix, const float* x, const uint8_t* mask, int64_t tokens, int64_t outputs,
              Parallel& parallel, Body&& body) {
  for (int64_t first = 0; first < tokens; first += kBatch) {
    const int64_t at = first * matrix.units;
    const Batch batch(x + at, mask + at, std::min(kBatch, tokens - first), matrix.units);
    // Neighbouring tiles to one thread: what hardware prefetches beyond a tile is then its own next.
    by_pieces(parallel, outputs, kTile, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; tile += kTile) body(batch, first, tile, std::min(end, tile + kTile));
    });
  }
}

}  // namespace

void gather_many(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, int64_t tokens,
                 float* y, Parallel& parallel) {
  by_tiles(matrix, x, mask, tokens, matrix.length, parallel,
           [&](const Batch& batch, int64_t first, int64_t begin, int64_t end) {
             float* sums = buffers().sums.data();
             multiply_tile(matrix, batch, bias, begin, end, sums);
             for (int64_t t = 0; t < batch.tokens; ++t) {
               std::copy_n(sums + t * kTile, end - begin, y + (first + t) * matrix.length + begin);
             }
           });
}

void gather_glu_many(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias,
                     Activation activation, int64_t tokens, float* hidden, Parallel& parallel) {
  const int64_t half = matrix.length / 2;
  by_tiles(matrix, x, mask, tokens, half, parallel,
           [&](const Batch& batch, int64_t first, int64_t begin, int64_t end) {
             float *gate = buffers().sums.data(), *up = gate + kBatch * kTile;
             multiply_tile(matrix, batch, bias, begin, end, gate);
             multiply_tile(matrix, batch, bias, half + begin, half + end, up);
             for (int64_t t = 0; t < batch.tokens; ++t) {
               activate(activation, gate + t * kTile, up + t * kTile, end - begin, hidden + (first + t) * half + begin);
             }
           });
}

}  // namespace dipc

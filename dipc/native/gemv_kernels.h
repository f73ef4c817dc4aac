// What an instruction set has to offer: the inner loops of selection and of the sparse products.
//
// Each instruction set fills one table, in a file compiled for it; gemv.cc picks a table once per process. The integer
// kernels give the same bits on all of them: sums of integers are exact, and what follows is rounded in one order.
#pragma once

#include <cstdint>

#include "gemv.h"

// For what a compiler would rather call: short steps of an inner loop, and prefetches, whose calls it may drop.
#if defined(__GNUC__)
#define DIPC_INLINE inline __attribute__((always_inline))
#else
#define DIPC_INLINE inline
#endif

namespace dipc {

// Units whose sums stay within 32 bits: 128 activations of 15 bits times codes of 8.
constexpr int64_t kChunk = 128;
// Values of a unit that share a factor in dot_codes: no group that has a fast path is shorter.
constexpr int64_t kFine = 32;
// An activation is rounded to an integer of at most this magnitude, 128 * high + low with |high| <= 127, |low| <= 64.
constexpr int kLargest = 127 * 128;

// Activations of up to kChunk units, rounded to multiples of `step`; padded with zeros to a multiple of four units.
struct Chunk {
  const int32_t* unit;  // [count]
  const int16_t* q;     // [count]
  const int32_t* high;  // [count / 4], of four signed bytes each
  const int32_t* low;   // [count / 4]
  int64_t count;
  int64_t group;        // which row of the scales belongs to all of them
  float step;
  int32_t sum;          // of q
};

// Activations of up to kChunk units by groups of outputs: each is x times the unit's scale there. G' groups in range.
struct ScaledChunk {
  const int32_t* unit;  // [count]; behind it `ahead` units that come next, for prefetching
  int64_t ahead;
  const int32_t* high;  // [count / 4, groups], readable for four more
  const int32_t* low;   // [count / 4, groups], likewise
  int64_t count;
  int64_t first_group, groups;
  const float* step;        // [groups]
  const int32_t* zero_sum;  // [groups], sum of q times the unit's zero point
};

struct Kernels {
  const char* name;
  // The bits of the scores as integers of the same order; scores of units outside the cache are scaled by gamma.
  void (*order)(const float* score, const uint8_t* cached, float gamma, int64_t units, uint32_t* key);
  // Copies the keys from low to high, in `found` number, to a buffer with room for 16 more than all; returns how many
  // keys are above high.
  int64_t (*between)(const uint32_t* key, int64_t units, uint32_t low, uint32_t high, uint32_t* middle, int64_t* found);
  // mask[i] = key[i] > cut.
  void (*mark_above)(const uint32_t* key, int64_t units, uint32_t cut, uint8_t* mask);
  // The kept units, ascending, and their values; returns how many. Both have room for all units and 16 more.
  int64_t (*find_kept)(const float* values, const uint8_t* mask, int64_t units, int32_t* unit, float* x);
  // Rounds `count` finite activations; returns the step, and the sum of q.
  float (*round_chunk)(const float* x, int64_t count, int16_t* q, int8_t* high, int8_t* low, int32_t* sum);
  // y[begin:end] += sum over j of x[j] matrix[unit[j], begin:end], for the float formats.
  void (*add_floats)(const UnitMatrix&, const int32_t* unit, const float* x, int64_t count, int64_t begin, int64_t end,
                     float* y);
  // y[begin:end] += step * scales[group, :] * (sum of q * (codes - zeros[group, :])) for every chunk; minima are added by
  // whoever calls this.
  // The units of all chunks lie behind one another in memory.
  void (*add_codes)(const UnitMatrix&, const Chunk* chunks, int64_t count, int64_t begin, int64_t end, float* y);
  // The same where the scales travel with the units; begin and end bound whole groups of outputs (or the end of all).
  void (*add_scaled_codes)(const UnitMatrix&, const ScaledChunk&, int64_t begin, int64_t end, float* y);
  // Rounds x[j] * scales[unit[j], group] for `groups` groups: what ScaledChunk points to. The step of a group that has
  // an infinity or NaN is one too.
  void (*scale_chunk)(const UnitMatrix&, const int32_t* unit, const float* x, int64_t count, int64_t first_group,
                      int64_t groups, float* scratch, int32_t* high, int32_t* low, float* step, int32_t* zero_sum);
  // matrix[unit, :] . x for the float formats.
  float (*dot_floats)(const UnitMatrix&, int64_t unit, const float* x);
  // Sum over i of factor[i / kFine] * q[i] * code[unit, i], for the integer formats. q holds kChunk values for each
  // kChunk of the unit, arranged(format, i) of stored_units.h says where, and zeros beyond its end.
  // Meanwhile the unit `next`, which is read some units later, is fetched.
  float (*dot_codes)(const UnitMatrix&, int64_t unit, int64_t next, const int16_t* q, const float* factor);
  // row[0:end-begin] = matrix[unit, begin:end] as float32.
  void (*widen)(const UnitMatrix&, int64_t unit, int64_t begin, int64_t end, float* row);
  // y[T, 0:outputs] += x[T, 0:count] times the rows; rows of x and of y lie `x_stride` and `y_stride` apart.
  void (*add_rows)(const float* const* row, int64_t count, const float* x, int64_t x_stride, int64_t tokens,
                   int64_t outputs, float* y, int64_t y_stride);
  // hidden[0:count] = act(gate) * up.
  void (*activate)(Activation, const float* gate, const float* up, int64_t count, float* hidden);
};

// Those of the best instruction set that this processor has, or that the environment variable DIPC_ISA asks for.
const Kernels& kernels();

const Kernels& portable_kernels();
#if defined(DIPC_X86)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace dipc

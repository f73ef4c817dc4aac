// Products of one or a few tokens with a unit-major matrix, of which only the kept units are read.
//
// Shapes: T tokens, U units, N length of a unit, F = N / 2 where a unit is a gate column followed by an up column.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace dipc {

enum Format : int32_t { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2, kInt8 = 3, kInt4 = 4 };
enum Activation : int32_t { kSilu = 0, kGelu = 1, kGeluTanh = 2, kRelu = 3 };

// A unit-major matrix: row u, of N values, is what unit u is made of. README.md states the formats.
struct UnitMatrix {
  const void* data;
  const void* scales;    // of `tables`: [ceil(U / group), N] where axis is 0, [U, ceil(N / group)] where it is 1
  const uint8_t* zeros;  // as scales, or null for the middle code, or for 0 where there are minima
  int64_t units, length;
  int64_t group;
  int32_t format;
  int32_t axis;
  const void* minima = nullptr;  // as scales, what code 0 stands for; not beside zeros
  int32_t tables = kFloat16;     // or kFloat32
};

// Whether the kernels cover a matrix: its format is known and its groups make sense.
bool is_valid(const UnitMatrix& matrix);

// y[T,N] = bias[N] + sum over kept i of x[T,i] matrix[i,:]. `bias` may be null.
void gather_linear(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, int64_t tokens,
                   float* y, Parallel& parallel);

// hidden[T,F] = act(z[:F]) * z[F:] with z = gather_linear(...).
void gather_glu(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, Activation activation,
                int64_t tokens, float* hidden, Parallel& parallel);

// y[T,u] = matrix[u,:] . x[T,:] + bias[u] where kept, else 0.
void row_linear(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, int64_t tokens,
                float* y, Parallel& parallel);

// rows[count, N] = units first..first+count of the matrix as float32.
void widen(const UnitMatrix& matrix, int64_t first, int64_t count, float* rows);

// hidden[0:count] = act(gate) * up, the same bits on every processor but for the exact GELU.
void activate(Activation activation, const float* gate, const float* up, int64_t count, float* hidden);

// The instruction set in use: "avx512-vnni", "avx2" or "portable".
const char* isa_name();

}  // namespace dipc

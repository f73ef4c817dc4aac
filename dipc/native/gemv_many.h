// The products of many tokens: what any of them keeps is read once for all.
#pragma once

#include <cstdint>

#include "gemv.h"

namespace dipc {

// Up to so many tokens, each reads what it keeps; more are faster together (at density 0.5, README.md).
inline int64_t few_tokens(const UnitMatrix& matrix) {
  if (matrix.format == kFloat32) return 2;
  return matrix.format == kInt8 || matrix.format == kInt4 ? 24 : 3;
}

// As gather_linear and gather_glu, for any number of tokens. Activations are not rounded.
void gather_many(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias, int64_t tokens,
                 float* y, Parallel& parallel);
void gather_glu_many(const UnitMatrix& matrix, const float* x, const uint8_t* mask, const float* bias,
                     Activation activation, int64_t tokens, float* hidden, Parallel& parallel);

}  // namespace dipc

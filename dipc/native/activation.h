// The activations of gated linear units, one value at a time.
#pragma once

#include <cmath>

#include "gemv.h"

namespace dipc {

inline float activate(Activation activation, float x) {
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

}  // namespace dipc

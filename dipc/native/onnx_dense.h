// The products for many tokens: a dense product by ONNX Runtime's own Gemm, with what the masks leave out set to zero.
#pragma once

#include "gemv.h"
#include "onnx_kernel.h"

namespace dipc {

// One product of one call: y of `tokens` rows from x and mask.
struct DenseCall {
  UnitMatrix matrix;
  const OrtValue* units;  // the tensor of `matrix`
  const float* x;
  const uint8_t* mask;
  const float* bias;
  int64_t tokens;
};

class DenseProduct {
 public:
  // `by_row` computes units times x, as row_linear does, otherwise x times units.
  DenseProduct(const Attributes& attributes, bool by_row);
  ~DenseProduct();
  DenseProduct(const DenseProduct&) = delete;
  DenseProduct& operator=(const DenseProduct&) = delete;

  // As the functions of the same names in gemv.h.
  void gather_linear(Call& call, const DenseCall& product, float* y) const;
  void gather_glu(Call& call, const DenseCall& product, Activation activation, float* hidden) const;
  void row_linear(Call& call, const DenseCall& product, float* y) const;

 private:
  class View;

  void gather_block(Call& call, const DenseCall& product, float* y) const;
  void row_block(Call& call, const DenseCall& product, float* y) const;
  void multiply(Call& call, const OrtValue* a, const OrtValue* b, const OrtValue* added, OrtValue* y) const;

  const OrtApi& api_;
  OrtMemoryInfo* memory_ = nullptr;
  OrtOp* gemm_ = nullptr;
};

}  // namespace dipc

#include "onnx_dense.h"

#include <algorithm>
#include <vector>

namespace dipc {
namespace {

constexpr int64_t kBlockTokens = 512;                 // more read the matrix again, but bound the memory
constexpr int64_t kWideBytes = int64_t{16} << 20;     // of units widened to float32 at a time

int64_t wide_units(const UnitMatrix& matrix) {
  return std::max<int64_t>(1, kWideBytes / (std::max<int64_t>(matrix.length, 1) * static_cast<int64_t>(sizeof(float))));
}

// Calls body(begin, end) for pieces of [0, n), one for each thread.
template <class Body>
void by_rows(Parallel& threads, int64_t n, Body&& body) {
  const int64_t pieces = std::min<int64_t>(n, threads.width());
  parallel_for(threads, pieces, [&](int64_t i) { body(n * i / pieces, n * (i + 1) / pieces); });
}

// Calls body(product, first) for blocks of tokens; y of a block begins at row `first`.
template <class Body>
void by_blocks(const DenseCall& all, int64_t x_columns, Body&& body) {
  for (int64_t first = 0; first < all.tokens; first += kBlockTokens) {
    DenseCall block = all;
    block.tokens = std::min(kBlockTokens, all.tokens - first);
    block.x += first * x_columns;
    block.mask += first * all.matrix.units;
    body(block, first);
  }
}

// kept[T, count] = x[T, first : first + count] where the mask keeps it, else 0.
void keep(Parallel& threads, const DenseCall& product, int64_t first, int64_t count, float* kept) {
  const int64_t units = product.matrix.units;
  by_rows(threads, product.tokens, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* x = product.x + t * units + first;
      const uint8_t* mask = product.mask + t * units + first;
      for (int64_t i = 0; i < count; ++i) kept[t * count + i] = mask[i] ? x[i] : 0.0f;
    }
  });
}

void widen_in_parallel(Parallel& threads, const UnitMatrix& matrix, int64_t first, int64_t count, float* rows) {
  by_rows(threads, count, [&](int64_t begin, int64_t end) {
    widen(matrix, first + begin, end - begin, rows + begin * matrix.length);
  });
}

}  // namespace

// Memory as a tensor [rows, columns] of ONNX Runtime.
class DenseProduct::View {
 public:
  View(const DenseProduct& owner, const float* data, int64_t rows, int64_t columns) : api_(owner.api_) {
    const int64_t dims[] = {rows, columns};
    check(api_.CreateTensorWithDataAsOrtValue(owner.memory_, const_cast<float*>(data),
                                              static_cast<size_t>(rows * columns) * sizeof(float), dims, 2,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value_));
  }
  ~View() { api_.ReleaseValue(value_); }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  OrtValue* value() const { return value_; }

 private:
  const OrtApi& api_;
  OrtValue* value_ = nullptr;
};

DenseProduct::DenseProduct(const Attributes& attributes, bool by_row) : api_(attributes.api) {
  const float one = 1.0f;
  const int64_t no = 0, by_row_value = by_row;
  OrtOpAttr* options[4] = {};
  OrtStatus* status = api_.CreateOpAttr("alpha", &one, 1, ORT_OP_ATTR_FLOAT, &options[0]);
  if (status == nullptr) status = api_.CreateOpAttr("beta", &one, 1, ORT_OP_ATTR_FLOAT, &options[1]);
  if (status == nullptr) status = api_.CreateOpAttr("transA", &no, 1, ORT_OP_ATTR_INT, &options[2]);
  if (status == nullptr) status = api_.CreateOpAttr("transB", &by_row_value, 1, ORT_OP_ATTR_INT, &options[3]);
  if (status == nullptr) {
    const char* type_name = "T";
    const ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    status = api_.CreateOp(attributes.info, "Gemm", "", 13, &type_name, &type, 1, options, 4, 3, 1, &gemm_);
  }
  for (OrtOpAttr* option : options) api_.ReleaseOpAttr(option);
  if (status == nullptr) status = api_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory_);
  if (status != nullptr) {
    api_.ReleaseOp(gemm_);
    throw Failure{status};
  }
}

DenseProduct::~DenseProduct() {
  api_.ReleaseOp(gemm_);
  api_.ReleaseMemoryInfo(memory_);
}

// y = a b + added, or a b^T + added.
void DenseProduct::multiply(Call& call, const OrtValue* a, const OrtValue* b, const OrtValue* added,
                            OrtValue* y) const {
  const OrtValue* inputs[] = {a, b, added};
  check(api_.InvokeOp(call.context(), gemm_, inputs, 3, &y, 1));
}

void DenseProduct::gather_block(Call& call, const DenseCall& product, float* y) const {
  const UnitMatrix& matrix = product.matrix;
  const View bias(*this, product.bias, 1, matrix.length), sum(*this, y, product.tokens, matrix.length);
  const bool is_wide = matrix.format == kFloat32;
  const int64_t step = is_wide ? matrix.units : std::min(matrix.units, wide_units(matrix));
  const ScratchTensor kept(call, memory_, product.tokens, step);
  const ScratchTensor wide(call, memory_, is_wide ? 0 : step, matrix.length);
  for (int64_t first = 0; first < matrix.units; first += step) {
    const int64_t count = std::min(step, matrix.units - first);
    keep(call.threads(), product, first, count, kept.data());
    const View a(*this, kept.data(), product.tokens, count);
    const OrtValue* added = first == 0 ? bias.value() : sum.value();
    if (is_wide) {
      multiply(call, a.value(), product.units, added, sum.value());
    } else {
      widen_in_parallel(call.threads(), matrix, first, count, wide.data());
      const View b(*this, wide.data(), count, matrix.length);
      multiply(call, a.value(), b.value(), added, sum.value());
    }
  }
}

void DenseProduct::gather_linear(Call& call, const DenseCall& product, float* y) const {
  by_blocks(product, product.matrix.units, [&](const DenseCall& block, int64_t first) {
    gather_block(call, block, y + first * product.matrix.length);
  });
}

void DenseProduct::gather_glu(Call& call, const DenseCall& product, Activation activation, float* hidden) const {
  const int64_t length = product.matrix.length, half = length / 2;
  const ScratchTensor scratch(call, memory_, std::min(kBlockTokens, product.tokens), length);
  float* z = scratch.data();
  by_blocks(product, product.matrix.units, [&](const DenseCall& block, int64_t first) {
    gather_block(call, block, z);
    by_rows(call.threads(), block.tokens, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const float* gate = z + t * length;
        float* out = hidden + (first + t) * half;
        activate(activation, gate, gate + half, half, out);
      }
    });
  });
}

void DenseProduct::row_block(Call& call, const DenseCall& product, float* y) const {
  const UnitMatrix& matrix = product.matrix;
  const bool is_wide = matrix.format == kFloat32;
  const int64_t step = is_wide ? matrix.units : std::min(matrix.units, wide_units(matrix));
  const View x(*this, product.x, product.tokens, matrix.length);
  const ScratchTensor wide(call, memory_, is_wide ? 0 : step, matrix.length);
  const ScratchTensor all(call, memory_, product.tokens, step);  // without the mask
  for (int64_t first = 0; first < matrix.units; first += step) {
    const int64_t count = std::min(step, matrix.units - first);
    const View bias(*this, product.bias + first, 1, count), sum(*this, all.data(), product.tokens, count);
    if (is_wide) {
      multiply(call, x.value(), product.units, bias.value(), sum.value());
    } else {
      widen_in_parallel(call.threads(), matrix, first, count, wide.data());
      const View b(*this, wide.data(), count, matrix.length);
      multiply(call, x.value(), b.value(), bias.value(), sum.value());
    }
    by_rows(call.threads(), product.tokens, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t at = t * matrix.units + first;
        for (int64_t i = 0; i < count; ++i) y[at + i] = product.mask[at + i] ? all.data()[t * count + i] : 0.0f;
      }
    });
  }
}

void DenseProduct::row_linear(Call& call, const DenseCall& product, float* y) const {
  by_blocks(product, product.matrix.length, [&](const DenseCall& block, int64_t first) {
    row_block(call, block, y + first * product.matrix.units);
  });
}

}  // namespace dipc

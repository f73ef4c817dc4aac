// The ONNX Runtime kernels of the sparse products: PackedGatherLinear, PackedRowLinear and PackedGather*Glu, each for
// float units and, with the endings Int8 and Int4, for quantised ones; the ending Minima says that these have minima in
// place of zero points.
#include <algorithm>
#include <cstring>
#include <limits>

#include "gemv.h"
#include "onnx_dense.h"
#include "onnx_kernel.h"

namespace dipc {
namespace {

enum class Product { kGather, kGlu, kRow };

struct Name {
  const char* text;
  Product product;
  Activation activation;
};
constexpr Name kNames[] = {
    {"PackedGatherLinear", Product::kGather, kSilu},     {"PackedRowLinear", Product::kRow, kSilu},
    {"PackedGatherSwiGlu", Product::kGlu, kSilu},        {"PackedGatherGeGlu", Product::kGlu, kGelu},
    {"PackedGatherGeGluTanh", Product::kGlu, kGeluTanh}, {"PackedGatherReGlu", Product::kGlu, kRelu},
};

struct Encoding {
  const char* ending;
  Format format;  // of codes; the type of the units says which floats they are
  bool has_codes, has_minima;
};
constexpr Encoding kEncodings[] = {{"", kFloat32, false, false},
                                   {"Int8", kInt8, true, false},
                                   {"Int4", kInt4, true, false},
                                   {"Int8Minima", kInt8, true, true},
                                   {"Int4Minima", kInt4, true, true}};

// Up to how many tokens the library's own products are used; above, ONNX Runtime's dense one, which is faster for rows
// and, where this library has no vectors of its own, for everything.
int64_t own_tokens(Product product) {
  if (product == Product::kRow) return 4;
  return std::strcmp(isa_name(), "portable") == 0 ? 8 : std::numeric_limits<int64_t>::max();
}

int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// The last dimension of `dims` replaced.
Dims with_last(Dims dims, int64_t last) {
  dims.back() = last;
  return dims;
}

class PackedProduct final : public Kernel {
 public:
  PackedProduct(const Name& name, const Encoding& encoding, const Attributes& attributes)
      : name_(name), encoding_(encoding), dense_(attributes, name.product == Product::kRow) {
    if (!encoding.has_codes) return;
    group_ = attributes.integer("group");
    axis_ = attributes.integer("axis");
    if (group_ < 1) fail(attributes.api, "group is " + std::to_string(group_) + ", not at least 1");
    if (axis_ != 0 && axis_ != 1) fail(attributes.api, "axis is " + std::to_string(axis_) + ", not 0 or 1");
  }

  void compute(Call& call) const override {
    const UnitMatrix matrix = encoding_.has_codes ? codes(call) : values(call);
    if (!is_valid(matrix)) fail(call.api(), "units have a shape that no kernel covers: " + text_of(call.input(2).dims));
    const bool by_row = name_.product == Product::kRow;
    const Tensor& x = call.input(0);
    const int64_t taken = by_row ? matrix.length : matrix.units, given = by_row ? matrix.units : matrix.length;
    if (x.dims.empty() || x.last() != taken) {
      fail(call.api(),
           "x has the shape " + text_of(x.dims) + ", but its last dimension must be " + std::to_string(taken));
    }
    const Tensor& mask = call.input(1, with_last(x.dims, matrix.units));
    const Tensor& bias = call.input(encoding_.has_codes ? 5 : 3, {given});
    const int64_t outputs = name_.product == Product::kGlu ? given / 2 : given;
    auto* y = static_cast<float*>(call.output(0, with_last(x.dims, outputs)).data);
    const DenseCall product{matrix,           call.input(2).value, x.as<float>(), mask.as<uint8_t>(),
                            bias.as<float>(), x.rows()};
    if (product.tokens == 0 || outputs == 0) return;
    if (product.tokens > own_tokens(name_.product) && taken > 0) {
      multiply_dense(call, product, y);
    } else {
      multiply_kept(call, product, y);
    }
  }

 private:
  const Tensor& units_of(const Call& call) const {
    const Tensor& units = call.input(2);
    if (units.dims.size() != 2) {
      fail(call.api(), "units have the shape " + text_of(units.dims) + ", not two dimensions");
    }
    if (name_.product == Product::kGlu && units.last() % 2 != 0) {
      fail(call.api(),
           "units have the odd length " + std::to_string(units.last()) + ", but are a gate and an up column");
    }
    return units;
  }

  UnitMatrix values(const Call& call) const {
    const Tensor& units = units_of(call);
    Format format;
    switch (units.type) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
        format = kFloat32;
        break;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
        format = kFloat16;
        break;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
        format = kBfloat16;
        break;
      default:
        fail(call.api(), "units have the element type " + std::to_string(static_cast<int>(units.type)) +
                             ", not float, float16 or bfloat16");
    }
    return {units.data, nullptr, nullptr, units.dims[0], units.dims[1], 0, format, 0};
  }

  UnitMatrix codes(const Call& call) const {
    const Tensor& units = units_of(call);
    const int64_t count = units.dims[0], length = units.dims[1];
    if (encoding_.format == kInt4 && length % 2 != 0) {
      fail(call.api(), "units have the odd length " + std::to_string(length) + ", but 4-bit codes go in pairs");
    }
    const Dims groups = axis_ == 0 ? Dims{ceil_div(count, group_), length} : Dims{count, ceil_div(length, group_)};
    const Tensor& scales = call.input(3, groups);
    const Tensor* minima = encoding_.has_minima ? &call.input(4, groups) : nullptr;
    return {units.data,
            scales.data,
            minima ? nullptr : zeros_of(call, groups),
            count,
            length,
            group_,
            encoding_.format,
            static_cast<int32_t>(axis_),
            minima ? minima->data : nullptr,
            tables_of(call, scales, minima)};
  }

  // Scales and minima are of one type, float or float16.
  Format tables_of(const Call& call, const Tensor& scales, const Tensor* minima) const {
    const bool alike = minima == nullptr || minima->type == scales.type;
    if (alike && scales.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return kFloat32;
    if (alike && scales.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) return kFloat16;
    fail(call.api(), "scales have the element type " + std::to_string(static_cast<int>(scales.type)) +
                         (alike ? ", not float or float16" : ", and minima another"));
  }

  // Null where one zero point, the middle code, stands for all.
  const uint8_t* zeros_of(const Call& call, const Dims& groups) const {
    const Tensor& zeros = call.input(4);
    if (zeros.dims == groups) return zeros.as<uint8_t>();
    const int middle = encoding_.format == kInt8 ? 128 : 8;
    if (zeros.count() == 1 && *zeros.as<uint8_t>() == middle) return nullptr;
    fail(call.api(), "zeros have the shape " + text_of(zeros.dims) + ", neither " + text_of(groups) +
                         " nor a single " + std::to_string(middle));
  }

  void multiply_kept(Call& call, const DenseCall& p, float* y) const {
    Parallel& threads = call.threads();
    switch (name_.product) {
      case Product::kGather:
        return gather_linear(p.matrix, p.x, p.mask, p.bias, p.tokens, y, threads);
      case Product::kGlu:
        return gather_glu(p.matrix, p.x, p.mask, p.bias, name_.activation, p.tokens, y, threads);
      case Product::kRow:
        return row_linear(p.matrix, p.x, p.mask, p.bias, p.tokens, y, threads);
    }
  }

  void multiply_dense(Call& call, const DenseCall& product, float* y) const {
    switch (name_.product) {
      case Product::kGather:
        return dense_.gather_linear(call, product, y);
      case Product::kGlu:
        return dense_.gather_glu(call, product, name_.activation, y);
      case Product::kRow:
        return dense_.row_linear(call, product, y);
    }
  }

  const Name& name_;
  const Encoding& encoding_;
  int64_t group_ = 0;
  int64_t axis_ = 0;
  DenseProduct dense_;
};

// The name says which product it is, and of which units.
std::unique_ptr<Kernel> make(const OperatorKind& kind, const Attributes& attributes) {
  for (const Name& name : kNames) {
    for (const Encoding& encoding : kEncodings) {
      if (kind.name == std::string(name.text) + encoding.ending) {
        return std::make_unique<PackedProduct>(name, encoding, attributes);
      }
    }
  }
  fail(attributes.api, kind.name + " is no packed product");
}

OperatorKind kind_of(const Name& name, const Encoding& encoding) {
  const ONNXTensorElementDataType units = !encoding.has_codes         ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
                                          : encoding.format == kInt8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                                                                     : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4;
  OperatorKind kind{std::string(name.text) + encoding.ending,
                    {{"x", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
                     {"mask", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
                     {"units", units}},
                    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
                    make,
                    {}};
  if (encoding.has_codes) {
    kind.inputs.push_back({"scales", ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED});
    if (encoding.has_minima) {
      kind.inputs.push_back({"minima", ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED});
    } else {
      kind.inputs.push_back({"zeros", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8});
    }
  }
  kind.inputs.push_back({"bias", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT});
  if (name.product == Product::kRow) {
    kind.shapes = {{1}};
  } else {
    kind.shapes = {{0, 2, name.product == Product::kGlu ? 2 : 1}};
  }
  return kind;
}

}  // namespace

std::vector<OperatorKind> product_kinds() {
  std::vector<OperatorKind> kinds;
  for (const Name& name : kNames) {
    for (const Encoding& encoding : kEncodings) kinds.push_back(kind_of(name, encoding));
  }
  return kinds;
}

}  // namespace dipc

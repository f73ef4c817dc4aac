#include "onnx_kernel.h"

#include <atomic>
#include <new>

#include "thread_pool.h"

namespace dipc {
namespace {

Tensor tensor_of(const OrtApi& api, const OrtValue* value, const char* name) {
  if (value == nullptr) fail(api, std::string(name) + " is missing");
  Tensor tensor{name, value, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}, nullptr};
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus* status = api.GetTensorElementType(info, &tensor.type);
  if (status == nullptr) status = api.GetDimensionsCount(info, &rank);
  if (status == nullptr) {
    tensor.dims.resize(rank);
    status = api.GetDimensions(info, tensor.dims.data(), rank);
  }
  api.ReleaseTensorTypeAndShapeInfo(info);
  check(status);
  check(api.GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
  return tensor;
}

}  // namespace

void fail(const OrtApi& api, const std::string& message) {
  throw Failure{api.CreateStatus(ORT_INVALID_ARGUMENT, message.c_str())};
}

void check(OrtStatus* status) {
  if (status != nullptr) throw Failure{status};
}

std::string text_of(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

int64_t Tensor::count() const {
  int64_t product = 1;
  for (const int64_t dim : dims) product *= dim;
  return product;
}

int64_t Tensor::rows() const {
  int64_t product = 1;
  for (size_t i = 0; i + 1 < dims.size(); ++i) product *= dims[i];
  return product;
}

int RuntimeThreads::width() const {
  static const int cores = available_cores();
  return cores;
}

void RuntimeThreads::run(int64_t n, void (*body)(void*, int64_t), void* context) {
  struct Pieces {
    void (*body)(void*, int64_t);
    void* context;
    std::atomic<bool> failed{false};
  } pieces{body, context};
  // An exception must not pass through the threads of ONNX Runtime.
  const auto run_piece = [](void* all, size_t i) {
    auto* pieces = static_cast<Pieces*>(all);
    try {
      pieces->body(pieces->context, static_cast<int64_t>(i));
    } catch (...) {
      pieces->failed = true;
    }
  };
  if (n <= 0) return;
  if (n == 1) {
    run_piece(&pieces, 0);
  } else {
    check(api_.KernelContext_ParallelFor(context_, run_piece, static_cast<size_t>(n), 0, &pieces));
  }
  if (pieces.failed) throw std::bad_alloc();
}

Call::Call(const OrtApi& api, OrtKernelContext* context, const std::vector<Operand>& inputs)
    : api_(api), context_(context), threads_(api, context) {
  inputs_.reserve(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const OrtValue* value = nullptr;
    check(api.KernelContext_GetInput(context, i, &value));
    inputs_.push_back(tensor_of(api, value, inputs[i].name));
  }
}

const Tensor& Call::input(size_t index, const std::vector<int64_t>& dims) const {
  const Tensor& tensor = inputs_[index];
  if (tensor.dims != dims) {
    fail(api_, tensor.name + " has the shape " + text_of(tensor.dims) + ", not " + text_of(dims));
  }
  return tensor;
}

Tensor Call::output(size_t index, const std::vector<int64_t>& dims) const {
  OrtValue* value = nullptr;
  check(api_.KernelContext_GetOutput(context_, index, dims.data(), dims.size(), &value));
  return tensor_of(api_, value, "output");
}

ScratchTensor::ScratchTensor(const Call& call, const OrtMemoryInfo* memory, int64_t rows, int64_t columns)
    : api_(call.api()) {
  check(api_.KernelContext_GetAllocator(call.context(), memory, &allocator_));
  OrtStatus* status = api_.AllocatorAlloc(allocator_, static_cast<size_t>(rows * columns) * sizeof(float), &data_);
  if (status != nullptr) {
    api_.ReleaseAllocator(allocator_);
    throw Failure{status};
  }
}

ScratchTensor::~ScratchTensor() {
  OrtStatus* status = api_.AllocatorFree(allocator_, data_);
  if (status != nullptr) api_.ReleaseStatus(status);
  api_.ReleaseAllocator(allocator_);
}

int64_t Attributes::integer(const char* name) const {
  int64_t value = 0;
  check(api.KernelInfoGetAttribute_int64(info, name, &value));
  return value;
}

float Attributes::real(const char* name) const {
  float value = 0.0f;
  check(api.KernelInfoGetAttribute_float(info, name, &value));
  return value;
}

std::string Attributes::text(const char* name) const {
  size_t bytes = 0;  // with the terminating zero
  check(api.KernelInfoGetAttribute_string(info, name, nullptr, &bytes));
  std::string value(bytes, '\0');
  check(api.KernelInfoGetAttribute_string(info, name, value.data(), &bytes));
  value.resize(bytes - 1);
  return value;
}

}  // namespace dipc

// What a kernel needs of ONNX Runtime: tensors, attributes, scratch memory, threads, and errors as C++ exceptions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "onnxruntime_abi.h"
#include "parallel.h"

namespace dipc {

// Carries an error of ONNX Runtime, or one made here, up to the function that hands it over.
struct Failure {
  OrtStatus* status;
};

// Throws a Failure with a message of one line.
[[noreturn]] void fail(const OrtApi& api, const std::string& message);
void check(OrtStatus* status);

std::string text_of(const std::vector<int64_t>& dims);

struct Tensor {
  std::string name;  // as the operator calls it
  const OrtValue* value;
  ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
  void* data;

  int64_t count() const;                       // of all elements
  int64_t last() const { return dims.back(); }
  int64_t rows() const;                        // of all dimensions but the last
  template <class T>
  const T* as() const { return static_cast<const T*>(data); }
};

// The session's own threads. Its width is a guess, since ONNX Runtime does not tell how many there are: where they are
// fewer, a thread takes several pieces.
class RuntimeThreads final : public Parallel {
 public:
  RuntimeThreads(const OrtApi& api, const OrtKernelContext* context) : api_(api), context_(context) {}
  int width() const override;
  void run(int64_t n, void (*body)(void*, int64_t), void* context) override;

 private:
  const OrtApi& api_;
  const OrtKernelContext* context_;
};

// A name and an element type; an undefined type stands for any.
struct Operand {
  const char* name;
  ONNXTensorElementDataType type;
};

// One call of a kernel.
class Call {
 public:
  Call(const OrtApi& api, OrtKernelContext* context, const std::vector<Operand>& inputs);

  const OrtApi& api() const { return api_; }
  OrtKernelContext* context() const { return context_; }
  Parallel& threads() { return threads_; }

  const Tensor& input(size_t index) const { return inputs_[index]; }
  // Throws unless the input has these dimensions.
  const Tensor& input(size_t index, const std::vector<int64_t>& dims) const;
  Tensor output(size_t index, const std::vector<int64_t>& dims) const;

 private:
  const OrtApi& api_;
  OrtKernelContext* context_;
  RuntimeThreads threads_;
  std::vector<Tensor> inputs_;
};

// float32 memory for the time of a call, from the session's arena: it is there again for the next one.
class ScratchTensor {
 public:
  ScratchTensor(const Call& call, const OrtMemoryInfo* memory, int64_t rows, int64_t columns);
  ~ScratchTensor();
  ScratchTensor(const ScratchTensor&) = delete;
  ScratchTensor& operator=(const ScratchTensor&) = delete;

  float* data() const { return static_cast<float*>(data_); }

 private:
  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

// What a kernel is told when a session makes it.
class Attributes {
 public:
  Attributes(const OrtApi& api, const OrtKernelInfo* info) : api(api), info(info) {}

  int64_t integer(const char* name) const;
  float real(const char* name) const;
  std::string text(const char* name) const;

  const OrtApi& api;
  const OrtKernelInfo* info;
};

class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void compute(Call& call) const = 0;
};

using Dims = std::vector<int64_t>;

// An operator of the domain: what it takes and gives, and how to make a kernel for it.
struct OperatorKind {
  std::string name;
  std::vector<Operand> inputs;
  std::vector<ONNXTensorElementDataType> outputs;
  std::unique_ptr<Kernel> (*make)(const OperatorKind&, const Attributes&);
  // Where the dimensions of every output come from: an input and, where `last` is not null, another's last dimension.
  struct Shape {
    size_t like;
    int last_from = -1;       // the input whose last dimension replaces it, or none
    int64_t last_divisor = 1;
  };
  std::vector<Shape> shapes;  // of each output
};

std::vector<OperatorKind> select_kinds();
std::vector<OperatorKind> product_kinds();

}  // namespace dipc

// Who runs the pieces of a kernel: the library's own threads, or those of ONNX Runtime where it called the kernel.
#pragma once

#include <cstdint>
#include <type_traits>

namespace dipc {

class Parallel {
 public:
  // Into how many pieces work is worth cutting.
  virtual int width() const = 0;
  // Calls body(context, i) for every i in [0, n), possibly at once, and returns when all are done.
  virtual void run(int64_t n, void (*body)(void*, int64_t), void* context) = 0;

 protected:
  ~Parallel() = default;
};

// Cuts work for one thread only.
class Serial final : public Parallel {
 public:
  int width() const override { return 1; }
  void run(int64_t n, void (*body)(void*, int64_t), void* context) override {
    for (int64_t i = 0; i < n; ++i) body(context, i);
  }
};

template <class Body>
void parallel_for(Parallel& parallel, int64_t n, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  parallel.run(n, [](void* context, int64_t i) { (*static_cast<Plain*>(context))(i); }, const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace dipc

// The ONNX Runtime kernels of the selections: SelectTopk and SelectCacheAware.
#include <algorithm>
#include <new>

#include "dipc_native.h"
#include "onnx_kernel.h"
#include "selector.h"

namespace dipc {
namespace {

constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto kBool = ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
constexpr auto kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;

const Tensor& score_of(const Call& call, int64_t k) {
  const Tensor& score = call.input(0);
  if (score.dims.empty()) fail(call.api(), "score has no dimension of units");
  if (k < 0 || k > score.last()) {
    fail(call.api(), "k is " + std::to_string(k) + ", but score has " + std::to_string(score.last()) + " units");
  }
  return score;
}

class SelectTopk final : public Kernel {
 public:
  explicit SelectTopk(const Attributes& attributes) : k_(attributes.integer("k")) {}

  void compute(Call& call) const override {
    const Tensor& score = score_of(call, k_);
    auto* mask = static_cast<uint8_t*>(call.output(0, score.dims).data);
    select_topk(score.as<float>(), nullptr, score.rows(), score.last(), k_, mask, call.threads());
  }

 private:
  int64_t k_;
};

int policy_of(const Attributes& attributes) {
  constexpr const char* names[] = {"none", "lru", "lfu", "lfu-in-cache", "lfu-admission", "static"};
  const std::string name = attributes.text("policy");
  const auto* found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) fail(attributes.api, "policy is \"" + name + "\", which has no kernel");
  return static_cast<int>(found - names);
}

class SelectCacheAware final : public Kernel {
 public:
  explicit SelectCacheAware(const Attributes& attributes)
      : k_(attributes.integer("k")),
        capacity_(attributes.integer("capacity")),
        gamma_(attributes.real("gamma")),
        policy_(policy_of(attributes)) {}

  void compute(Call& call) const override {
    const Tensor& score = score_of(call, k_);
    const int64_t units = score.last();
    const Tensor& dense = call.input(1, {score.dims.begin(), score.dims.end() - 1});
    auto* mask = static_cast<uint8_t*>(call.output(0, score.dims).data);
    auto* cached = copy<uint8_t>(call, 2, {units});
    auto* freq = copy<int64_t>(call, 3, {units});
    auto* last_used = copy<int64_t>(call, 4, {units});
    auto* t = copy<int64_t>(call, 5, {});
    const int status = dipc_select_cache_aware(score.as<float>(), dense.as<uint8_t>(), cached, freq, last_used, t,
                                               score.rows(), units, k_, capacity_, gamma_, policy_, mask);
    if (status == kOutOfMemory) throw std::bad_alloc();
    if (status != kOk) fail(call.api(), "a count or time of the cache's state does not stay below 2^31");
  }

 private:
  // A part of the state, from its input to its output, where the selection updates it.
  template <class T>
  static T* copy(Call& call, size_t input, const Dims& dims) {
    const Tensor& before = call.input(input, dims);
    auto* after = static_cast<T*>(call.output(input - 1, dims).data);
    std::copy_n(before.as<T>(), before.count(), after);
    return after;
  }

  int64_t k_;
  int64_t capacity_;
  float gamma_;
  int policy_;
};

template <class Made>
std::unique_ptr<Kernel> make(const OperatorKind&, const Attributes& attributes) {
  return std::make_unique<Made>(attributes);
}

}  // namespace

std::vector<OperatorKind> select_kinds() {
  OperatorKind topk{"SelectTopk", {{"score", kFloat}}, {kBool}, make<SelectTopk>, {{0}}};
  OperatorKind cache_aware{"SelectCacheAware",
                           {{"score", kFloat},
                            {"dense", kBool},
                            {"cached", kBool},
                            {"freq", kInt64},
                            {"last_used", kInt64},
                            {"t", kInt64}},
                           {kBool, kBool, kInt64, kInt64, kInt64},
                           make<SelectCacheAware>,
                           {{0}, {2}, {3}, {4}, {5}}};
  return {topk, cache_aware};
}

}  // namespace dipc

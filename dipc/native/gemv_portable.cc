// The sparse products for any processor; compilers vectorise them for NEON and SSE2.
#include "gemv_generic.h"
#include "gemv_panel.h"

namespace dipc {

namespace {

// One value at a time, which compilers turn into what vectors there are.
struct Plain {
  using Vector = float;
  static constexpr int64_t kLanes = 1;
  static constexpr int kVectors = 8;
  static float load(const float* p) { return *p; }
  static void store(float* p, float v) { *p = v; }
  static float all(float value) { return value; }
  static float add_product(float a, float b, float c) { return a * b + c; }
};

}  // namespace

const Kernels& portable_kernels() {
  static const Kernels kernels = {"portable", order, between, mark_above, find_kept,   round_chunk, add_floats, add_codes,
                                  add_scaled_codes, scale_chunk, dot_floats, dot_codes, widen, Panel<Plain>::add_rows, activate_all};
  return kernels;
}

}  // namespace dipc

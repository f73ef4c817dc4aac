// Some rows times some tokens, in registers: the inner loop of products of many tokens, for any width of vectors.
#pragma once

#include <cstdint>

namespace dipc {
namespace {

// `Simd` has a Vector of kLanes floats with load, store, all (the same value everywhere) and add_product; kVectors of
// them, for each of kTokens tokens, fit the registers.
template <class Simd>
struct Panel {
  template <int kTokens>
  static inline __attribute__((always_inline)) void block(const float* const* row, int64_t count, const float* x,
                                                          int64_t x_stride, int64_t o, float* y, int64_t y_stride) {
    typename Simd::Vector sum[kTokens][Simd::kVectors];
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < Simd::kVectors; ++v) sum[t][v] = Simd::load(y + t * y_stride + o + v * Simd::kLanes);
    }
#pragma GCC unroll 1
    for (int64_t r = 0; r < count; ++r) {
      typename Simd::Vector w[Simd::kVectors];
      for (int v = 0; v < Simd::kVectors; ++v) w[v] = Simd::load(row[r] + o + v * Simd::kLanes);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const typename Simd::Vector a = Simd::all(x[t * x_stride + r]);
        for (int v = 0; v < Simd::kVectors; ++v) sum[t][v] = Simd::add_product(a, w[v], sum[t][v]);
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < Simd::kVectors; ++v) Simd::store(y + t * y_stride + o + v * Simd::kLanes, sum[t][v]);
    }
  }

  template <int kTokens>
  static void tokens(const float* const* row, int64_t count, const float* x, int64_t x_stride, int64_t outputs,
                     float* y, int64_t y_stride) {
    constexpr int64_t kWidth = Simd::kVectors * Simd::kLanes;
    int64_t o = 0;
    for (; o + kWidth <= outputs; o += kWidth) block<kTokens>(row, count, x, x_stride, o, y, y_stride);
    for (int t = 0; t < kTokens; ++t) {
      for (int64_t r = 0; r < count; ++r) {
        const float a = x[t * x_stride + r];
        for (int64_t i = o; i < outputs; ++i) y[t * y_stride + i] += a * row[r][i];
      }
    }
  }

  static void add_rows(const float* const* row, int64_t count, const float* x, int64_t x_stride, int64_t all_tokens,
                       int64_t outputs, float* y, int64_t y_stride) {
    constexpr int64_t kMost = 6;
    // In equal parts: eight tokens are four and four, which keeps the arithmetic units busier than six and two.
    const int64_t parts = (all_tokens + kMost - 1) / kMost;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t t = all_tokens * part / parts, here = all_tokens * (part + 1) / parts - t;
      const float* xt = x + t * x_stride;
      float* yt = y + t * y_stride;
      switch (here) {
        case 6:
          tokens<6>(row, count, xt, x_stride, outputs, yt, y_stride);
          break;
        case 5:
          tokens<5>(row, count, xt, x_stride, outputs, yt, y_stride);
          break;
        case 4:
          tokens<4>(row, count, xt, x_stride, outputs, yt, y_stride);
          break;
        case 3:
          tokens<3>(row, count, xt, x_stride, outputs, yt, y_stride);
          break;
        case 2:
          tokens<2>(row, count, xt, x_stride, outputs, yt, y_stride);
          break;
        default:
          tokens<1>(row, count, xt, x_stride, outputs, yt, y_stride);
      }
    }
  }
};

}  // namespace
}  // namespace dipc

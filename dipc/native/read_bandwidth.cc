// The memory limit that kernels are measured against: how fast all threads together read a buffer once.
//
// Every byte is added into a sum that is kept, so that no read can be left out. Each thread reads slices of its own
// from front to back, the pattern that hardware prefetchers know best, and asks for memory ahead of the loads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <new>

#include "dipc_native.h"
#include "gemv.h"
#include "thread_pool.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>
#define DIPC_READ_X86
#endif

namespace dipc {
namespace {

constexpr int64_t kSlice = int64_t{1} << 20;  // handed out one by one: a slow core does not hold up the others
constexpr int64_t kBlock = 256;               // bytes read by one turn of a loop
constexpr int64_t kAhead = 1024;              // bytes; nearer and farther were slower or the same

using Sum = uint64_t (*)(const char* data, int64_t bytes);

using Lanes = uint64_t[kBlock / 8];

uint64_t total(const Lanes& lanes, const char* rest, int64_t bytes) {
  uint64_t sum = 0;
  for (const uint64_t lane : lanes) sum += lane;
  for (int64_t i = 0; i < bytes; ++i) sum += static_cast<unsigned char>(rest[i]);
  return sum;
}

uint64_t sum_plain(const char* data, int64_t bytes) {
  Lanes lanes = {};
  int64_t at = 0;
  for (; at + kBlock <= bytes; at += kBlock) {
    Lanes block;
    std::memcpy(block, data + at, kBlock);
    for (int i = 0; i < kBlock / 8; ++i) lanes[i] += block[i];
  }
  return total(lanes, data + at, bytes - at);
}

#if defined(DIPC_READ_X86)
__attribute__((target("avx512f"))) uint64_t sum_avx512(const char* data, int64_t bytes) {
  __m512i wide[kBlock / 64] = {};
  int64_t at = 0;
  for (; at + kBlock <= bytes; at += kBlock) {
    for (int i = 0; i < kBlock / 64; ++i) {
      _mm_prefetch(data + at + kAhead + 64 * i, _MM_HINT_T0);
      wide[i] = _mm512_add_epi64(wide[i], _mm512_loadu_si512(data + at + 64 * i));
    }
  }
  Lanes lanes;
  std::memcpy(lanes, wide, kBlock);
  return total(lanes, data + at, bytes - at);
}

__attribute__((target("avx2"))) uint64_t sum_avx2(const char* data, int64_t bytes) {
  __m256i wide[kBlock / 32] = {};
  int64_t at = 0;
  for (; at + kBlock <= bytes; at += kBlock) {
    for (int i = 0; i < kBlock / 32; ++i) {
      if (i % 2 == 0) _mm_prefetch(data + at + kAhead + 32 * i, _MM_HINT_T0);
      const auto* block = reinterpret_cast<const __m256i*>(data + at + 32 * i);
      wide[i] = _mm256_add_epi64(wide[i], _mm256_loadu_si256(block));
    }
  }
  Lanes lanes;
  std::memcpy(lanes, wide, kBlock);
  return total(lanes, data + at, bytes - at);
}
#endif

Sum widest_sum() {
#if defined(DIPC_READ_X86)
  if (std::strcmp(isa_name(), "avx512-vnni") == 0) return sum_avx512;
  if (std::strcmp(isa_name(), "avx2") == 0) return sum_avx2;
#endif
  return sum_plain;
}

std::atomic<uint64_t> kept_sum{0};

}  // namespace
}  // namespace dipc

DIPC_EXPORT int dipc_read_bandwidth(const void* data, int64_t bytes, int64_t repeats, double* seconds) {
  using namespace dipc;
  if (data == nullptr || bytes <= 0 || repeats <= 0 || seconds == nullptr) return kBadArgument;
  try {
    const Sum sum = widest_sum();
    const auto* start = static_cast<const char*>(data);
    const int64_t slices = (bytes + kSlice - 1) / kSlice;
    for (int64_t repeat = 0; repeat < repeats; ++repeat) {
      const auto begin = std::chrono::steady_clock::now();
      parallel_for(ThreadPool::instance(), slices, [&](int64_t i) {
        const int64_t at = i * kSlice;
        kept_sum.fetch_add(sum(start + at, std::min(kSlice, bytes - at)), std::memory_order_relaxed);
      });
      seconds[repeat] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

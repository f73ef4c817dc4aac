// Plain top-k selection, token by token (Eq. 7 and 8).
#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "dipc_native.h"
#include "selector.h"
#include "thread_pool.h"

namespace dipc {
namespace {

// Some 20 ms of one thread. The caller's own threads, such as torch's, spin for a while after they have computed: a
// worker that shares a core with one of them may lose it in the middle of a piece, for several milliseconds.
constexpr int64_t kPoolUnits = int64_t{1} << 22;

}  // namespace

void select_topk(const float* score, const uint8_t* dense, int64_t tokens, int64_t units, int64_t k, uint8_t* mask,
                 Parallel& parallel) {
  constexpr int64_t kPieceUnits = int64_t{1} << 16;  // less is done sooner than another thread wakes
  const int64_t pieces = std::clamp<int64_t>(tokens * units / kPieceUnits, 1, std::max<int64_t>(tokens, 1));
  const std::vector<uint8_t> cached(units, 1);  // no unit is penalised
  parallel_for(parallel, pieces, [&](int64_t piece) {
    Selector selector(units);
    for (int64_t token = tokens * piece / pieces; token < tokens * (piece + 1) / pieces; ++token) {
      if (dense != nullptr && dense[token]) {
        std::fill_n(mask + token * units, units, uint8_t{1});
      } else {
        selector.select(score + token * units, cached.data(), k, 1.0f, mask + token * units);
      }
    }
  });
}

}  // namespace dipc

DIPC_EXPORT int dipc_select_topk(const float* score, const uint8_t* dense, int64_t tokens, int64_t units, int64_t k,
                                 uint8_t* mask_out) {
  using namespace dipc;
  if (tokens < 0 || units < 0 || k < 0 || k > units) return kBadArgument;
  try {
    Serial serial;
    Parallel& parallel = tokens * units < kPoolUnits ? static_cast<Parallel&>(serial) : ThreadPool::instance();
    select_topk(score, dense, tokens, units, k, mask_out, parallel);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

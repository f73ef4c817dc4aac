// Plain top-k selection, token by token (Eq. 7 and 8).
#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "dipc_native.h"
#include "selector.h"

DIPC_EXPORT int dipc_select_topk(const float* score, const uint8_t* dense, int64_t tokens, int64_t units, int64_t k,
                                 uint8_t* mask_out) {
  using namespace dipc;
  if (tokens < 0 || units < 0 || k < 0 || k > units) return kBadArgument;
  try {
    Selector selector(units);
    const std::vector<uint8_t> cached(units, 1);  // no unit is penalised
    for (int64_t token = 0; token < tokens; ++token) {
      uint8_t* mask = mask_out + token * units;
      if (dense != nullptr && dense[token]) {
        std::fill_n(mask, units, uint8_t{1});
      } else {
        selector.select(score + token * units, cached.data(), k, 1.0f, mask);
      }
    }
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

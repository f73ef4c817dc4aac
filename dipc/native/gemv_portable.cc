// The sparse products for any processor; compilers vectorise them for NEON and SSE2.
#include "gemv_generic.h"

namespace dipc {

const Kernels& portable_kernels() {
  static const Kernels kernels = {"portable", order, between, mark_above, find_kept,   round_chunk, add_floats, add_codes,
                                  add_scaled_codes, scale_chunk, dot_floats, dot_codes, widen, activate_all};
  return kernels;
}

}  // namespace dipc

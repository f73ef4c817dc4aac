#include "cache_kernels.h"

#include "instruction_set.h"

namespace dipc {

const CacheKernels& cache_kernels() {
#if defined(DIPC_X86)
  if (instruction_set() == InstructionSet::kAvx512) return avx512_cache_kernels();
  if (instruction_set() == InstructionSet::kAvx2) return avx2_cache_kernels();
#endif
  return portable_cache_kernels();
}

}  // namespace dipc

#include "instruction_set.h"

#include <cstdlib>
#include <cstring>

namespace dipc {
namespace {

InstructionSet choose() {
#if defined(DIPC_X86)
  const char* forced = std::getenv("DIPC_ISA");
  const bool below_512 = forced && *forced != '\0' && std::strcmp(forced, "avx512-vnni") != 0;
  const bool below_avx2 = below_512 && std::strcmp(forced, "avx2") != 0;
  __builtin_cpu_init();
  if (!below_512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    return InstructionSet::kAvx512;
  }
  if (!below_avx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return InstructionSet::kAvx2;
  }
#endif
  return InstructionSet::kPortable;
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

}  // namespace dipc

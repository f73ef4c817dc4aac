// Which inner loops serve this processor, and what needs no more than them.
#include "gemv.h"

#include <limits>

#include "gemv_cut.h"
#include "gemv_kernels.h"
#include "instruction_set.h"

namespace dipc {
namespace {

const Kernels& choose() {
#if defined(DIPC_X86)
  if (instruction_set() == InstructionSet::kAvx512) return avx512_kernels();
  if (instruction_set() == InstructionSet::kAvx2) return avx2_kernels();
#endif
  return portable_kernels();
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

bool is_valid(const UnitMatrix& m) {
  if (m.units < 0 || m.units > std::numeric_limits<int32_t>::max() || m.length < 0) return false;
  if (m.format < kFloat32 || m.format > kInt4 || (m.axis != 0 && m.axis != 1)) return false;
  const bool is_empty = m.units == 0 || m.length == 0;  // then there may be no memory either
  if (m.data == nullptr && !is_empty) return false;
  if (!is_integer(m)) return true;
  if ((m.tables != kFloat32 && m.tables != kFloat16) || (m.zeros != nullptr && m.minima != nullptr)) return false;
  return m.group > 0 && (m.scales != nullptr || is_empty) && (m.format != kInt4 || m.length % 2 == 0);
}

void widen(const UnitMatrix& matrix, int64_t first, int64_t count, float* rows) {
  for (int64_t i = 0; i < count; ++i) kernels().widen(matrix, first + i, 0, matrix.length, rows + i * matrix.length);
}

void activate(Activation activation, const float* gate, const float* up, int64_t count, float* hidden) {
  kernels().activate(activation, gate, up, count, hidden);
}

const char* isa_name() { return kernels().name; }

}  // namespace dipc

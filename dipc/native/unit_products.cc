// The C interface of the sparse products, on the library's own threads.
#include <new>

#include "dipc_native.h"
#include "gemv.h"
#include "gemv_cut.h"
#include "thread_pool.h"

namespace dipc {
namespace {

UnitMatrix matrix_of(const dipc_units& units) {
  return {units.data,  units.scales, units.zeros, units.units,  units.length,
          units.group, units.format, units.axis,  units.minima, units.tables};
}

bool are_valid(const dipc_units* units, const float* x, const uint8_t* mask, int64_t tokens, const float* y) {
  if (units == nullptr || tokens < 0 || !is_valid(matrix_of(*units))) return false;
  const bool has_outputs = tokens > 0 && units->units > 0 && units->length > 0;
  return !has_outputs || (units->data != nullptr && x != nullptr && mask != nullptr && y != nullptr);
}

template <class Product>
int status_of(Product&& product) {
  try {
    product();
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

}  // namespace
}  // namespace dipc

DIPC_EXPORT int dipc_gather_linear(const dipc_units* units, const float* x, const uint8_t* mask, const float* bias,
                                   int64_t tokens, float* y) {
  using namespace dipc;
  if (!are_valid(units, x, mask, tokens, y)) return kBadArgument;
  return status_of([&] { gather_linear(matrix_of(*units), x, mask, bias, tokens, y, ThreadPool::instance()); });
}

DIPC_EXPORT int dipc_gather_glu(const dipc_units* units, const float* x, const uint8_t* mask, const float* bias,
                                int32_t activation, int64_t tokens, float* hidden) {
  using namespace dipc;
  if (!are_valid(units, x, mask, tokens, hidden) || units->length % 2 != 0) return kBadArgument;
  if (activation < kSilu || activation > kRelu) return kBadArgument;
  return status_of([&] {
    gather_glu(matrix_of(*units), x, mask, bias, static_cast<Activation>(activation), tokens, hidden,
               ThreadPool::instance());
  });
}

DIPC_EXPORT int dipc_row_linear(const dipc_units* units, const float* x, const uint8_t* mask, const float* bias,
                                int64_t tokens, float* y) {
  using namespace dipc;
  if (!are_valid(units, x, mask, tokens, y)) return kBadArgument;
  return status_of([&] { row_linear(matrix_of(*units), x, mask, bias, tokens, y, ThreadPool::instance()); });
}

DIPC_EXPORT int dipc_widen(const dipc_units* units, float* rows) {
  using namespace dipc;
  if (units == nullptr || !is_valid(matrix_of(*units))) return kBadArgument;
  if (units->units == 0 || units->length == 0) return kOk;
  if (rows == nullptr) return kBadArgument;
  return status_of([&] {
    const UnitMatrix matrix = matrix_of(*units);
    by_pieces(ThreadPool::instance(), matrix.units, 1, [&](int64_t begin, int64_t end) {
      widen(matrix, begin, end - begin, rows + begin * matrix.length);
    });
  });
}

DIPC_EXPORT int dipc_set_threads(int32_t threads) {
  using namespace dipc;
  if (threads < 0) return kBadArgument;
  set_thread_count(threads);
  return kOk;
}

DIPC_EXPORT int32_t dipc_threads() { return dipc::thread_count(); }

DIPC_EXPORT const char* dipc_isa() { return dipc::isa_name(); }

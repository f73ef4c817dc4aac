// The C interface of libdipc_native: what dipc/native/__init__.py loads with ctypes.
//
// Shapes in comments: T tokens, U units of one selection site. Arrays are dense and row-major.
// Every function that takes sizes returns a Status and changes nothing when it is not kOk.
#pragma once

#include <cstdint>

#if defined(_WIN32)
#define DIPC_EXPORT extern "C" __declspec(dllexport)
#else
#define DIPC_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace dipc {

// Raised whenever a signature or a meaning below changes; dipc/native/__init__.py holds the same number.
constexpr int kAbiVersion = 1;

enum Status : int { kOk = 0, kBadArgument = 1, kOutOfMemory = 2 };

}  // namespace dipc

DIPC_EXPORT int dipc_abi_version();

// The `k` largest of `score` f32[T,U] per token, the lower index first among equals; `dense` and `mask_out` as below.
DIPC_EXPORT int dipc_select_topk(const float* score, const uint8_t* dense, int64_t tokens, int64_t units, int64_t k,
                                 uint8_t* mask_out);

// Eq. 10 of the DIP paper, token by token. `score` f32[T,U]; `dense` u8[T] or null; the state `cached` u8[U],
// `freq` i64[U], `last_used` i64[U], `t` i64[1] is updated in place; `mask_out` u8[T,U].
// 0 <= k <= units; `capacity` is clamped to [0, units]; `policy` is 0 none, 1 lru, 2 lfu.
DIPC_EXPORT int dipc_select_cache_aware(const float* score, const uint8_t* dense, uint8_t* cached, int64_t* freq,
                                        int64_t* last_used, int64_t* t, int64_t tokens, int64_t units, int64_t k,
                                        int64_t capacity, float gamma, int policy, uint8_t* mask_out);

// Replays `mask` u8[T,U] from an empty cache; `hits_out` i64[T] counts the active units found in the cache.
DIPC_EXPORT int dipc_cache_replay(const uint8_t* mask, int64_t tokens, int64_t units, int64_t capacity, int policy,
                                  int64_t* hits_out);

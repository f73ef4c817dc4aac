// The C interface of libdipc_native: what dipc/native/loader.py opens with ctypes.
//
// Shapes in comments: T tokens, U units of one selection site, N values of one unit, F = N / 2 where a unit is a gate
// column followed by an up column. Arrays are dense and row-major.
// Every function that takes sizes returns a Status and changes nothing when it is not kOk.
#pragma once

#include <cstdint>

#if defined(_WIN32)
#define DIPC_EXPORT extern "C" __declspec(dllexport)
#else
#define DIPC_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace dipc {

// Raised whenever a signature or a meaning below changes; dipc/native/loader.py holds the same number.
constexpr int kAbiVersion = 6;

enum Status : int { kOk = 0, kBadArgument = 1, kOutOfMemory = 2 };

}  // namespace dipc

DIPC_EXPORT int dipc_abi_version();

// The `k` largest of `score` f32[T,U] per token, the lower index first among equals; `dense` and `mask_out` as below.
DIPC_EXPORT int dipc_select_topk(const float* score, const uint8_t* dense, int64_t tokens, int64_t units, int64_t k,
                                 uint8_t* mask_out);

// Eq. 10 of the DIP paper, token by token. `score` f32[T,U]; `dense` u8[T] or null; the state `cached` u8[U],
// `freq` i64[U], `last_used` i64[U], `t` i64[1] is updated in place; `mask_out` u8[T,U].
// 0 <= k <= units; `capacity` is clamped to [0, units]; `policy` is 0 none, 1 lru, 2 lfu,
// 3 lfu-in-cache, 4 lfu-admission, 5 static. Times and counts stay below 2^31.
DIPC_EXPORT int dipc_select_cache_aware(const float* score, const uint8_t* dense, uint8_t* cached, int64_t* freq,
                                        int64_t* last_used, int64_t* t, int64_t tokens, int64_t units, int64_t k,
                                        int64_t capacity, float gamma, int policy, uint8_t* mask_out);

// Masks of one site run through several caches at once, empty at first, piece by piece. `policies` i32[cases] as above,
// `capacities` i64[cases], clamped; `popularity` i64[U] ranks the units of static, whose cache is full from the start,
// and may be null without it.
struct dipc_replay;
DIPC_EXPORT int dipc_replay_open(int64_t units, const int32_t* policies, const int64_t* capacities, int64_t cases,
                                 const int64_t* popularity, dipc_replay** replay);

// `packed` u8[T, ceil(U / 8)], unit 0 the highest bit of byte 0. `hits` i64[cases, T] counts the touched units that were
// cached before the token; `missed` u8[cases, T, ceil(U / 8)], which may be null, are those that were not.
DIPC_EXPORT int dipc_replay_run(dipc_replay* replay, const uint8_t* packed, int64_t tokens, int64_t* hits,
                                uint8_t* missed);

DIPC_EXPORT void dipc_replay_close(dipc_replay* replay);

// The same for a whole trace through caches that keep what is used next the soonest (Belady): `policies` are 6 belady,
// 7 belady-demand.
DIPC_EXPORT int dipc_replay_belady(const uint8_t* packed, int64_t tokens, int64_t units, const int32_t* policies,
                                   const int64_t* capacities, int64_t cases, int64_t* hits, uint8_t* missed);

// A unit-major matrix [U, N]. README.md states the formats.
struct dipc_units {
  const void* data;        // [U, N] values, uint8 codes, or [U, N / 2] pairs of 4-bit codes, the low one first
  const void* scales;      // of `tables`: [ceil(U / group), N] where axis is 0, [U, ceil(N / group)] where it is 1
  const uint8_t* zeros;    // as scales, or null for the middle code, or for 0 where there are minima
  int64_t units, length;   // U, N
  int64_t group;           // 0 where there are no scales
  int32_t format;          // 0 float32, 1 float16, 2 bfloat16, 3 8-bit codes, 4 4-bit codes
  int32_t axis;            // 0 groups across units, 1 groups along the unit
  const void* minima;      // as scales, what code 0 stands for, or null; not beside zeros
  int32_t tables;          // the format of scales and minima: 0 float32, 1 float16
};

// y f32[T,N] = bias f32[N] + the sum over kept i of x f32[T,i] times unit i. `mask` u8[T,U]; `bias` may be null.
DIPC_EXPORT int dipc_gather_linear(const dipc_units* units, const float* x, const uint8_t* mask, const float* bias,
                                   int64_t tokens, float* y);

// hidden f32[T,F] = act(z[:, :F]) * z[:, F:] with z = dipc_gather_linear(...); activation: 0 silu, 1 gelu,
// 2 gelu by tanh, 3 relu.
DIPC_EXPORT int dipc_gather_glu(const dipc_units* units, const float* x, const uint8_t* mask, const float* bias,
                                int32_t activation, int64_t tokens, float* hidden);

// y f32[T,U] = unit u times x f32[T,N], plus bias f32[U], where `mask` u8[T,U] keeps u; 0 elsewhere.
DIPC_EXPORT int dipc_row_linear(const dipc_units* units, const float* x, const uint8_t* mask, const float* bias,
                                int64_t tokens, float* y);

// rows f32[U,N] = the matrix as it is.
DIPC_EXPORT int dipc_widen(const dipc_units* units, float* rows);

// How many threads work on one call, the caller's included; 0 takes the physical cores that the process may run on.
// Inside ONNX Runtime its own threads are used instead.
DIPC_EXPORT int dipc_set_threads(int32_t threads);

// How many they are now.
DIPC_EXPORT int32_t dipc_threads();

// The instruction set in use: "avx512-vnni", "avx2" or "portable". DIPC_ISA forces a lower one, unless it is empty.
DIPC_EXPORT const char* dipc_isa();

// seconds f64[repeats]: how long all threads together took to read `data` once, as fast as the machine lets them.
DIPC_EXPORT int dipc_read_bandwidth(const void* data, int64_t bytes, int64_t repeats, double* seconds);

#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <thread>

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sched.h>

#include <fstream>
#include <set>
#include <string>
#endif

namespace dipc {
namespace {

// How long a worker looks out for the next job before it sleeps. The kernels of one MLP follow each other within some
// tens of microseconds, and to wake a sleeper costs as much again; longer would take the core from whoever computes
// between two MLPs, such as torch's own threads.
constexpr std::chrono::microseconds kSpin{50};
constexpr int kLooksPerClock = 64;  // reading the clock costs as much as some looks

std::atomic<int> chosen_threads{0};
std::atomic<ThreadPool*> pool{nullptr};

void relax() {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  __builtin_ia32_pause();
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
  asm volatile("yield");
#endif
}

// Looks until `ready` or until kSpin has passed; returns whether it was ready.
template <class Ready>
bool spin_until(Ready ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int look = 0; look < kLooksPerClock; ++look) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// Keeps the library in memory for good: whoever loaded it may close it while workers are asleep in its code.
void pin_library() {
#if defined(_WIN32)
  HMODULE module;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                     reinterpret_cast<LPCWSTR>(&chosen_threads), &module);
#else
  Dl_info info;
  if (dladdr(&chosen_threads, &info) != 0) dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
#endif
}

// A forked child has the pool's memory but none of its threads, and perhaps a lock that nobody will ever release.
void forget_pool() { pool.store(nullptr); }

}  // namespace

int available_cores() {
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    std::set<std::string> cores;  // a core is known by the list of its hardware threads
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed)) continue;
      std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
      std::string siblings;
      if (!std::getline(file, siblings)) siblings = std::to_string(cpu);
      cores.insert(siblings);
    }
    if (!cores.empty()) return static_cast<int>(std::min<size_t>(cores.size(), kMaxThreads));
  }
#endif
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
}

void set_thread_count(int threads) { chosen_threads.store(threads > 0 ? std::min(threads, kMaxThreads) : 0); }

int thread_count() {
  static const int cores = available_cores();
  const int chosen = chosen_threads.load(std::memory_order_relaxed);
  return chosen > 0 ? chosen : cores;
}

ThreadPool& ThreadPool::instance() {
  static const bool prepared = [] {
    pin_library();
#if !defined(_WIN32)
    pthread_atfork(nullptr, nullptr, forget_pool);
#endif
    return true;
  }();
  static_cast<void>(prepared);
  ThreadPool* current = pool.load();
  if (current != nullptr) return *current;
  auto* created = new ThreadPool;
  if (pool.compare_exchange_strong(current, created)) return *created;
  delete created;
  return *current;
}

void ThreadPool::run(int64_t n, void (*body)(void*, int64_t), void* context) {
  const int helpers = static_cast<int>(std::min<int64_t>(thread_count(), n)) - 1;
  if (helpers <= 0 || busy_.exchange(true)) {
    for (int64_t i = 0; i < n; ++i) body(context, i);
    return;
  }
  start_workers(helpers);
  body_ = body;
  context_ = context;
  pieces_ = n;
  helpers_ = helpers;
  next_.store(0);
  failed_.store(false);
  open_.store(true);
  job_.fetch_add(1);
  if (sleepers_.load() > 0) {
    const std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  take_pieces();
  open_.store(false);
  while (!spin_until([this] { return inside_.load() == 0; })) std::this_thread::yield();
  const bool failed = failed_.load();
  busy_.store(false);
  if (failed) throw std::bad_alloc();
}

void ThreadPool::start_workers(int wanted) {
  try {
    for (; workers_ < wanted; ++workers_) std::thread(&ThreadPool::work, this, workers_).detach();
  } catch (const std::exception&) {
    // The system gives no more threads: those that there are do the work.
  }
}

void ThreadPool::work(int index) {
  for (uint64_t seen = 0;;) {
    seen = await_job(seen);
    inside_.fetch_add(1);
    if (open_.load() && index < helpers_) take_pieces();
    inside_.fetch_sub(1);
  }
}

uint64_t ThreadPool::await_job(uint64_t seen) {
  if (!spin_until([&] { return job_.load() != seen; })) {
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return job_.load() != seen; });
    sleepers_.fetch_sub(1);
  }
  return job_.load();
}

void ThreadPool::take_pieces() {
  try {
    for (int64_t piece; (piece = next_.fetch_add(1)) < pieces_;) body_(context_, piece);
  } catch (...) {
    failed_.store(true);
  }
}

}  // namespace dipc

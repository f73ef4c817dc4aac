// The threads of the library itself, which run a kernel called through the C interface.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "parallel.h"

namespace dipc {

// Physical cores that the process may run on, at least 1.
int available_cores();

// How many threads work on one call, the caller's included. 0 asks for available_cores(); kMaxThreads is the most.
void set_thread_count(int threads);
int thread_count();
constexpr int kMaxThreads = 1024;

// A fixed team of workers, started when first needed. Work is handed out piece by piece, so a worker that wakes late
// costs nothing but its help. One call runs at a time: a call from another thread, or from inside a piece, runs on its
// own thread alone. Where a piece throws, so that some are left out, run throws std::bad_alloc.
class ThreadPool final : public Parallel {
 public:
  // The pool of this process. It is never destroyed, because its threads may outlive every static object.
  static ThreadPool& instance();

  int width() const override { return thread_count(); }
  void run(int64_t n, void (*body)(void*, int64_t), void* context) override;

 private:
  ThreadPool() = default;

  void start_workers(int wanted);
  void work(int index);
  uint64_t await_job(uint64_t seen);
  void take_pieces();

  // The job: written by the caller alone, while `open_` is false and `inside_` is 0.
  void (*body_)(void*, int64_t) = nullptr;
  void* context_ = nullptr;
  int64_t pieces_ = 0;
  int helpers_ = 0;  // workers with a lower index take part

  std::atomic<bool> busy_{false};      // a call is running
  std::atomic<bool> open_{false};      // its pieces may be taken
  std::atomic<int> inside_{0};         // workers that look at the job
  std::atomic<int64_t> next_{0};       // the piece to be taken next
  std::atomic<bool> failed_{false};    // a piece threw
  std::atomic<uint64_t> job_{0};       // counts jobs
  std::atomic<int> sleepers_{0};       // workers that must be woken
  int workers_ = 0;                    // started so far; changed while busy
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace dipc

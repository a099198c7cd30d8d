// Parallel work on XLA's threads, and memory that each thread keeps.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int kLooks = 1000;  // some tens of microseconds

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Call task(i) for each i below `count`, on XLA's threads and on this one. Each free thread takes the next number, so
// the work ends even if all other threads are busy elsewhere.
template <typename Task>
void in_parallel(ffi::ThreadPool& pool, int64_t count, Task task) {
  struct Shared {
    std::atomic<int64_t> next{0}, finished{0};
    std::mutex mutex;
    std::condition_variable done;
  };
  auto shared = std::make_shared<Shared>();
  auto work = [shared, count](Task& task) {
    for (int64_t i; (i = shared->next.fetch_add(1)) < count;) {
      task(i);
      if (shared->finished.fetch_add(1) + 1 < count) continue;
      std::lock_guard<std::mutex> lock(shared->mutex);
      shared->done.notify_all();
    }
  };
  const int64_t helpers = std::min<int64_t>(count, pool.num_threads()) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work, task]() mutable { work(task); });
  work(task);
  // Most often the other threads end within microseconds, and sleeping takes longer.
  for (int look = 0; look < kLooks && shared->finished < count; ++look) pause();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->done.wait(lock, [&] { return shared->finished == count; });
}

// Return memory that a thread keeps between calls: allocating pages each time would cost as much as filling them.
float* scratch(int slot, size_t size) {
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<float, Free> memory[4];
  thread_local size_t capacity[4] = {};
  if (capacity[slot] < size) {
    const size_t bytes = (size * sizeof(float) + 63) / 64 * 64;
    memory[slot].reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!memory[slot]) {  // no return is safe: other threads still use the data of this call
      std::fprintf(stderr, "pneumojax: there is no memory for the %zu bytes that a CPU kernel needs\n", bytes);
      std::abort();
    }
    capacity[slot] = size;
  }
  return memory[slot].get();
}

}  // namespace

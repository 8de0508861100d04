// The work of a kernel on the CPU, as tasks that its threads take.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace compt_fast {

// task(i) for i in 0 ... tasks - 1, on at most `threads` threads: each takes the next that nobody has.
template <typename F>
void for_each_task(int64_t tasks, int64_t threads, const F& task) {
  // Each number is taken once. What tasks write is ordered by the end of parallel_for, not by this counter.
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>({at::get_num_threads(), threads, tasks}), 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < tasks; i = next++) {
      task(i);
    }
  });
}

}  // namespace compt_fast

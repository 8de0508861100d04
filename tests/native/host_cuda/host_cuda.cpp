// Runs a grid on the host: blocks one after another, the threads of a block as coroutines, each up to
// where it has to wait for others. A thread that can go on is chosen by the schedule, and runs ahead of
// all others as far as it may: results that depend on who comes first come out different.
//
// Compiled without a sanitizer, and linked with either. AddressSanitizer is told of each change of
// stack. ThreadSanitizer is told that a coroutine is a thread and that barriers, and nothing else,
// order what threads of a block do: it then names every access to shared or global memory that races
// under any order, whether or not a result shows it. A shuffle or ballot orders no memory, as in CUDA.
#include "host_cuda.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <queue>
#include <random>
#include <utility>
#include <vector>

#define WEAK extern "C" __attribute__((weak))
WEAK void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
WEAK void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
WEAK void* __tsan_get_current_fiber();
WEAK void* __tsan_create_fiber(unsigned flags);
WEAK void __tsan_switch_to_fiber(void* fiber, unsigned flags);
WEAK void __tsan_acquire(void* at);
WEAK void __tsan_release(void* at);
WEAK char __start_cuda_shared[];
WEAK char __stop_cuda_shared[];

namespace host_cuda {
namespace {

constexpr size_t kStackBytes = 32 << 10;
constexpr unsigned kWarp = 32;
constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostBlocksAcross = 65535;
constexpr unsigned kSwitchWithoutOrder = 1;

[[noreturn]] __attribute__((format(printf, 1, 2))) void refuse(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fputs("host_cuda: ", stderr);
  std::vfprintf(stderr, format, arguments);
  std::fputs("\n", stderr);
  std::exit(3);
}

// What orders memory: `release` before waiting, `acquire` after. Two in turn, for a thread may be at
// the next barrier before another has left this one.
struct Order {
  char turn[2];

  void release(uint64_t count) {
    if (__tsan_release) {
      __tsan_release(&turn[count % 2]);
    }
  }
  void acquire(uint64_t count) {
    if (__tsan_acquire) {
      __tsan_acquire(&turn[count % 2]);
    }
  }
};

enum class State { ready, at_barrier, in_collective, done };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> memory;
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* of_tsan = nullptr;
  void* fake_stack = nullptr;
};

struct Thread : Fiber {
  unsigned index = 0;
  State state = State::ready;
  uint64_t barriers = 0;
  uint64_t collectives = 0;
  uint64_t given[2] = {};  // to the last two collectives: a lane may be at the next before another has read this one
  Collective kind = {};
  const char* where = "";
  int line = 0;
};

struct Device {
  std::vector<Thread> threads{kMostThreads};
  std::priority_queue<std::pair<unsigned, unsigned>> ready;  // keys and indices of those that can go on
  std::mt19937 random;
  Schedule schedule = Schedule::forward;
  Fiber host;
  Thread* running = nullptr;
  const std::function<void()>* kernel = nullptr;
  Place place;
  unsigned count = 0;  // threads of the block
  Order launch, finish, block_barrier;
} device;

void change(Fiber& from, Fiber& to, bool for_ever = false) {
  if (__sanitizer_start_switch_fiber) {
    __sanitizer_start_switch_fiber(for_ever ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
  }
  if (__tsan_switch_to_fiber) {
    __tsan_switch_to_fiber(to.of_tsan, kSwitchWithoutOrder);
  }
  swapcontext(&from.context, &to.context);
  if (__sanitizer_finish_switch_fiber) {
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
  }
}

void thread_begins() {
  if (__sanitizer_finish_switch_fiber) {
    __sanitizer_finish_switch_fiber(nullptr, &device.host.stack, &device.host.stack_bytes);
  }
  device.launch.acquire(0);
  (*device.kernel)();
  device.finish.release(0);
  device.running->state = State::done;
  change(*device.running, device.host, true);
}

void prepare(Thread& thread, unsigned index) {
  if (thread.memory == nullptr) {
    thread.memory = std::make_unique<char[]>(kStackBytes);
    thread.stack = thread.memory.get();
    thread.stack_bytes = kStackBytes;
    thread.of_tsan = __tsan_create_fiber ? __tsan_create_fiber(0) : nullptr;
  }
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.memory.get();
  thread.context.uc_stack.ss_size = kStackBytes;
  makecontext(&thread.context, thread_begins, 0);
  thread.index = index;
  thread.barriers = thread.collectives = 0;
}

void wait(State state, const char* where, int line) {
  Thread& thread = *device.running;
  thread.state = state;
  thread.where = where;
  thread.line = line;
}

// From now on `thread` can go on; the larger its key, the sooner.
void make_ready(Thread& thread) {
  const unsigned keys[] = {device.count - thread.index, thread.index, static_cast<unsigned>(device.random())};
  thread.state = State::ready;
  device.ready.emplace(keys[static_cast<int>(device.schedule)], thread.index);
}

// Past the sanitizers, which would take this for an access of the host's to the block's memory.
void spoil_shared_memory() {
  for (volatile char* at = __start_cuda_shared; at != __stop_cuda_shared; ++at) {
    *at = '\xa5';
  }
}

void run_block() {
  spoil_shared_memory();
  for (unsigned i = 0; i < device.count; ++i) {
    prepare(device.threads[i], i);
    make_ready(device.threads[i]);
  }
  while (!device.ready.empty()) {
    device.running = &device.threads[device.ready.top().second];
    device.ready.pop();
    change(device.host, *device.running);
  }
  for (unsigned i = 0; i < device.count; ++i) {
    const Thread& thread = device.threads[i];
    if (thread.state != State::done) {
      refuse("thread %u waits for ever in %s, line %d: others left without coming there", i, thread.where,
             thread.line);
    }
  }
}

// 0 ... count - 1 as the schedule has them.
std::vector<unsigned> blocks_in_order(unsigned count) {
  std::vector<unsigned> indices(count);
  std::iota(indices.begin(), indices.end(), 0u);
  if (device.schedule == Schedule::reverse) {
    std::reverse(indices.begin(), indices.end());
  } else if (device.schedule == Schedule::shuffled) {
    std::shuffle(indices.begin(), indices.end(), device.random);
  }
  return indices;
}

bool can_start(const dim3& grid, const dim3& block) {
  return block.x > 0 && block.x <= kMostThreads && block.y == 1 && block.z == 1 && grid.x > 0 &&
         grid.x <= INT32_MAX && grid.y > 0 && grid.y <= kMostBlocksAcross && grid.z == 1;
}

}  // namespace

void choose(Schedule schedule) {
  device.schedule = schedule;
}

Place place() {
  Place place = device.place;
  place.thread_index.x = device.running->index;
  return place;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const std::function<void()>& thread) {
  if (!can_start(config.gridDim, config.blockDim)) {
    return cudaErrorInvalidConfiguration;
  }
  if (__tsan_get_current_fiber) {
    device.host.of_tsan = __tsan_get_current_fiber();
  }
  device.kernel = &thread;
  device.place = {config.gridDim, config.blockDim, {}, {}};
  device.count = config.blockDim.x;
  device.launch.release(0);
  for (const unsigned block : blocks_in_order(config.gridDim.x * config.gridDim.y)) {
    device.place.block_index = {block % config.gridDim.x, block / config.gridDim.x};
    run_block();
  }
  device.finish.acquire(0);
  return cudaSuccess;
}

void barrier(const char* where, int line) {
  Thread& thread = *device.running;
  const uint64_t count = thread.barriers++;
  device.block_barrier.release(count);
  wait(State::at_barrier, where, line);
  const auto all = device.threads.begin() + device.count;
  if (std::all_of(device.threads.begin(), all, [](const Thread& t) { return t.state == State::at_barrier; })) {
    std::for_each(device.threads.begin(), all, [&](Thread& t) {
      if (t.line != line) {
        refuse("threads of a block wait in %s at lines %d and %d", where, line, t.line);
      }
      make_ready(t);
    });
  }
  change(thread, device.host);
  device.block_barrier.acquire(count);
}

uint64_t exchange(Collective kind, unsigned mask, uint64_t bits, unsigned source, const char* where, int line) {
  Thread& thread = *device.running;
  const uint64_t turn = thread.collectives++ % 2;
  thread.given[turn] = bits;
  thread.kind = kind;
  wait(State::in_collective, where, line);
  const unsigned first = thread.index / kWarp * kWarp;
  if (device.count - first < kWarp || mask != 0xffffffffu) {
    refuse("%s, line %d: only whole warps are known here, got %u threads and the mask %x", where, line,
           device.count - first, mask);
  }
  Thread* const warp = &device.threads[first];
  if (std::all_of(warp, warp + kWarp, [](const Thread& t) { return t.state == State::in_collective; })) {
    std::for_each(warp, warp + kWarp, [&](Thread& t) {
      if (t.kind != kind || t.line != line) {
        refuse("lanes of a warp wait for different things, at lines %d and %d", line, t.line);
      }
      make_ready(t);
    });
  }
  change(thread, device.host);
  const unsigned lane = thread.index % kWarp;
  if (kind == Collective::ballot) {
    uint64_t votes = 0;
    for (unsigned i = 0; i < kWarp; ++i) {
      votes |= static_cast<uint64_t>(warp[i].given[turn] != 0) << i;
    }
    return votes;
  }
  if (kind == Collective::shuffle_up) {
    return warp[lane >= source ? lane - source : lane].given[turn];
  }
  return warp[source % kWarp].given[turn];
}

}  // namespace host_cuda

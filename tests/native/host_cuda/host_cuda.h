// Threads and blocks of CUDA on the host: what the headers beside this file, and the tests' driver, call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };

using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace host_cuda {

// In which order blocks run, and which of a block's threads goes on where several can.
enum class Schedule { forward, reverse, shuffled };

// For all launches to come.
void choose(Schedule schedule);

struct Place {
  dim3 grid;
  dim3 block;
  dim3 block_index;
  dim3 thread_index;
};

// Where the calling thread of a kernel stands; by value, for nothing here may look like shared memory.
Place place();

// Run `thread` once for each thread of the grid; the runtime's error where a device would not start it.
cudaError_t launch(const cudaLaunchConfig_t& config, const std::function<void()>& thread);

void barrier(const char* where, int line);

enum class Collective { ballot, shuffle, shuffle_up };

// Each lane gives `bits` and gets those of lane `source`, or for a ballot a bit from every lane.
uint64_t exchange(Collective kind, unsigned mask, uint64_t bits, unsigned source, const char* where, int line);

}  // namespace host_cuda

// What csrc/assembly_cuda.cu takes of CUDA, on the host: this folder stands in for the toolkit's
// headers, so that a plain C++ compiler, with its sanitizers, compiles the kernels and they run
// without a device. host_cuda.cpp says how threads of a block run, and what is refused.
#pragma once

#include <bit>

#include "host_cuda.h"

#define __host__
#define __device__
#define __global__
#define __launch_bounds__(...)
// One block runs at a time, so one copy is enough; a section of its own, so that each block finds garbage in it.
#define __shared__ static __attribute__((section("cuda_shared")))

namespace host_cuda {

template <auto kOf, auto kAxis>
struct Coordinate {
  operator unsigned() const { return (place().*kOf).*kAxis; }
};

template <auto kOf>
struct Axes {
  Coordinate<kOf, &dim3::x> x;
  Coordinate<kOf, &dim3::y> y;
};

template <typename T>
T shuffle(Collective kind, unsigned mask, T value, unsigned source, const char* where, int line) {
  static_assert(sizeof(T) == sizeof(uint64_t), "wider or narrower values are not needed yet");
  return std::bit_cast<T>(exchange(kind, mask, std::bit_cast<uint64_t>(value), source, where, line));
}

}  // namespace host_cuda

// Objects and not macros: cudaLaunchConfig_t has members of two of these names.
inline constexpr host_cuda::Axes<&host_cuda::Place::thread_index> threadIdx;
inline constexpr host_cuda::Axes<&host_cuda::Place::block_index> blockIdx;
inline constexpr host_cuda::Axes<&host_cuda::Place::block> blockDim;
inline constexpr host_cuda::Axes<&host_cuda::Place::grid> gridDim;

#define __syncthreads() host_cuda::barrier(__func__, __LINE__)
#define __shfl_sync(mask, value, lane) \
  host_cuda::shuffle(host_cuda::Collective::shuffle, mask, value, lane, __func__, __LINE__)
#define __shfl_up_sync(mask, value, delta) \
  host_cuda::shuffle(host_cuda::Collective::shuffle_up, mask, value, delta, __func__, __LINE__)
#define __ballot_sync(mask, vote) \
  static_cast<unsigned>(host_cuda::exchange(host_cuda::Collective::ballot, mask, vote, 0, __func__, __LINE__))

inline int __ffs(int bits) {
  return __builtin_ffs(bits);
}

inline float __int_as_float(int bits) {
  return std::bit_cast<float>(bits);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  return host_cuda::launch(*config, [&] { kernel(arguments...); });
}

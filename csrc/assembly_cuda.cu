// The assembly on CUDA devices. Only CUDA's own headers: compiles without a torch, and by a plain C++
// compiler for the host, where tests/native/test_host_cuda.py runs it.
//
// Both kernels move whole rows of d elements in vectors of 16 bytes, a warp (assembly) or a block
// (gradient) a row; where rows are not aligned to 16 bytes the same code moves single elements. No
// kernel uses atomics: each result is written by one thread, and sums are added up in one order.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "assembly_cuda.h"

namespace compt_fast {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpsABlock = 8;
constexpr int kScanThreads = 1024;
constexpr int64_t kMostBlocks = 1 << 20;  // the rest is a loop: any 64-bit size works
constexpr unsigned kAll = 0xffffffffu;
constexpr int kBlocksAtLeast = 1;  // said, or ptxas saves registers by spilling

template <typename T>
__device__ float to_float(T x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __bfloat162float(x);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __half2float(x);
  } else {
    return static_cast<float>(x);
  }
}

template <typename To, typename From>
__device__ To cast(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (std::is_same_v<To, __nv_bfloat16>) {
    return __float2bfloat16_rn(to_float(x));
  } else if constexpr (std::is_same_v<To, __half>) {
    return __float2half_rn(to_float(x));
  } else if constexpr (std::is_same_v<From, double>) {
    return static_cast<To>(x);
  } else {
    return static_cast<To>(to_float(x));
  }
}

// N elements that are loaded and stored in accesses of 16 bytes, or of one element for N = 1.
template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? sizeof(T) : 16) Vector {
  T at[N];
};

// Elements that a thread moves at a time where rows are aligned: 16 bytes of the narrower type.
template <typename A, typename B>
constexpr int kVectorWidth = 16 / (sizeof(A) < sizeof(B) ? sizeof(A) : sizeof(B));

template <typename To, typename From, int N>
__device__ void copy_vector(To* to, const From* from) {
  const Vector<From, N> in = *reinterpret_cast<const Vector<From, N>*>(from);
  Vector<To, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    out.at[i] = cast<To>(in.at[i]);
  }
  *reinterpret_cast<Vector<To, N>*>(to) = out;
}

// One row by one warp: vectors as far as they go, then the elements that are left, a lane each.
template <typename To, typename From, int N>
__device__ void copy_row(To* to, const From* from, int64_t width, int lane) {
  const int64_t whole = width / N * N;
  for (int64_t i = static_cast<int64_t>(lane) * N; i < whole; i += kWarp * N) {
    copy_vector<To, From, N>(to + i, from + i);
  }
  for (int64_t i = whole + lane; i < width; i += kWarp) {
    to[i] = cast<To>(from[i]);
  }
}

template <typename T>
__device__ void fill_row(T* to, float value, int64_t width, int lane) {
  for (int64_t i = lane; i < width; i += kWarp) {
    to[i] = cast<T>(value);
  }
}

// Offsets are not trusted. What does not fit wraps around in these two, and is then checked like
// any other value; as int64_t it would be undefined, and a compiler free to leave the checks out.
__device__ int64_t plus(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}

__device__ int64_t minus(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
}

// The range of ascending `cu_seqlens` (n + 1 of them) that holds `index`: the first whose end is
// behind it. n where none is; never outside 0 ... n, whatever the cu_seqlens are.
__device__ int64_t range_of(const int64_t* cu_seqlens, int64_t n, int64_t index) {
  int64_t low = 0;
  int64_t high = n;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (cu_seqlens[middle + 1] > index) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// 0 where there is no such slot, or its cu_seqlens do not ascend.
__device__ int64_t prompt_length_of(const int64_t* prompt_cu_seqlens, int64_t slot_count, int64_t slot) {
  if (slot < 0 || slot >= slot_count) {
    return 0;
  }
  const int64_t length = minus(prompt_cu_seqlens[slot + 1], prompt_cu_seqlens[slot]);
  return length > 0 ? length : 0;
}

// The sum of `value` over the lanes up to this one, itself included.
__device__ int64_t sum_up_to_lane(int64_t value, int lane) {
  for (int step = 1; step < kWarp; step *= 2) {
    const int64_t below = __shfl_up_sync(kAll, value, step);
    value = plus(value, lane >= step ? below : 0);
  }
  return value;
}

// One block, a thread a row of the batch; the rows in slices of kScanThreads, whose sums are carried on.
// In a slice each warp adds up its rows, and every warp then adds up the sums of all warps.
__global__ void __launch_bounds__(kScanThreads)
    packed_cu_seqlens_kernel(const int64_t* prompt_cu_seqlens, int64_t slot_count, const int64_t* slots,
                          const int64_t* input_cu_seqlens, int64_t rows, int64_t* packed_cu_seqlens) {
  __shared__ int64_t sums[kWarp];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  int64_t before = 0;
  if (threadIdx.x == 0) {
    packed_cu_seqlens[0] = 0;
  }
  for (int64_t slice = 0; slice < rows; slice += kScanThreads) {
    const int64_t b = slice + threadIdx.x;
    int64_t length = 0;
    if (b < rows) {
      const int64_t text = minus(input_cu_seqlens[b + 1], input_cu_seqlens[b]);
      length = plus(prompt_length_of(prompt_cu_seqlens, slot_count, slots[b]), text > 0 ? text : 0);
    }
    int64_t sum = sum_up_to_lane(length, lane);
    if (lane == kWarp - 1) {
      sums[warp] = sum;
    }
    __syncthreads();  // every warp's sum is there before any of them is read
    const int64_t up_to_warp = sum_up_to_lane(sums[lane], lane);  // of warps, a lane each: kWarp * kWarp threads
    const int64_t of_earlier_warps = __shfl_sync(kAll, up_to_warp, warp > 0 ? warp - 1 : 0);
    sum = plus(sum, plus(before, warp > 0 ? of_earlier_warps : 0));
    before = plus(before, __shfl_sync(kAll, up_to_warp, kWarp - 1));
    if (b < rows) {
      packed_cu_seqlens[b + 1] = sum;
    }
    __syncthreads();  // before sums is written again
  }
}

// A warp a packed row t, and every `warps`-th after it: finds the batch row b that t lies in, then
// whether t is prompt or text there, and copies the row of `prompts` or `embedding` that stands for it.
// Zeros behind the last row; NaN where values are bad or `total` is too small for the rows.
template <typename P, typename E, int N>
__global__ void __launch_bounds__(kWarp* kWarpsABlock, kBlocksAtLeast) assemble_kernel(Assembly job) {
  const Layout& at = job.layout;
  const int lane = threadIdx.x % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsABlock;
  const float nan = __int_as_float(0x7fc00000);
  const bool fits = at.packed_cu_seqlens[at.rows] <= at.total;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * kWarpsABlock + threadIdx.x / kWarp; t < at.total; t += warps) {
    E* to = static_cast<E*>(job.packed.data) + t * job.packed.stride;
    const int64_t b = range_of(at.packed_cu_seqlens, at.rows, t);
    if (b == at.rows || !fits) {
      fill_row(to, fits ? 0.0f : nan, at.width, lane);
      continue;
    }
    const int64_t slot = at.slots[b];
    const int64_t prompt_length = prompt_length_of(at.prompt_cu_seqlens, at.slot_count, slot);
    const int64_t first = at.packed_cu_seqlens[b];
    const int64_t prompt_at = at.prepend ? first : minus(at.packed_cu_seqlens[b + 1], prompt_length);
    const int64_t text_at = at.prepend ? plus(first, prompt_length) : first;
    const bool known_slot = slot >= 0 && slot < at.slot_count;
    if (known_slot && t >= prompt_at && t < plus(prompt_at, prompt_length)) {
      const int64_t p = plus(at.prompt_cu_seqlens[slot], minus(t, prompt_at));
      if (p >= 0 && p < job.prompt_rows) {
        copy_row<E, P, N>(to, static_cast<const P*>(job.prompts.data) + p * job.prompts.stride, at.width, lane);
        continue;
      }
    } else if (known_slot) {
      const int64_t i = plus(job.input_cu_seqlens[b], minus(t, text_at));
      const int64_t id = i >= 0 && i < job.tokens ? job.token_ids[i] : -1;
      if (id >= 0 && id < job.vocabulary) {
        copy_row<E, E, N>(to, static_cast<const E*>(job.embedding.data) + id * job.embedding.stride, at.width, lane);
        continue;
      }
    }
    fill_row(to, nan, at.width, lane);
  }
}

// blockIdx.x: rows of the prompts; blockIdx.y: vectors of their width, one a thread. The warps of a
// block read the same slots: each finds its slot's rows of the batch by ballot, in ascending order, so
// that a sum is the same to the bit on every device and in every run. Threads behind the width vote too.
template <typename E, int N>
__global__ void __launch_bounds__(kWarp* kWarpsABlock, kBlocksAtLeast) reduce_kernel(Reduction job) {
  using Sum = std::conditional_t<std::is_same_v<E, double>, double, float>;
  const Layout& at = job.layout;
  const int lane = threadIdx.x % kWarp;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  for (int64_t p = blockIdx.x; p < job.prompt_rows; p += gridDim.x) {
    const int64_t slot = range_of(at.prompt_cu_seqlens, at.slot_count, p);
    Vector<Sum, N> sum = {};
    for (int64_t slice = 0; slice < at.rows && slot < at.slot_count; slice += kWarp) {
      const bool mine = slice + lane < at.rows && at.slots[slice + lane] == slot;
      for (unsigned found = __ballot_sync(kAll, mine); found != 0; found &= found - 1) {
        const int64_t b = slice + __ffs(static_cast<int>(found)) - 1;
        // Counted from the row's start, or from its end where the prompt stands behind the text.
        const int64_t t = at.prepend ? plus(at.packed_cu_seqlens[b], minus(p, at.prompt_cu_seqlens[slot]))
                                     : plus(at.packed_cu_seqlens[b + 1], minus(p, at.prompt_cu_seqlens[slot + 1]));
        if (t < 0 || t >= at.total || column >= at.width) {
          continue;
        }
        const E* from = static_cast<const E*>(job.grad.data) + t * job.grad.stride + column;
        const Vector<E, N> grad = *reinterpret_cast<const Vector<E, N>*>(from);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          sum.at[i] += cast<Sum>(grad.at[i]);
        }
      }
    }
    if (column < at.width) {
      Sum* to = static_cast<Sum*>(job.out) + p * at.width + column;
      *reinterpret_cast<Vector<Sum, N>*>(to) = sum;
    }
  }
}

// The runtime's function and not its triple brackets: a plain C++ compiler takes it too, and so the
// tests run these kernels on the host.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream,
                   const Arguments&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <typename F>
cudaError_t with_type(Float type, F&& f) {
  switch (type) {
    case Float::f32:
      return f(float{});
    case Float::f64:
      return f(double{});
    case Float::bf16:
      return f(__nv_bfloat16{});
    case Float::f16:
      return f(__half{});
  }
  return cudaErrorInvalidValue;
}

template <typename T>
bool aligned(const Matrix& matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 &&
         matrix.stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

unsigned blocks_for(int64_t work) {
  return static_cast<unsigned>(work < kMostBlocks ? work : kMostBlocks);
}

}  // namespace

cudaError_t packed_cu_seqlens_cuda(const int64_t* prompt_cu_seqlens, int64_t slot_count, const int64_t* slots,
                                   const int64_t* input_cu_seqlens, int64_t rows, int64_t* packed_cu_seqlens,
                                   cudaStream_t stream) {
  return launch(packed_cu_seqlens_kernel, 1, kScanThreads, stream, prompt_cu_seqlens, slot_count, slots,
                input_cu_seqlens, rows, packed_cu_seqlens);
}

cudaError_t assemble_cuda(const Assembly& job, cudaStream_t stream) {
  const unsigned blocks = blocks_for((job.layout.total + kWarpsABlock - 1) / kWarpsABlock);
  return with_type(job.prompts.type, [&](auto p) {
    return with_type(job.packed.type, [&](auto e) {
      using P = decltype(p);
      using E = decltype(e);
      const bool wide = aligned<P>(job.prompts) && aligned<E>(job.embedding) && aligned<E>(job.packed);
      const auto kernel = wide ? assemble_kernel<P, E, kVectorWidth<P, E>> : assemble_kernel<P, E, 1>;
      return launch(kernel, blocks, kWarp * kWarpsABlock, stream, job);
    });
  });
}

cudaError_t reduce_cuda(const Reduction& job, cudaStream_t stream) {
  return with_type(job.grad.type, [&](auto e) {
    using E = decltype(e);
    constexpr int kWide = kVectorWidth<E, float>;
    const bool wide = aligned<E>(job.grad) && job.layout.width % kWide == 0;
    const int64_t vectors = job.layout.width / (wide ? kWide : 1);
    const int64_t most = kWarp * kWarpsABlock;
    const int64_t threads = vectors < most ? (vectors + kWarp - 1) / kWarp * kWarp : most;
    const dim3 grid(blocks_for(job.prompt_rows), static_cast<unsigned>((vectors + threads - 1) / threads));
    const auto kernel = wide ? reduce_kernel<E, kWide> : reduce_kernel<E, 1>;
    return launch(kernel, grid, static_cast<unsigned>(threads), stream, job);
  });
}

}  // namespace compt_fast

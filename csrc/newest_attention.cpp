// Attention of the newest token of each row to those before it and to itself, on the CPU, for decoding: it keeps the
// newest's keys and values beside the others, and has no derivatives.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "checks.h"
#include "operands.h"
#include "tasks.h"

namespace compt_fast {
namespace {

using at::Tensor;

// Products of numbers that a thread gets at least.
constexpr int64_t kGrain = 1 << 15;

template <typename T>
struct Newest {
  const T* qkv;       // (rows, 3, heads, width)
  T* cache;           // (rows, room, 2, heads, width), of which `written` tokens are filled
  const float* bias;  // (heads, 2 * reach - 1), of a key at distance d from its query at reach - 1 + d
  T* out;             // (rows, heads, width)
  int64_t heads, width, room, written, reach;
};

// Summed lane by lane: the same for every row, whatever is beside it.
template <typename T>
float dot(const T* a, const T* b, int64_t width) {
  float sums[kLanes] = {};
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) {
      sums[i] += static_cast<float>(a[d + i]) * static_cast<float>(b[d + i]);
    }
  }
  for (int64_t i = 0; d + i < width; ++i) {
    sums[i] += static_cast<float>(a[d + i]) * static_cast<float>(b[d + i]);
  }
  return sum_of(load(sums));
}

// One head of one row.
template <typename T>
void attend(const Newest<T>& job, int64_t row, int64_t head) {
  thread_local Buffer of_scores, of_sums;
  const int64_t all = job.heads * job.width;
  const T* q = job.qkv + row * 3 * all + head * job.width;
  T* k = job.cache + row * job.room * 2 * all + head * job.width;
  std::copy_n(q + all, job.width, k + job.written * 2 * all);
  std::copy_n(q + 2 * all, job.width, k + job.written * 2 * all + all);
  const int64_t length = job.written + 1;
  const int64_t step = round_up(length, kLanes);
  float* scores = of_scores.of<float>(step);
  for (int64_t j = 0; j < length; ++j) {
    scores[j] = dot(q, k + j * 2 * all, job.width);
  }
  std::fill(scores + length, scores + step, 0.0f);
  const float* bias = job.bias + head * (2 * job.reach - 1) + job.reach - 1 - job.written;
  float top = 0;
  const float scale = 1 / softmax(scores, bias, length, step, top);
  float* sums = of_sums.of<float>(job.width);
  std::fill(sums, sums + job.width, 0.0f);
  for (int64_t j = 0; j < length; ++j) {
    const T* v = k + j * 2 * all + all;
    for (int64_t d = 0; d < job.width; ++d) {
      sums[d] += scores[j] * static_cast<float>(v[d]);
    }
  }
  T* out = job.out + row * all + head * job.width;
  for (int64_t d = 0; d < job.width; ++d) {
    out[d] = static_cast<T>(sums[d] * scale);
  }
}

Tensor attend_newest_meta(const Tensor& qkv, Tensor& cache, int64_t written, const Tensor& bias) {
  check_layer_floats("qkv", qkv, 4);
  check_layer_floats("cache", cache, 5);
  check_floats("bias", bias, 2);
  CHECK_ARGUMENT(bias.scalar_type() == at::kFloat, "bias must be float32, got ", bias.scalar_type());
  CHECK_ARGUMENT(cache.scalar_type() == qkv.scalar_type(), "cache must be ", qkv.scalar_type(), ", as qkv is, got ",
                 cache.scalar_type());
  check_device("cache", cache, qkv.device());
  check_device("bias", bias, qkv.device());
  const auto rows = qkv.sym_size(0), heads = qkv.sym_size(2), width = qkv.sym_size(3);
  CHECK_SIZE(qkv.sym_size(1).sym_eq(3), "qkv must be (rows, 3, heads, width), got ", qkv.sym_sizes());
  CHECK_SIZE(cache.sym_size(0).sym_eq(rows), "cache must have ", rows, " rows, as many as qkv, got ", cache.sym_size(0));
  CHECK_SIZE(cache.sym_size(2).sym_eq(2), "cache must be (rows, room, 2, heads, width), got ", cache.sym_sizes());
  CHECK_SIZE(cache.sym_size(3).sym_eq(heads), "cache must have ", heads, " heads, as qkv has, got ", cache.sym_size(3));
  CHECK_SIZE(cache.sym_size(4).sym_eq(width), "cache must be ", width, " wide, as qkv is, got ", cache.sym_size(4));
  CHECK_SIZE(bias.sym_size(0).sym_eq(heads), "bias must have a row for each head, ", heads, ", got ", bias.sym_size(0));
  CHECK_SIZE(c10::SymInt(written).sym_ge(0), "written must not be negative, got ", written);
  CHECK_SIZE(cache.sym_size(1).sym_gt(written), "cache must have room for more than the ", written,
             " tokens that are written, got ", cache.sym_size(1));
  CHECK_SIZE((bias.sym_size(1) / 2).sym_ge(written), "bias must have 2 W - 1 columns, W at least ", written, " and 1, got ",
             bias.sym_size(1));
  CHECK_SIZE((bias.sym_size(1) % 2).sym_eq(1), "bias must have 2 W - 1 columns, got ", bias.sym_size(1));
  return at::empty_symint({rows, heads, width}, qkv.options());
}

Tensor attend_newest_cpu(const Tensor& qkv, Tensor& cache, int64_t written, const Tensor& bias) {
  const Tensor out = attend_newest_meta(qkv, cache, written, bias);
  check_dense("qkv", qkv);
  check_dense("cache", cache);
  check_dense("bias", bias);
  check_apart("cache", cache, {{"qkv", &qkv}, {"bias", &bias}});
  const int64_t heads = qkv.size(2), tasks = qkv.size(0) * heads;
  with_type(qkv, [&](auto zero) {
    using T = decltype(zero);
    const Newest<T> job{static_cast<const T*>(qkv.const_data_ptr()),
                        static_cast<T*>(cache.data_ptr()),
                        bias.const_data_ptr<float>(),
                        static_cast<T*>(out.data_ptr()),
                        heads,
                        qkv.size(3),
                        cache.size(1),
                        written,
                        bias.size(1) / 2 + 1};
    const int64_t products = tasks * (written + 1) * 2 * qkv.size(3);
    for_each_task(tasks, products / kGrain + 1, [&](int64_t i) { attend(job, i / heads, i % heads); });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(compt_fast, library) {
  library.def("attend_newest(Tensor qkv, Tensor(a!) cache, int written, Tensor bias) -> Tensor");
}

TORCH_LIBRARY_IMPL(compt_fast, CPU, library) {
  library.impl("attend_newest", TORCH_FN(attend_newest_cpu));
}

TORCH_LIBRARY_IMPL(compt_fast, Meta, library) {
  library.impl("attend_newest", TORCH_FN(attend_newest_meta));
}

TORCH_LIBRARY_IMPL(compt_fast, Autograd, library) {
  library.impl("attend_newest", torch::CppFunction::makeFromBoxedFunction<&without_derivative>());
}

}  // namespace compt_fast

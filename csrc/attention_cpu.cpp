// Attention of one head of one row, forward and backward, in blocks of queries whose scores stay in
// cache. Products read bfloat16 pairs where the processor multiplies them, else floats; sums, softmax
// and everything between are floats.
#include "attention_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "operands.h"

namespace compt_fast {
namespace {

struct Workspace {
  Buffer q_rows, k_rows, v_rows, g_rows, k_transposed, v_transposed, q_pairs, k_pairs, v_pairs, g_pairs;
  Buffer scores, score_grads, p_rows, p_pairs, grad_rows, grad_pairs, block, k_grad, v_grad;
};

Workspace& workspace() {
  thread_local Workspace scratch;
  return scratch;
}

// Where one head of one row lies.
template <typename T>
struct Place {
  Place(const Attention<T>& job, int64_t row, int64_t head)
      : size{job.cu_seqlens[row + 1] - job.cu_seqlens[row], job.width},
        step(job.heads * job.width),
        qkv_step(3 * step),
        at(job.cu_seqlens[row] * step + head * job.width),
        qkv_at(job.cu_seqlens[row] * qkv_step + head * job.width),
        lse_at(job.cu_seqlens[row] * job.heads + head),
        bias(job.bias + head * (2 * job.reach - 1) + job.reach - 1) {}

  Sizes<DotOf<T>> size;
  int64_t step;      // between the tokens of out and its gradient
  int64_t qkv_step;  // between those of qkv and its gradient
  int64_t at;
  int64_t qkv_at;
  int64_t lse_at;
  const float* bias;  // of distance 0
};

}  // namespace

template <typename T>
void attend(const Attention<T>& job, T* out, float* lse, int64_t row, int64_t head) {
  using Dot = DotOf<T>;
  Workspace& scratch = workspace();
  const Place<T> place(job, row, head);
  const auto& size = place.size;
  const int64_t units = size.units_of_width();
  const int64_t wide = size.padded_width();
  const int64_t step = size.padded_length();
  const T* q = job.qkv + place.qkv_at;
  const T* k = q + place.step;
  const T* v = k + place.step;

  const Units q_rows = rows_of(q, place.qkv_step, size, scratch.q_rows);
  const Unit* k_transposed = transposed(rows_of(k, place.qkv_step, size, scratch.k_rows), size, scratch.k_transposed);
  const Unit* v_pairs = pairs_of(v, place.qkv_step, size, scratch.v_pairs);
  float* scores = scratch.scores.of<float>(kQueries * step);
  float* block = scratch.block.of<float>(kQueries * wide);
  // Blocks of queries outside, so that a block's scores are still in cache when they meet the values.
  for (int64_t first = 0; first < size.length; first += kQueries) {
    const int64_t count = std::min(kQueries, size.length - first);
    product<Dot>(rows_from(q_rows, first), count, units, k_transposed, step, step, scores, step, false);
    float scales[kQueries];
    for (int64_t i = 0; i < count; ++i) {
      float top = 0;
      const float sum = softmax(scores + i * step, place.bias - first - i, size.length, step, top);
      scales[i] = 1 / sum;
      lse[place.lse_at + (first + i) * job.heads] = top + std::log(sum);
    }
    const Units p = along(scores, count, size, scratch.p_rows);
    product<Dot>(p, count, size.units_of_length(), v_pairs, wide, wide, block, wide, false);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t d = 0; d < wide; ++d) {
        block[i * wide + d] *= scales[i];
      }
    }
    store_rows(block, wide, count, size.width, out + place.at + first * place.step, place.step);
  }
}

template <typename T>
void attend_backward(const Attention<T>& job, const T* grad_out, const float* lse, T* grad_qkv, int64_t row,
                     int64_t head) {
  using Dot = DotOf<T>;
  Workspace& scratch = workspace();
  const Place<T> place(job, row, head);
  const auto& size = place.size;
  const int64_t units = size.units_of_width();
  const int64_t wide = size.padded_width();
  const int64_t step = size.padded_length();
  const T* q = job.qkv + place.qkv_at;
  const T* k = q + place.step;
  const T* v = k + place.step;
  const T* g = grad_out + place.at;

  const Units q_rows = rows_of(q, place.qkv_step, size, scratch.q_rows);
  const Units g_rows = rows_of(g, place.step, size, scratch.g_rows);
  const Unit* k_transposed = transposed(rows_of(k, place.qkv_step, size, scratch.k_rows), size, scratch.k_transposed);
  const Unit* v_transposed = transposed(rows_of(v, place.qkv_step, size, scratch.v_rows), size, scratch.v_transposed);
  const Unit* q_pairs = pairs_of(q, place.qkv_step, size, scratch.q_pairs);
  const Unit* k_pairs = pairs_of(k, place.qkv_step, size, scratch.k_pairs);
  const Unit* g_pairs = pairs_of(g, place.step, size, scratch.g_pairs);
  float* scores = scratch.scores.of<float>(kQueries * step);
  float* grads = scratch.score_grads.of<float>(kQueries * step);
  float* block = scratch.block.of<float>(kQueries * wide);
  float* k_grad = scratch.k_grad.of<float>(size.length * wide);
  float* v_grad = scratch.v_grad.of<float>(size.length * wide);
  T* q_out = grad_qkv + place.qkv_at;
  // In ascending order: each block is added to the gradients of keys and values, which this thread alone has.
  for (int64_t first = 0; first < size.length; first += kQueries) {
    const int64_t count = std::min(kQueries, size.length - first);
    const bool add = first > 0;
    product<Dot>(rows_from(q_rows, first), count, units, k_transposed, step, step, scores, step, false);
    product<Dot>(rows_from(g_rows, first), count, units, v_transposed, step, step, grads, step, false);
    for (int64_t i = 0; i < count; ++i) {
      softmax_backward(scores + i * step, grads + i * step, place.bias - first - i,
                      lse[place.lse_at + (first + i) * job.heads], size.length, step);
    }
    const int64_t inner = (count + Dot::kPerUnit - 1) / Dot::kPerUnit;
    const int64_t pairs_at = first / Dot::kPerUnit * wide;
    product<Dot>(across(scores, count, size, scratch.p_pairs), size.length, inner, g_pairs + pairs_at, wide, wide,
                 v_grad, wide, add);
    product<Dot>(across(grads, count, size, scratch.grad_pairs), size.length, inner, q_pairs + pairs_at, wide, wide,
                 k_grad, wide, add);
    product<Dot>(along(grads, count, size, scratch.grad_rows), count, size.units_of_length(), k_pairs, wide, wide,
                 block, wide, false);
    store_rows(block, wide, count, size.width, q_out + first * place.qkv_step, place.qkv_step);
  }
  store_rows(k_grad, wide, size.length, size.width, q_out + place.step, place.qkv_step);
  store_rows(v_grad, wide, size.length, size.width, q_out + 2 * place.step, place.qkv_step);
}

#define INSTANTIATE(T)                                                     \
  template void attend(const Attention<T>&, T*, float*, int64_t, int64_t); \
  template void attend_backward(const Attention<T>&, const T*, const float*, T*, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(c10::BFloat16)

}  // namespace compt_fast

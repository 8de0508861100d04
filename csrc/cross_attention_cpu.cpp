// Cross-attention of one row's queries to its states, forward and backward, in blocks of queries whose scores stay
// in cache. Products read bfloat16 pairs where the processor multiplies them, else floats; sums, softmax
// and everything between are floats.
#include "cross_attention_cpu.h"

#include <cmath>

#include "operands.h"

namespace compt_fast {
namespace {

struct Workspace {
  Buffer rows, q_rows, g_rows, q_pairs, g_pairs;
  Buffer scores, score_grads, p_rows, p_pairs, grad_rows, grad_pairs, block, states_grad;
};

Workspace& workspace() {
  thread_local Workspace scratch;
  return scratch;
}

// Where one row lies: its queries, its states, and these packed: as right sides of products along the
// width (`transposed`) and along the states (`pairs`).
template <typename T>
struct Place {
  using Dot = DotOf<T>;

  Place(const CrossAttention<T>& job, int64_t row)
      : q_at(job.cu_seqlens_q[row]),
        k_at(job.cu_seqlens_k[row]),
        queries{job.cu_seqlens_q[row + 1] - q_at, job.width},
        states{job.cu_seqlens_k[row + 1] - k_at, job.width},
        transposed(job.packed + job.begin[row]),
        pairs(transposed + states.transposed_units()) {}

  int64_t q_at;
  int64_t k_at;
  Sizes<Dot> queries;
  Sizes<Dot> states;
  const Unit* transposed;
  const Unit* pairs;
};

// Units of the width that are summed before they meet what the others gave: one sum of a whole width would round a
// large score more than torch's products do.
constexpr int64_t kSummed = 64;

// The scores, or the gradients of probabilities, (count, padded_length), of a block's rows from `first` on.
template <typename Dot>
void products_with_states(const Units& rows, int64_t first, int64_t count, const Sizes<Dot>& states,
                          const Unit* transposed, float* into) {
  const Units block = rows_from(rows, first);
  const int64_t units = states.units_of_width();
  const int64_t step = states.padded_length();
  for (int64_t k = 0; k < units; k += kSummed) {
    const Units part{block.data + k * block.inner_step, block.row_step, block.inner_step};
    product<Dot>(part, count, std::min(kSummed, units - k), transposed + k * step, step, step, into, step, k > 0);
  }
}

}  // namespace

template <typename T>
void lay_out(CrossAttention<T>& job) {
  job.begin.assign(1, 0);
  int64_t max_seqlen = 0;
  for (int64_t row = 0; row < job.rows; ++row) {
    const Sizes<DotOf<T>> states{job.cu_seqlens_k[row + 1] - job.cu_seqlens_k[row], job.width};
    job.begin.push_back(job.begin.back() + states.transposed_units() + states.pairs_units());
    max_seqlen = std::max(max_seqlen, states.length);
  }
  job.no_bias.assign(max_seqlen, 0.0f);
}

template <typename T>
void pack_states(const CrossAttention<T>& job, const T* states, uint32_t* packed, int64_t row) {
  const Place<T> place(job, row);
  const T* from = states + place.k_at * job.width;
  Unit* to = packed + job.begin[row];
  transposed(rows_of(from, job.width, place.states, workspace().rows), place.states, to);
  pairs_of(from, job.width, place.states, to + place.states.transposed_units());
}

template <typename T>
void cross_attend(const CrossAttention<T>& job, T* out, float* lse, int64_t row) {
  using Dot = DotOf<T>;
  Workspace& scratch = workspace();
  const Place<T> place(job, row);
  const auto& size = place.states;
  const int64_t wide = size.padded_width();
  const int64_t step = size.padded_length();
  const Units q_rows = rows_of(job.queries + place.q_at * job.width, job.width, place.queries, scratch.q_rows);
  float* scores = scratch.scores.of<float>(kQueries * step);
  float* block = scratch.block.of<float>(kQueries * wide);
  // Blocks of queries outside, so that a block's scores are still in cache when they meet the states again.
  for (int64_t first = 0; first < place.queries.length; first += kQueries) {
    const int64_t count = std::min(kQueries, place.queries.length - first);
    products_with_states(q_rows, first, count, size, place.transposed, scores);
    float scales[kQueries];
    for (int64_t i = 0; i < count; ++i) {
      float top = 0;
      const float sum = softmax(scores + i * step, job.no_bias.data(), size.length, step, top);
      scales[i] = 1 / sum;
      lse[place.q_at + first + i] = top + std::log(sum);
    }
    const Units p = along(scores, count, size, scratch.p_rows);
    product<Dot>(p, count, size.units_of_length(), place.pairs, wide, wide, block, wide, false);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t d = 0; d < wide; ++d) {
        block[i * wide + d] *= scales[i];
      }
    }
    store_rows(block, wide, count, job.width, out + (place.q_at + first) * job.width, job.width);
  }
}

template <typename T>
void cross_attend_backward(const CrossAttention<T>& job, const T* grad_out, const float* lse, T* grad_queries,
                           float* grad_states, int64_t row) {
  using Dot = DotOf<T>;
  Workspace& scratch = workspace();
  const Place<T> place(job, row);
  const auto& size = place.states;
  const int64_t wide = size.padded_width();
  const int64_t step = size.padded_length();
  const T* q = job.queries + place.q_at * job.width;
  const T* g = grad_out + place.q_at * job.width;
  const Units q_rows = rows_of(q, job.width, place.queries, scratch.q_rows);
  const Units g_rows = rows_of(g, job.width, place.queries, scratch.g_rows);
  const Unit* q_pairs = pairs_of(q, job.width, place.queries, scratch.q_pairs);
  const Unit* g_pairs = pairs_of(g, job.width, place.queries, scratch.g_pairs);
  float* scores = scratch.scores.of<float>(kQueries * step);
  float* grads = scratch.score_grads.of<float>(kQueries * step);
  float* block = scratch.block.of<float>(kQueries * wide);
  // Added to in place, where its rows are whole vectors.
  float* into = grad_states + place.k_at * job.width;
  const bool whole = wide == job.width;
  float* sums = whole ? into : scratch.states_grad.of<float>(size.length * wide);
  // In ascending order: each block is added to the sums of the states, which one thread has.
  for (int64_t first = 0; first < place.queries.length; first += kQueries) {
    const int64_t count = std::min(kQueries, place.queries.length - first);
    products_with_states(q_rows, first, count, size, place.transposed, scores);
    products_with_states(g_rows, first, count, size, place.transposed, grads);
    for (int64_t i = 0; i < count; ++i) {
      softmax_backward(scores + i * step, grads + i * step, job.no_bias.data(), lse[place.q_at + first + i],
                       size.length, step);
    }
    const int64_t inner = (count + Dot::kPerUnit - 1) / Dot::kPerUnit;
    const int64_t pairs_at = first / Dot::kPerUnit * wide;
    const bool add = whole || first > 0;
    // A state is a value, by the probabilities, and a key, by the scores.
    product<Dot>(across(scores, count, size, scratch.p_pairs), size.length, inner, g_pairs + pairs_at, wide, wide,
                 sums, wide, add);
    product<Dot>(across(grads, count, size, scratch.grad_pairs), size.length, inner, q_pairs + pairs_at, wide, wide,
                 sums, wide, true);
    product<Dot>(along(grads, count, size, scratch.grad_rows), count, size.units_of_length(), place.pairs, wide, wide,
                 block, wide, false);
    store_rows(block, wide, count, job.width, grad_queries + (place.q_at + first) * job.width, job.width);
  }
  if (!whole) {
    for (int64_t i = 0; i < size.length; ++i) {
      for (int64_t d = 0; d < job.width; ++d) {
        into[i * job.width + d] += sums[i * wide + d];
      }
    }
  }
}

#define INSTANTIATE(T)                                                                                        \
  template void lay_out(CrossAttention<T>&);                                                                  \
  template void pack_states(const CrossAttention<T>&, const T*, uint32_t*, int64_t);                          \
  template void cross_attend(const CrossAttention<T>&, T*, float*, int64_t);                                  \
  template void cross_attend_backward(const CrossAttention<T>&, const T*, const float*, T*, float*, int64_t);
INSTANTIATE(float)
INSTANTIATE(c10::BFloat16)

}  // namespace compt_fast

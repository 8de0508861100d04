// Queries of one row that read its states, forward and backward, in blocks of queries whose scores stay
// in cache. Products read bfloat16 pairs where the processor multiplies them, else floats; sums, softmax
// and everything between are floats.
#include "reading_cpu.h"

#include <cmath>

#include "operands.h"

namespace compt_fast {
namespace {

struct Workspace {
  Buffer rows, q_rows, g_rows, q_pairs, g_pairs;
  Buffer scores, score_grads, weight_rows, weight_pairs, grad_rows, grad_pairs, block, states_grad;
};

Workspace& workspace() {
  thread_local Workspace own;
  return own;
}

// Where one row lies: its queries, its states, and these packed: as right sides of products along the
// width (`turned`) and along the states (`pairs`).
template <typename T>
struct Place {
  using Dot = DotOf<T>;

  Place(const Reading<T>& job, int64_t row)
      : q_at(job.q_offsets[row]),
        k_at(job.k_offsets[row]),
        queries{job.q_offsets[row + 1] - q_at, job.width},
        states{job.k_offsets[row + 1] - k_at, job.width},
        turned(job.packed + job.begin[row]),
        pairs(turned + states.turned_units()) {}

  int64_t q_at;
  int64_t k_at;
  Sizes<Dot> queries;
  Sizes<Dot> states;
  const Unit* turned;
  const Unit* pairs;
};

// Units of the width that are summed before they meet what the others gave: one sum of a whole width would round a
// large score more than torch's products do.
constexpr int64_t kStretch = 64;

// The scores, or the gradients of weights, (count, long), of a block's rows from `first` on.
template <typename Dot>
void products_with_states(const Units& rows, int64_t first, int64_t count, const Sizes<Dot>& states, const Unit* turned,
                          float* into) {
  const Units block = rows_from(rows, first);
  const int64_t units = states.units_of_width();
  const int64_t step = states.long_();
  for (int64_t k = 0; k < units; k += kStretch) {
    const Units stretch{block.data + k * block.inner_step, block.row_step, block.inner_step};
    product<Dot>(stretch, count, std::min(kStretch, units - k), turned + k * step, step, step, into, step, k > 0);
  }
}

}  // namespace

template <typename T>
void lay_out(Reading<T>& job) {
  job.begin.assign(1, 0);
  int64_t longest = 0;
  for (int64_t row = 0; row < job.rows; ++row) {
    const Sizes<DotOf<T>> states{job.k_offsets[row + 1] - job.k_offsets[row], job.width};
    job.begin.push_back(job.begin.back() + states.turned_units() + states.pairs_units());
    longest = std::max(longest, states.length);
  }
  job.no_bias.assign(longest, 0.0f);
}

template <typename T>
void pack_states(const Reading<T>& job, const T* states, uint32_t* packed, int64_t row) {
  const Place<T> place(job, row);
  const T* from = states + place.k_at * job.width;
  Unit* to = packed + job.begin[row];
  turned(rows_of(from, job.width, place.states, workspace().rows), place.states, to);
  pairs_of(from, job.width, place.states, to + place.states.turned_units());
}

template <typename T>
void read_states(const Reading<T>& job, T* out, float* lse, int64_t row) {
  using Dot = DotOf<T>;
  Workspace& own = workspace();
  const Place<T> place(job, row);
  const auto& size = place.states;
  const int64_t wide = size.wide();
  const int64_t step = size.long_();
  const Units q_rows = rows_of(job.queries + place.q_at * job.width, job.width, place.queries, own.q_rows);
  float* scores = own.scores.of<float>(kQueries * step);
  float* block = own.block.of<float>(kQueries * wide);
  for (int64_t first = 0; first < place.queries.length; first += kQueries) {
    const int64_t count = std::min(kQueries, place.queries.length - first);
    products_with_states(q_rows, first, count, size, place.turned, scores);
    float scales[kQueries];
    for (int64_t i = 0; i < count; ++i) {
      float top = 0;
      const float sum = soften(scores + i * step, job.no_bias.data(), size.length, step, top);
      scales[i] = 1 / sum;
      lse[place.q_at + first + i] = top + std::log(sum);
    }
    const Units weights = along(scores, count, size, own.weight_rows);
    product<Dot>(weights, count, size.units_of_length(), place.pairs, wide, wide, block, wide, false);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t d = 0; d < wide; ++d) {
        block[i * wide + d] *= scales[i];
      }
    }
    store_rows(block, wide, count, job.width, out + (place.q_at + first) * job.width, job.width);
  }
}

template <typename T>
void read_states_backward(const Reading<T>& job, const T* grad_out, const float* lse, T* grad_queries,
                          float* grad_states, int64_t row) {
  using Dot = DotOf<T>;
  Workspace& own = workspace();
  const Place<T> place(job, row);
  const auto& size = place.states;
  const int64_t wide = size.wide();
  const int64_t step = size.long_();
  const T* q = job.queries + place.q_at * job.width;
  const T* g = grad_out + place.q_at * job.width;
  const Units q_rows = rows_of(q, job.width, place.queries, own.q_rows);
  const Units g_rows = rows_of(g, job.width, place.queries, own.g_rows);
  const Unit* q_pairs = pairs_of(q, job.width, place.queries, own.q_pairs);
  const Unit* g_pairs = pairs_of(g, job.width, place.queries, own.g_pairs);
  float* scores = own.scores.of<float>(kQueries * step);
  float* grads = own.score_grads.of<float>(kQueries * step);
  float* block = own.block.of<float>(kQueries * wide);
  // Added to in place, where its rows are whole vectors.
  float* into = grad_states + place.k_at * job.width;
  const bool whole = wide == job.width;
  float* sums = whole ? into : own.states_grad.of<float>(size.length * wide);
  for (int64_t first = 0; first < place.queries.length; first += kQueries) {
    const int64_t count = std::min(kQueries, place.queries.length - first);
    products_with_states(q_rows, first, count, size, place.turned, scores);
    products_with_states(g_rows, first, count, size, place.turned, grads);
    for (int64_t i = 0; i < count; ++i) {
      soften_backward(scores + i * step, grads + i * step, job.no_bias.data(), lse[place.q_at + first + i], size.length,
                      step);
    }
    const int64_t inner = (count + Dot::kPerUnit - 1) / Dot::kPerUnit;
    const int64_t pairs_at = first / Dot::kPerUnit * wide;
    const bool add = whole || first > 0;
    // A state is a value, by the weights, and a key, by the scores.
    product<Dot>(across(scores, count, size, own.weight_pairs), size.length, inner, g_pairs + pairs_at, wide, wide,
                 sums, wide, add);
    product<Dot>(across(grads, count, size, own.grad_pairs), size.length, inner, q_pairs + pairs_at, wide, wide, sums,
                 wide, true);
    product<Dot>(along(grads, count, size, own.grad_rows), count, size.units_of_length(), place.pairs, wide, wide,
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

#define INSTANTIATE(T)                                                                              \
  template void lay_out(Reading<T>&);                                                               \
  template void pack_states(const Reading<T>&, const T*, uint32_t*, int64_t);                       \
  template void read_states(const Reading<T>&, T*, float*, int64_t);                                \
  template void read_states_backward(const Reading<T>&, const T*, const float*, T*, float*, int64_t);
INSTANTIATE(float)
INSTANTIATE(c10::BFloat16)

}  // namespace compt_fast

#pragma once

#include <cstdint>
#include <vector>

namespace compt_fast {

// Rows of queries that attend to rows of states, which are their keys and their values: row b's queries
// cu_seqlens_q[b] ... attend to the states cu_seqlens_k[b] .... Everything is contiguous; T is float or bfloat16.
template <typename T>
struct CrossAttention {
  const T* queries;             // (all queries, width)
  const int64_t* cu_seqlens_q;  // (rows + 1)
  const int64_t* cu_seqlens_k;  // (rows + 1)
  int64_t rows;
  int64_t width;
  const uint32_t* packed;      // the states, as `pack_states` left them
  std::vector<int64_t> begin;  // (rows + 1): where a row's part of `packed` begins
  std::vector<float> no_bias;  // zeros for the longest row of states
};

// Sets `begin` and `no_bias`; everything else is there.
template <typename T>
void lay_out(CrossAttention<T>& job);

// One row. Everything has been checked; neither its queries nor its states are empty but where said.
template <typename T>
void pack_states(const CrossAttention<T>& job, const T* states, uint32_t* packed, int64_t row);  // may be empty

template <typename T>
void cross_attend(const CrossAttention<T>& job, T* out, float* lse, int64_t row);

// Adds to `grad_states` (all states, width).
template <typename T>
void cross_attend_backward(const CrossAttention<T>& job, const T* grad_out, const float* lse, T* grad_queries,
                           float* grad_states, int64_t row);

}  // namespace compt_fast

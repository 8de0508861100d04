#pragma once

#include <cstdint>

namespace compt_fast {

// Attention within each row of a packed batch. Everything is contiguous; T is float or bfloat16.
template <typename T>
struct Attention {
  const T* qkv;            // (tokens, 3, heads, width)
  const int64_t* offsets;  // row b is tokens offsets[b] ... offsets[b + 1] - 1
  const float* bias;       // (heads, 2 * reach - 1), of a key at distance d from its query at reach - 1 + d
  int64_t heads;
  int64_t width;
  int64_t reach;
  T* out;      // (tokens, heads, width)
  float* lse;  // (tokens, heads)
};

template <typename T>
struct AttentionGrad {
  Attention<T> forward;  // whose out and lse are read
  const T* grad_out;     // (tokens, heads, width)
  T* grad_qkv;           // (tokens, 3, heads, width)
};

// One head of one row. Everything has been checked; rows are not empty.
template <typename T>
void attend(const Attention<T>& job, int64_t row, int64_t head);

template <typename T>
void attend_backward(const AttentionGrad<T>& job, int64_t row, int64_t head);

}  // namespace compt_fast

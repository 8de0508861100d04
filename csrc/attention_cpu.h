#pragma once

#include <cstdint>

namespace compt_fast {

// Attention within each row of a packed batch. Everything is contiguous; T is float or bfloat16.
template <typename T>
struct Attention {
  const T* qkv;               // (tokens, 3, heads, width)
  const int64_t* cu_seqlens;  // row b is tokens cu_seqlens[b] ... cu_seqlens[b + 1] - 1
  const float* bias;          // (heads, 2 * reach - 1), of a key at distance d from its query at reach - 1 + d
  int64_t heads;
  int64_t width;
  int64_t reach;
};

// One head of one row, of out (tokens, heads, width) and lse (tokens, heads). Everything has been checked; rows are
// not empty.
template <typename T>
void attend(const Attention<T>& job, T* out, float* lse, int64_t row, int64_t head);

// From the gradient of out, grad_out, to that of qkv.
template <typename T>
void attend_backward(const Attention<T>& job, const T* grad_out, const float* lse, T* grad_qkv, int64_t row,
                     int64_t head);

}  // namespace compt_fast

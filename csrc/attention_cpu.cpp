// Attention of one head of one row, forward and backward, in blocks of queries whose scores stay in
// cache. Products read bfloat16 pairs where the processor multiplies them, else floats; sums, softmax
// and everything between are floats.
#include "attention_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>

#include "vectors.h"

namespace compt_fast {
namespace {

constexpr int64_t kQueries = 64;  // of a block; even, so that pairs of queries do not straddle blocks
constexpr std::align_val_t kAlignment{64};

#ifdef __AVX512BF16__
template <typename T>
using DotOf = std::conditional_t<std::is_same_v<T, float>, FloatDot, PairDot>;
#else
template <typename T>
using DotOf = FloatDot;
#endif

// Memory that a thread keeps from one task to the next.
class Buffer {
 public:
  template <typename T>
  T* of(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (bytes > bytes_) {
      memory_.reset(static_cast<char*>(::operator new(bytes, kAlignment)));
      bytes_ = bytes;
    }
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  struct Free {
    void operator()(char* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<char, Free> memory_;
  size_t bytes_ = 0;
};

struct Workspace {
  Buffer q_rows, k_rows, v_rows, g_rows, k_turned, v_turned, q_pairs, k_pairs, v_pairs, g_pairs;
  Buffer scores, score_grads, weight_rows, weight_pairs, grad_rows, grad_pairs, block, k_grad, v_grad;
};

Workspace& workspace() {
  thread_local Workspace own;
  return own;
}

// bfloat16 of a float, in the low bits.
inline uint32_t bf16_bits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return x != x ? 0x7fc0 : rounded;
}

// A row's or a block's sizes: L rows and D columns, in what the products count in.
template <typename Dot>
struct Sizes {
  static constexpr int64_t kPer = Dot::kPerUnit;
  int64_t length;
  int64_t width;

  int64_t units_of_width() const { return (width + kPer - 1) / kPer; }
  int64_t units_of_length() const { return (length + kPer - 1) / kPer; }
  int64_t wide() const { return round_up(width, kLanes); }
  int64_t long_() const { return round_up(length, kLanes); }
};

// `length` vectors of one head, `step` elements apart, as rows of units_of_width units: where they
// are, or copied where units would not be whole.
template <typename Dot, typename T>
Units rows_of(const T* from, int64_t step, const Sizes<Dot>& size, Buffer& into) {
  using Element = typename Dot::Element;
  const int64_t units = size.units_of_width();
  const int64_t width = size.width;
  const bool whole = width % Dot::kPerUnit == 0 && reinterpret_cast<uintptr_t>(from) % sizeof(Unit) == 0;
  if (std::is_same_v<T, Element> && whole) {
    return {reinterpret_cast<const Unit*>(from), step / Dot::kPerUnit, 1};
  }
  Unit* to = into.of<Unit>(size.length * units);
  for (int64_t i = 0; i < size.length; ++i) {
    to[(i + 1) * units - 1] = 0;  // the odd one out
    Element* row = reinterpret_cast<Element*>(to + i * units);
    for (int64_t d = 0; d < width; ++d) {
      row[d] = static_cast<Element>(from[i * step + d]);
    }
  }
  return {to, units, 1};
}

// The rows of a block.
Units rows_from(const Units& rows, int64_t first) {
  return {rows.data + first * rows.row_step, rows.row_step, rows.inner_step};
}

// Rows of units turned: (units_of_width, long), zero behind the length.
template <typename Dot>
const Unit* turned(const Units& rows, const Sizes<Dot>& size, Buffer& into) {
  const int64_t units = size.units_of_width();
  const int64_t step = size.long_();
  Unit* to = into.of<Unit>(units * step);
  for (int64_t first = 0; first < step; first += kLanes) {
    for (int64_t k = 0; k < units; k += kLanes) {
      const int64_t count = std::min(kLanes, units - k);
      Vector square[kLanes] = {};
      for (int64_t i = 0; i < std::min(kLanes, size.length - first); ++i) {
        const auto* row = reinterpret_cast<const float*>(rows.data + (first + i) * rows.row_step + k);
        square[i] = count == kLanes ? load(row) : load_part(row, count, 0);
      }
      turn(square);
      for (int64_t i = 0; i < count; ++i) {
        store(reinterpret_cast<float*>(to + (k + i) * step + first), square[i]);
      }
    }
  }
  return to;
}

// The same vectors with a unit holding neighbours along the length: (units_of_length, wide).
template <typename Dot, typename T>
const Unit* pairs_of(const T* from, int64_t step, const Sizes<Dot>& size, Buffer& into) {
  const int64_t wide = size.wide();
  const int64_t width = size.width;
  Unit* to = into.of<Unit>(size.units_of_length() * wide);
  for (int64_t k = 0; k < size.units_of_length(); ++k) {
    Unit* row = to + k * wide;
    const T* first = from + k * Dot::kPerUnit * step;
    if constexpr (Dot::kPerUnit == 1) {
      for (int64_t d = 0; d < width; ++d) {
        row[d] = std::bit_cast<uint32_t>(static_cast<float>(first[d]));
      }
    } else if (2 * k + 1 < size.length) {
      const T* second = first + step;
      for (int64_t d = 0; d < width; ++d) {
        row[d] = static_cast<uint32_t>(first[d].x) | static_cast<uint32_t>(second[d].x) << 16;
      }
    } else {
      for (int64_t d = 0; d < width; ++d) {
        row[d] = first[d].x;
      }
    }
    std::fill(row + width, row + wide, 0);
  }
  return to;
}

// Floats (count, long) with zeros behind the length, as the left side of a product along the length.
template <typename Dot>
Units along(const float* from, int64_t count, const Sizes<Dot>& size, Buffer& into) {
  const int64_t step = size.long_();
  if constexpr (Dot::kPerUnit == 1) {
    return {reinterpret_cast<const Unit*>(from), step, 1};
  } else {
    Unit* to = into.of<Unit>(count * step / 2);
    uint16_t* elements = reinterpret_cast<uint16_t*>(to);
    for (int64_t i = 0; i < count * step; ++i) {
      elements[i] = static_cast<uint16_t>(bf16_bits(from[i]));
    }
    return {to, step / 2, 1};
  }
}

// Floats (count, long) as the left side of a product along the count: turned.
template <typename Dot>
Units across(const float* from, int64_t count, const Sizes<Dot>& size, Buffer& into) {
  const int64_t step = size.long_();
  if constexpr (Dot::kPerUnit == 1) {
    return {reinterpret_cast<const Unit*>(from), 1, step};
  } else {
    Unit* to = into.of<Unit>((count + 1) / 2 * step);
    for (int64_t i = 0; i < count; i += 2) {
      Unit* row = to + i / 2 * step;
      const float* first = from + i * step;
      if (i + 1 < count) {
        for (int64_t j = 0; j < step; ++j) {
          row[j] = bf16_bits(first[j]) | bf16_bits(first[step + j]) << 16;
        }
      } else {
        for (int64_t j = 0; j < step; ++j) {
          row[j] = bf16_bits(first[j]);
        }
      }
    }
    return {to, 1, step};
  }
}

template <typename T>
void store_rows(const float* from, int64_t from_step, int64_t count, int64_t width, T* to, int64_t to_step) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t d = 0; d < width; ++d) {
      to[i * to_step + d] = static_cast<T>(from[i * from_step + d]);
    }
  }
}

// kLanes entries of a query's bias from key j on; behind the length what makes a weight of 0.
inline Vector bias_at(const float* bias, int64_t j, int64_t length) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  return j + kLanes <= length ? load(bias + j) : load_part(bias + j, length - j, kNever);
}

// Scores of one query to its softmax's numerators, with zeros behind the length; returns their sum
// and sets `top`, the score that was subtracted.
float soften(float* scores, const float* bias, int64_t length, int64_t step, float& top) {
  Vector most = Vector{} - std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < step; j += kLanes) {
    const Vector score = load(scores + j) + bias_at(bias, j, length);
    store(scores + j, score);
    most = select(score > most, score, most);
  }
  top = most_of(most);
  Vector sum{};
  for (int64_t j = 0; j < step; j += kLanes) {
    const Vector weight = fast_exp(load(scores + j) - top);
    store(scores + j, weight);
    sum += weight;
  }
  return sum_of(sum);
}

// Scores to weights, given the logarithm of the denominator; `grads`, of the weights, to those of
// the scores. Zeros behind the length.
void soften_backward(float* scores, float* grads, const float* bias, float lse, float delta, int64_t length,
                     int64_t step) {
  for (int64_t j = 0; j < step; j += kLanes) {
    const Vector weight = fast_exp(load(scores + j) + bias_at(bias, j, length) - lse);
    store(scores + j, weight);
    store(grads + j, weight * (load(grads + j) - delta));
  }
}

// Where one head of one row lies.
template <typename T>
struct Place {
  Place(const Attention<T>& job, int64_t row, int64_t head)
      : size{job.offsets[row + 1] - job.offsets[row], job.width},
        step(job.heads * job.width),
        qkv_step(3 * step),
        at(job.offsets[row] * step + head * job.width),
        qkv_at(job.offsets[row] * qkv_step + head * job.width),
        lse_at(job.offsets[row] * job.heads + head),
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
void attend(const Attention<T>& job, int64_t row, int64_t head) {
  using Dot = DotOf<T>;
  Workspace& own = workspace();
  const Place<T> place(job, row, head);
  const auto& size = place.size;
  const int64_t units = size.units_of_width();
  const int64_t wide = size.wide();
  const int64_t step = size.long_();
  const T* q = job.qkv + place.qkv_at;
  const T* k = q + place.step;
  const T* v = k + place.step;

  const Units q_rows = rows_of(q, place.qkv_step, size, own.q_rows);
  const Unit* k_turned = turned(rows_of(k, place.qkv_step, size, own.k_rows), size, own.k_turned);
  const Unit* v_pairs = pairs_of(v, place.qkv_step, size, own.v_pairs);
  float* scores = own.scores.of<float>(kQueries * step);
  float* block = own.block.of<float>(kQueries * wide);
  for (int64_t first = 0; first < size.length; first += kQueries) {
    const int64_t count = std::min(kQueries, size.length - first);
    product<Dot>(rows_from(q_rows, first), count, units, k_turned, step, step, scores, step, false);
    float scales[kQueries];
    for (int64_t i = 0; i < count; ++i) {
      float top = 0;
      const float sum = soften(scores + i * step, place.bias - first - i, size.length, step, top);
      scales[i] = 1 / sum;
      job.lse[place.lse_at + (first + i) * job.heads] = top + std::log(sum);
    }
    const Units weights = along(scores, count, size, own.weight_rows);
    product<Dot>(weights, count, size.units_of_length(), v_pairs, wide, wide, block, wide, false);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t d = 0; d < wide; ++d) {
        block[i * wide + d] *= scales[i];
      }
    }
    store_rows(block, wide, count, size.width, job.out + place.at + first * place.step, place.step);
  }
}

template <typename T>
void attend_backward(const AttentionGrad<T>& job, int64_t row, int64_t head) {
  using Dot = DotOf<T>;
  Workspace& own = workspace();
  const Attention<T>& forward = job.forward;
  const Place<T> place(forward, row, head);
  const auto& size = place.size;
  const int64_t units = size.units_of_width();
  const int64_t wide = size.wide();
  const int64_t step = size.long_();
  const T* q = forward.qkv + place.qkv_at;
  const T* k = q + place.step;
  const T* v = k + place.step;
  const T* out = forward.out + place.at;
  const T* g = job.grad_out + place.at;

  const Units q_rows = rows_of(q, place.qkv_step, size, own.q_rows);
  const Units g_rows = rows_of(g, place.step, size, own.g_rows);
  const Unit* k_turned = turned(rows_of(k, place.qkv_step, size, own.k_rows), size, own.k_turned);
  const Unit* v_turned = turned(rows_of(v, place.qkv_step, size, own.v_rows), size, own.v_turned);
  const Unit* q_pairs = pairs_of(q, place.qkv_step, size, own.q_pairs);
  const Unit* k_pairs = pairs_of(k, place.qkv_step, size, own.k_pairs);
  const Unit* g_pairs = pairs_of(g, place.step, size, own.g_pairs);
  float* scores = own.scores.of<float>(kQueries * step);
  float* grads = own.score_grads.of<float>(kQueries * step);
  float* block = own.block.of<float>(kQueries * wide);
  float* k_grad = own.k_grad.of<float>(size.length * wide);
  float* v_grad = own.v_grad.of<float>(size.length * wide);
  T* q_out = job.grad_qkv + place.qkv_at;
  for (int64_t first = 0; first < size.length; first += kQueries) {
    const int64_t count = std::min(kQueries, size.length - first);
    const bool add = first > 0;
    product<Dot>(rows_from(q_rows, first), count, units, k_turned, step, step, scores, step, false);
    product<Dot>(rows_from(g_rows, first), count, units, v_turned, step, step, grads, step, false);
    for (int64_t i = 0; i < count; ++i) {
      float delta = 0;
#pragma omp simd reduction(+ : delta)
      for (int64_t d = 0; d < size.width; ++d) {
        const int64_t at = (first + i) * place.step + d;
        delta += static_cast<float>(g[at]) * static_cast<float>(out[at]);
      }
      soften_backward(scores + i * step, grads + i * step, place.bias - first - i,
                      forward.lse[place.lse_at + (first + i) * forward.heads], delta, size.length, step);
    }
    const int64_t inner = (count + Dot::kPerUnit - 1) / Dot::kPerUnit;
    const int64_t pairs_at = first / Dot::kPerUnit * wide;
    product<Dot>(across(scores, count, size, own.weight_pairs), size.length, inner, g_pairs + pairs_at, wide, wide,
                 v_grad, wide, add);
    product<Dot>(across(grads, count, size, own.grad_pairs), size.length, inner, q_pairs + pairs_at, wide, wide,
                 k_grad, wide, add);
    product<Dot>(along(grads, count, size, own.grad_rows), count, size.units_of_length(), k_pairs, wide, wide, block,
                 wide, false);
    store_rows(block, wide, count, size.width, q_out + first * place.qkv_step, place.qkv_step);
  }
  store_rows(k_grad, wide, size.length, size.width, q_out + place.step, place.qkv_step);
  store_rows(v_grad, wide, size.length, size.width, q_out + 2 * place.step, place.qkv_step);
}

template void attend(const Attention<float>&, int64_t, int64_t);
template void attend(const Attention<c10::BFloat16>&, int64_t, int64_t);
template void attend_backward(const AttentionGrad<float>&, int64_t, int64_t);
template void attend_backward(const AttentionGrad<c10::BFloat16>&, int64_t, int64_t);

}  // namespace compt_fast

// Small matrices as the products of vectors.h want them, and the softmax between two products, for the
// attention kernels on the CPU.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>

#include "vectors.h"

namespace compt_fast {

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

// bfloat16 of a float, in the low bits.
inline uint32_t bf16_bits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return x != x ? 0x7fc0 : rounded;
}

// A row's or a block's sizes: L rows and D columns, in units, or rounded up to whole vectors.
template <typename Dot>
struct Sizes {
  static constexpr int64_t kPer = Dot::kPerUnit;
  int64_t length;
  int64_t width;

  int64_t units_of_width() const { return (width + kPer - 1) / kPer; }
  int64_t units_of_length() const { return (length + kPer - 1) / kPer; }
  int64_t padded_width() const { return round_up(width, kLanes); }
  int64_t padded_length() const { return round_up(length, kLanes); }
  // Units of `transposed` and of `pairs_of`.
  int64_t transposed_units() const { return units_of_width() * padded_length(); }
  int64_t pairs_units() const { return units_of_length() * padded_width(); }
};

// `length` vectors of one head, `step` elements apart, as rows of units_of_width units: where they
// are, or copied where units would not be whole.
template <typename Dot, typename T>
Units rows_of(const T* from, int64_t step, const Sizes<Dot>& size, Buffer& into) {
  using Element = typename Dot::Element;
  const int64_t units = size.units_of_width();
  const int64_t width = size.width;
  const bool even = width % Dot::kPerUnit == 0 && step % Dot::kPerUnit == 0;
  const bool whole = even && reinterpret_cast<uintptr_t>(from) % sizeof(Unit) == 0;
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
inline Units rows_from(const Units& rows, int64_t first) {
  return {rows.data + first * rows.row_step, rows.row_step, rows.inner_step};
}

// Rows of units transposed into `to`: (units_of_width, padded_length), zero behind the length.
template <typename Dot>
const Unit* transposed(const Units& rows, const Sizes<Dot>& size, Unit* to) {
  const int64_t units = size.units_of_width();
  const int64_t step = size.padded_length();
  // In squares of kLanes by kLanes, transposed in registers: memory is read and written along what is contiguous.
  for (int64_t first = 0; first < step; first += kLanes) {
    for (int64_t k = 0; k < units; k += kLanes) {
      const int64_t count = std::min(kLanes, units - k);
      Vector square[kLanes] = {};
      for (int64_t i = 0; i < std::min(kLanes, size.length - first); ++i) {
        const auto* row = reinterpret_cast<const float*>(rows.data + (first + i) * rows.row_step + k);
        square[i] = count == kLanes ? load(row) : load_part(row, count, 0);
      }
      transpose(square);
      for (int64_t i = 0; i < count; ++i) {
        store(reinterpret_cast<float*>(to + (k + i) * step + first), square[i]);
      }
    }
  }
  return to;
}

template <typename Dot>
const Unit* transposed(const Units& rows, const Sizes<Dot>& size, Buffer& into) {
  return transposed(rows, size, into.of<Unit>(size.transposed_units()));
}

// Vectors with a unit holding neighbours along the length, into `to`: (units_of_length, padded_width).
template <typename Dot, typename T>
const Unit* pairs_of(const T* from, int64_t step, const Sizes<Dot>& size, Unit* to) {
  const int64_t wide = size.padded_width();
  const int64_t width = size.width;
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

template <typename Dot, typename T>
const Unit* pairs_of(const T* from, int64_t step, const Sizes<Dot>& size, Buffer& into) {
  return pairs_of(from, step, size, into.of<Unit>(size.pairs_units()));
}

// Floats (count, padded_length) with zeros behind the length, as the left side of a product along the length.
template <typename Dot>
Units along(const float* from, int64_t count, const Sizes<Dot>& size, Buffer& into) {
  const int64_t step = size.padded_length();
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

// Floats (count, padded_length) as the left side of a product along the count: transposed.
template <typename Dot>
Units across(const float* from, int64_t count, const Sizes<Dot>& size, Buffer& into) {
  const int64_t step = size.padded_length();
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

// kLanes entries of a query's bias from key j on; behind the length what makes a probability of 0.
inline Vector bias_at(const float* bias, int64_t j, int64_t length) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  return j + kLanes <= length ? load(bias + j) : load_part(bias + j, length - j, kNever);
}

// Scores of one query to its softmax's numerators, with zeros behind the length; returns their sum
// and sets `top`, the score that was subtracted.
inline float softmax(float* scores, const float* bias, int64_t length, int64_t step, float& top) {
  Vector most = Vector{} - std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < step; j += kLanes) {
    const Vector score = load(scores + j) + bias_at(bias, j, length);
    store(scores + j, score);
    most = select(score > most, score, most);
  }
  top = most_of(most);
  Vector sum{};
  for (int64_t j = 0; j < step; j += kLanes) {
    const Vector p = fast_exp(load(scores + j) - top);
    store(scores + j, p);
    sum += p;
  }
  return sum_of(sum);
}

// Scores of one query to its softmax's probabilities, given the logarithm of the denominator, and `grads`, of the
// probabilities, to those of the scores; all with zeros behind the length. The probabilities are divided by their own
// sum: where scores are large, a rounded logarithm leaves it off 1 by more than the gradients of a row differ.
inline void softmax_backward(float* scores, float* grads, const float* bias, float lse, int64_t length, int64_t step) {
  Vector total{};
  Vector weighed{};
  for (int64_t j = 0; j < step; j += kLanes) {
    const Vector p = fast_exp(load(scores + j) + bias_at(bias, j, length) - lse);
    store(scores + j, p);
    total += p;
    weighed += p * load(grads + j);
  }
  const float scale = 1 / sum_of(total);
  const float mean = sum_of(weighed) * scale;
  for (int64_t j = 0; j < step; j += kLanes) {
    const Vector p = load(scores + j) * scale;
    store(scores + j, p);
    store(grads + j, p * (load(grads + j) - mean));
  }
}

}  // namespace compt_fast

// Products of a few rows with a matrix that is read where it lies, once, as fast as memory gives it: nothing is packed.
//
// A sum's terms are added in the order in which `product` of vectors.h adds them, so that both give the same bits.
#pragma once

#include <algorithm>
#include <utility>

#include "vectors.h"

namespace compt_fast {

constexpr int64_t kFew = 8;    // rows, whose sums stay in registers; with more it pays to pack a panel of the matrix
constexpr int64_t kAhead = 8;  // squares of the matrix that are asked for before they are needed

// kLanes columns of a matrix that lies column by column, `inner` units each and `step` apart.
struct Columns {
  const Unit* data;
  int64_t step;
  int64_t count;  // of them that are there, at most kLanes
  int64_t inner;
};

// Units k to k + kLanes of all columns, one unit a vector; zeros where there is none. Asks for what is `kAhead` squares
// further, in these columns or, at their end, in the next ones.
inline void load_square(const Columns& columns, int64_t k, Vector (&square)[kLanes]) {
  const int64_t count = std::min(kLanes, columns.inner - k);
  const int64_t later = k + kAhead * kLanes;
  const int64_t ahead = later < columns.inner ? later : later - columns.inner + kLanes * columns.step;
  for (int64_t i = 0; i < columns.count; ++i) {
    const Unit* from = columns.data + i * columns.step;
    __builtin_prefetch(from + ahead);
    const auto* floats = reinterpret_cast<const float*>(from + k);
    square[i] = count == kLanes ? load(floats) : load_part(floats, count, 0);
  }
  for (int64_t i = columns.count; i < kLanes; ++i) {
    square[i] = Vector{};
  }
  transpose(square);
}

// c (kRows, kLanes) = a b of kRows rows and the columns; `deep` units are summed up before they join the others.
template <typename Dot, int kRows>
void few_rows_tile(const Units& a, const Columns& columns, int64_t deep, float* c, int64_t c_step) {
  for (int64_t first = 0; first < columns.inner; first += deep) {
    Vector sums[kRows] = {};
    const int64_t last = std::min(columns.inner, first + deep);
    for (int64_t k = first; k < last; k += kLanes) {
      Vector square[kLanes];
      load_square(columns, k, square);
      const auto add = [&](int64_t at) {
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          sums[i] = Dot::add(sums[i], a.data[i * a.row_step + (k + at) * a.inner_step], square[at]);
        }
      };
      if (last - k >= kLanes) {
#pragma GCC unroll 16
        for (int64_t at = 0; at < kLanes; ++at) {
          add(at);
        }
      } else {
        for (int64_t at = 0; at < last - k; ++at) {
          add(at);
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      float* to = c + i * c_step;
      store(to, first > 0 ? load(to) + sums[i] : sums[i]);
    }
  }
}

// c (rows, kLanes) = a b, for up to kFew rows. `deep` is a multiple of kLanes.
template <typename Dot>
void few_rows(const Units& a, int64_t rows, const Columns& columns, int64_t deep, float* c, int64_t c_step) {
  const auto of = [&]<int... kRest>(std::integer_sequence<int, kRest...>) {
    ((rows == kRest + 1 ? few_rows_tile<Dot, kRest + 1>(a, columns, deep, c, c_step) : void()), ...);
  };
  of(std::make_integer_sequence<int, kFew>{});
}

// c (rows, columns) = a b, or c += a b, of a matrix that lies row by row and is read on and on: the sums are few enough for
// the nearest cache, and wait there. `columns` is a multiple of kLanes.
template <typename Dot>
void few_rows_on(const Units& a, int64_t rows, int64_t inner, const Unit* b, int64_t b_step, int64_t columns, float* c) {
  std::fill(c, c + rows * columns, 0.0f);
  for (int64_t k = 0; k < inner; ++k) {
    for (int64_t j = 0; j < columns; j += kLanes) {
      const Vector right = load(reinterpret_cast<const float*>(b + k * b_step + j));
      for (int64_t i = 0; i < rows; ++i) {
        float* to = c + i * columns + j;
        store(to, Dot::add(load(to), a.data[i * a.row_step + k * a.inner_step], right));
      }
    }
  }
}

}  // namespace compt_fast

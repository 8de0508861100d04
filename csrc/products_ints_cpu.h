#pragma once

#include <cstdint>

#include "ints.h"
#include "products_cpu.h"

namespace compt_fast {

// y = x W^T with both rounded to integers: x here, by its rows, and W before, by its own; of several matrices side by side,
// each with its own part of every row, whose step is its own. T is float or bfloat16, Dot ByteDot or WordDot.
template <typename Dot, typename T>
struct IntProduct {
  const T* x;                        // (rows, groups, inner)
  const typename Dot::Kept* weight;  // for each group, as `pack_ints` lays W (columns, inner)
  const float* steps;                // (groups, columns), of W's rows
  T* y;                              // (rows, groups, columns)
  Unit* q;                           // (rows, groups, units), scratch
  IntRow* row_steps;                 // (rows, groups), scratch
  int64_t rows;
  int64_t groups;
  int64_t inner;
  int64_t columns;
  After after;  // not kWhere
};

// All of it, by torch's threads. A row's result does not depend on the rows beside it.
template <typename Dot, typename T>
void multiply(const IntProduct<Dot, T>& job);

}  // namespace compt_fast

#pragma once

#include <cstdint>

#include "int8.h"
#include "products_cpu.h"

namespace compt_fast {

// y = x W^T with both rounded to int8: x here, by its rows, and W before, by its own. T is float or bfloat16.
template <typename T>
struct ProductInt8 {
  const T* x;          // (rows, inner)
  const Unit* weight;  // as `pack_int8` lays W (columns, inner)
  const float* steps;  // (columns,), of W's rows
  T* y;                // (rows, columns)
  Unit* q;             // (rows, units), scratch
  RowInt8* row_steps;  // (rows,), scratch
  int64_t rows;
  int64_t inner;
  int64_t columns;
  After after;  // not kWhere
};

// All of it, by torch's threads. A row's result does not depend on the rows beside it.
template <typename T>
void multiply(const ProductInt8<T>& job);

}  // namespace compt_fast

#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace compt_fast {

// What happens to a product's sums before they are rounded.
enum class After {
  kNothing,
  kRelu,   // what is below 0 becomes 0
  kWhere,  // it becomes 0 where `other` is 0 or below: backward through a relu
  kAdd,    // `y` is added to it
};

// y = x W^T, or x W, which is backward; of several matrices side by side, each with its own part of every row.
// Everything is contiguous; T is float or bfloat16.
template <typename T>
struct Product {
  const T* x;       // (rows, groups, inner)
  const T* weight;  // (groups, columns, inner), or (groups, inner, columns) backward
  T* y;             // (rows, groups, columns)
  const T* other;   // as y, for kWhere
  int64_t rows;
  int64_t groups;
  int64_t inner;
  int64_t columns;
  bool back;
  After after;
};

// All of it, by torch's threads. A row's result does not depend on the rows beside it.
template <typename T>
void multiply(const Product<T>& job);

// Whether this processor multiplies the type here as fast as it can.
bool has_products(at::ScalarType type);

}  // namespace compt_fast

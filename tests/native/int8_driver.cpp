// int8 products without torch, for the instructions that this file is compiled for: what the tests call by ctypes.
#include <vector>

#include "int8.h"

using namespace compt_fast;

extern "C" {

int has_vnni() {
  return kHasVnni;
}

// x (rows, inner) rounded by rows: q of the same shape, steps (rows,).
void round_rows(const float* x, int64_t rows, int64_t inner, int8_t* q, float* steps) {
  std::vector<int8_t> row(round_up(inner, kBytes));
  for (int64_t i = 0; i < rows; ++i) {
    steps[i] = round_row(x + i * inner, inner, row.data()).step;
    std::copy_n(row.data(), inner, q + i * inner);
  }
}

// The sums (rows, columns) of rounded x (rows, inner) with weight (columns, inner), free of what the shift adds.
void sums(const float* x, const int8_t* weight, int64_t rows, int64_t inner, int64_t columns, int32_t* into) {
  const int64_t units = round_up(inner, kBytes) / kBytes;
  std::vector<Unit> q(rows * units), packed(packed_units(columns, inner));
  std::vector<float> found(rows * kInt8Panel);
  std::vector<RowInt8> rounded(rows);
  for (int64_t i = 0; i < rows; ++i) {
    rounded[i] = round_row(x + i * inner, inner, reinterpret_cast<int8_t*>(q.data() + i * units));
  }
  pack_int8(weight, columns, inner, packed.data());
  for (int64_t first = 0; first < columns; first += kInt8Panel) {
    sums_of_panel(q.data(), rows, units, packed.data() + first * units, found.data());
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = first; j < std::min(columns, first + kInt8Panel); ++j) {
        const auto sum = std::bit_cast<uint32_t>(found[i * kInt8Panel + j - first]);
        into[i * columns + j] = static_cast<int32_t>(sum - static_cast<uint32_t>(rounded[i].excess));
      }
    }
  }
}

}  // extern "C"

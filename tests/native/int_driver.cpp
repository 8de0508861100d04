// Products of integers without torch, for the instructions that this file is compiled for: what the tests call by ctypes.
#include <vector>

#include "ints.h"

using namespace compt_fast;

namespace {

// x (rows, inner) rounded by rows: q of the same shape, steps (rows,).
template <typename Dot>
void round_rows(const float* x, int64_t rows, int64_t inner, typename Dot::Entry* q, float* steps) {
  std::vector<typename Dot::Entry> row(round_up(inner, Dot::kPerUnit));
  for (int64_t i = 0; i < rows; ++i) {
    steps[i] = round_row<Dot>(x + i * inner, inner, row.data()).step;
    std::copy_n(row.data(), inner, q + i * inner);
  }
}

// The sums (rows, columns) of rounded x (rows, inner) with weight (columns, inner), free of what the shift adds.
template <typename Dot>
void sums(const float* x, const int8_t* weight, int64_t rows, int64_t inner, int64_t columns, int32_t* into) {
  const int64_t units = int_units<Dot>(inner);
  std::vector<Unit> q(rows * units);
  std::vector<typename Dot::Kept> packed(packed_units<Dot>(columns, inner));
  std::vector<float> found(rows * kIntPanel);
  std::vector<IntRow> rounded(rows);
  for (int64_t i = 0; i < rows; ++i) {
    rounded[i] = round_row<Dot>(x + i * inner, inner, reinterpret_cast<typename Dot::Entry*>(q.data() + i * units));
  }
  pack_ints<Dot>(weight, columns, inner, packed.data());
  for (int64_t first = 0; first < columns; first += kIntPanel) {
    sums_of_panel<Dot>(q.data(), units, rows, units, packed.data() + first * units, found.data());
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = first; j < std::min(columns, first + kIntPanel); ++j) {
        const auto sum = std::bit_cast<uint32_t>(found[i * kIntPanel + j - first]);
        into[i * columns + j] = static_cast<int32_t>(sum - static_cast<uint32_t>(rounded[i].excess));
      }
    }
  }
}

}  // namespace

extern "C" {

void round_rows_int8(const float* x, int64_t rows, int64_t inner, int8_t* q, float* steps) {
  round_rows<ByteDot>(x, rows, inner, q, steps);
}

void round_rows_int16(const float* x, int64_t rows, int64_t inner, int16_t* q, float* steps) {
  round_rows<WordDot>(x, rows, inner, q, steps);
}

void sums_int8(const float* x, const int8_t* weight, int64_t rows, int64_t inner, int64_t columns, int32_t* into) {
  sums<ByteDot>(x, weight, rows, inner, columns, into);
}

void sums_int16(const float* x, const int8_t* weight, int64_t rows, int64_t inner, int64_t columns, int32_t* into) {
  sums<WordDot>(x, weight, rows, inner, columns, into);
}

}  // extern "C"

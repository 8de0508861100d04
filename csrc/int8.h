// Products of int8 rows with an int8 matrix, summed in int32, and what makes both of floats; for the CPU, without torch.
//
// Sums of integers are exact: whatever instructions compute them, in whatever order, they are the same to the last bit.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace compt_fast {

constexpr int64_t kBytes = 4;                          // entries of a unit
constexpr int64_t kInt8Panel = kTileColumns * kLanes;  // columns that lie together
constexpr int64_t kDeepest = 1 << 16;                  // entries of the inner dimension: 255 * 127 of each fit into int32
constexpr float kSteps = 127;                          // on either side of 0
constexpr float kLeast = 1e-30f;                       // of a row's largest entry: smaller ones would divide by 0
constexpr uint32_t kShift = 0x80808080;                // adds 128 to each entry of a unit: signed to unsigned

// The instructions multiply unsigned entries by signed ones. The matrix is the unsigned side, its entries plus 128, so
// that what is too much of a row's sums, 128 times the sum of its own entries, is known when it is rounded.
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
constexpr bool kHasVnni = true;

struct ByteDot {
  static Vector add(Vector sum, Unit left, Vector right) {
    return (Vector)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)right, _mm512_set1_epi32(static_cast<int>(left)));
  }
};
#else
constexpr bool kHasVnni = false;

struct ByteDot {
  static Vector add(Vector sum, Unit left, Vector right) {
    IntVector total = bits_of(sum);
    for (int shift = 0; shift < 32; shift += 8) {
      total += (bits_of(right) >> shift & 0xff) * static_cast<int8_t>(left >> shift);
    }
    return float_of(total);
  }
};
#endif

// A row of `inner` entries as int8: its `step` is max|x| / 127, q = round(x / step), halves to even, with zeros up to a
// whole unit; `excess` is what the shifted matrix adds to each of its sums.
struct RowInt8 {
  float step;
  int32_t excess;
};

template <typename T>
inline RowInt8 round_row(const T* __restrict x, int64_t inner, int8_t* __restrict q) {
  // Magnitudes are ordered as their bits are, and what is not a number lies above all of them: it reaches the step.
  int32_t bits = 0;
  for (int64_t k = 0; k < inner; ++k) {
    bits = std::max(bits, bits_of(static_cast<float>(x[k])) & 0x7fffffff);
  }
  const float step = float_of(std::max(bits, bits_of(kLeast))) / kSteps;
  const float scale = 1 / step;
  int32_t sum = 0;
  for (int64_t k = 0; k < inner; ++k) {
    const float exact = __builtin_rintf(static_cast<float>(x[k]) * scale);
    // Nothing finite lies outside; of the others the step makes what is not finite, whatever stands here.
    const float bounded = exact < kSteps ? (exact > -kSteps ? exact : -kSteps) : kSteps;
    const auto rounded = static_cast<int32_t>(bounded);
    q[k] = static_cast<int8_t>(rounded);
    sum += rounded;
  }
  std::fill(q + inner, q + round_up(inner, kBytes), static_cast<int8_t>(0));
  return {step, 128 * sum};
}

// Units of a matrix (columns, inner) as `pack_int8` lays it.
inline int64_t packed_units(int64_t columns, int64_t inner) {
  return round_up(columns, kInt8Panel) * ((inner + kBytes - 1) / kBytes);
}

// Row-wise int8 (columns, inner) into panels of kInt8Panel columns, one after the other: (units, kInt8Panel) each, shifted
// to be unsigned. What fills the last unit and the last panel stands for 0.
inline void pack_int8(const int8_t* weight, int64_t columns, int64_t inner, Unit* packed) {
  const int64_t units = (inner + kBytes - 1) / kBytes;
  std::fill(packed, packed + packed_units(columns, inner), kShift);
  for (int64_t column = 0; column < columns; ++column) {
    Unit* panel = packed + column / kInt8Panel * units * kInt8Panel + column % kInt8Panel;
    for (int64_t k = 0; k < inner; k += kBytes) {
      uint32_t unit = 0;
      std::memcpy(&unit, weight + column * inner + k, std::min(kBytes, inner - k));
      panel[k / kBytes * kInt8Panel] = unit ^ kShift;
    }
  }
}

// Sums (rows, kInt8Panel) of int32 of some rows with a panel; `q` is (rows, units). They lie in floats of the same bits.
inline void sums_of_panel(const Unit* q, int64_t rows, int64_t units, const Unit* panel, float* sums) {
  product<ByteDot>(Units{q, units, 1}, rows, units, panel, kInt8Panel, kInt8Panel, sums, kInt8Panel, false);
}

}  // namespace compt_fast

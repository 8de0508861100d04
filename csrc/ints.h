// Products of rows of small integers, int8 or int16, with a matrix of int8, summed in int32, and what makes integers of
// rows of floats; for the CPU, without torch.
//
// Sums of integers are exact: whatever instructions compute them, in whatever order, they are the same to the last bit.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "vectors.h"

namespace compt_fast {

constexpr int64_t kIntPanel = kTileColumns * kLanes;  // columns that lie together
constexpr int64_t kDeepest = 1 << 16;                 // entries of the inner dimension: 255 * 127 of each fit into int32
constexpr int64_t kMost = 127;                        // a matrix's largest entry, on either side of 0
constexpr float kLeast = 1e-30f;                      // of a row's largest entry: smaller ones would divide by 0

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
constexpr bool kHasVnni = true;
#else
constexpr bool kHasVnni = false;
#endif

// Rows of int8. The instructions multiply unsigned entries by signed ones: the matrix is the unsigned side, its entries
// plus 128, so that what is too much of a row's sums, 128 times the sum of its own entries, is known when it is rounded.
struct ByteDot {
  using Entry = int8_t;  // of a row
  using Kept = Unit;     // a unit of the matrix in memory
  static constexpr int64_t kPerUnit = 4;
  static constexpr Kept kShift = 0x80808080;  // adds 128 to each entry of a unit: signed to unsigned
  static constexpr int32_t kExcess = 128;

  // Steps on either side of 0.
  static float limit(int64_t /*inner*/) { return 127; }

  static Vector add(Vector sum, Unit left, Vector right) {
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
    return (Vector)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)right, _mm512_set1_epi32(static_cast<int>(left)));
#else
    IntVector total = bits_of(sum);
    for (int shift = 0; shift < 32; shift += 8) {
      total += (bits_of(right) >> shift & 0xff) * static_cast<int8_t>(left >> shift);
    }
    return float_of(total);
#endif
  }
};

// Rows of int16, of as many steps as the sum of `inner` products with int8 has room for in int32. The matrix is widened to
// int16 as it is read.
struct WordDot {
  using Entry = int16_t;
  using Kept = BytePair;
  static constexpr int64_t kPerUnit = 2;
  static constexpr Kept kShift = 0;
  static constexpr int32_t kExcess = 0;

  static float limit(int64_t inner) {
    const int64_t room = std::numeric_limits<int32_t>::max() / (kMost * inner);
    return static_cast<float>(std::min<int64_t>(std::numeric_limits<Entry>::max(), room));
  }

  static Vector add(Vector sum, Unit left, Vector right) {
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
    return (Vector)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)right, _mm512_set1_epi32(static_cast<int>(left)));
#else
    const IntVector both = bits_of(right);
    return float_of(bits_of(sum) + (both << 16 >> 16) * static_cast<int16_t>(left) +
                    (both >> 16) * static_cast<int16_t>(left >> 16));
#endif
  }
};

// Units of a row of `inner` entries.
template <typename Dot>
constexpr int64_t int_units(int64_t inner) {
  return (inner + Dot::kPerUnit - 1) / Dot::kPerUnit;
}

// A row of `inner` entries as integers: its `step` is max|x| / limit, q = round(x / step), halves to even, with zeros up to
// a whole unit; `excess` is what the shifted matrix adds to each of its sums.
struct IntRow {
  float step;
  int32_t excess;
};

template <typename Dot, typename T>
inline IntRow round_row(const T* __restrict x, int64_t inner, typename Dot::Entry* __restrict q) {
  const float limit = Dot::limit(inner);
  // Magnitudes are ordered as their bits are, and what is not a number lies above all of them: it reaches the step.
  int32_t bits = 0;
  for (int64_t k = 0; k < inner; ++k) {
    bits = std::max(bits, bits_of(static_cast<float>(x[k])) & 0x7fffffff);
  }
  const float step = float_of(std::max(bits, bits_of(kLeast))) / limit;
  const float scale = 1 / step;
  int32_t sum = 0;
  for (int64_t k = 0; k < inner; ++k) {
    const float exact = __builtin_rintf(static_cast<float>(x[k]) * scale);
    // Nothing finite lies outside; of the others the step makes what is not finite, whatever stands here.
    const float bounded = exact < limit ? (exact > -limit ? exact : -limit) : limit;
    const auto rounded = static_cast<int32_t>(bounded);
    q[k] = static_cast<typename Dot::Entry>(rounded);
    sum += rounded;
  }
  std::fill(q + inner, q + round_up(inner, Dot::kPerUnit), static_cast<typename Dot::Entry>(0));
  return {step, Dot::kExcess * sum};
}

// Units of a matrix (columns, inner) as `pack_ints` lays it.
template <typename Dot>
inline int64_t packed_units(int64_t columns, int64_t inner) {
  return round_up(columns, kIntPanel) * int_units<Dot>(inner);
}

// Row-wise int8 (columns, inner) into panels of kIntPanel columns, one after the other: (units, kIntPanel) each, shifted
// to be unsigned where `Dot` wants it. What fills the last unit and the last panel stands for 0.
template <typename Dot>
inline void pack_ints(const int8_t* weight, int64_t columns, int64_t inner, typename Dot::Kept* packed) {
  using Kept = typename Dot::Kept;
  const int64_t units = int_units<Dot>(inner);
  std::fill(packed, packed + packed_units<Dot>(columns, inner), Dot::kShift);
  for (int64_t column = 0; column < columns; ++column) {
    Kept* panel = packed + column / kIntPanel * units * kIntPanel + column % kIntPanel;
    for (int64_t k = 0; k < inner; k += Dot::kPerUnit) {
      Kept unit = 0;
      std::memcpy(&unit, weight + column * inner + k, std::min(Dot::kPerUnit, inner - k));
      panel[k / Dot::kPerUnit * kIntPanel] = unit ^ Dot::kShift;
    }
  }
}

// What a panel is made of as units, for rows so many that it pays to widen it once.
inline void widen(const BytePair* panel, int64_t units, Unit* wide) {
  for (int64_t i = 0; i < units * kIntPanel; i += kLanes) {
    store(reinterpret_cast<float*>(wide + i), load_units(panel + i));
  }
}

// Sums (rows, kIntPanel) of int32 of some rows, `step` units apart, with a panel, widened or not. They lie in floats of
// the same bits.
template <typename Dot, typename Kept, typename Beside = Nothing>
inline void sums_of_panel(const Unit* q, int64_t step, int64_t rows, int64_t units, const Kept* panel, float* sums,
                          Beside&& beside = {}) {
  product<Dot>(Units{q, step, 1}, rows, units, panel, kIntPanel, kIntPanel, sums, kIntPanel, false, beside);
}

}  // namespace compt_fast

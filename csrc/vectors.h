// Vectors of floats, the exponential on them, and products of small matrices, for kernels on the CPU.
//
// Everything is written for the processor that compiles it: sixteen lanes where there is AVX-512,
// else eight (on narrower processors the compiler splits them), and products of bfloat16 pairs where
// there are instructions for them.
#pragma once

#include <c10/util/BFloat16.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace compt_fast {

#ifdef __AVX512F__
constexpr int64_t kLanes = 16;
constexpr int64_t kTileColumns = 4;
#else
constexpr int64_t kLanes = 8;
constexpr int64_t kTileColumns = 2;
#endif
constexpr int64_t kTileRows = 6;

using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));
using IntVector = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));
// The same in memory, where it need not be aligned.
using StoredVector = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

// What a product multiplies at a time along its inner dimension: a float, two bfloat16, or four int8.
using Unit = uint32_t __attribute__((may_alias));
using StoredInt = int32_t __attribute__((may_alias));
// Two int8 in memory, of which a unit of two int16 is made in registers.
using BytePair = uint16_t __attribute__((may_alias));

constexpr int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

inline Vector load(const float* from) {
  return *reinterpret_cast<const StoredVector*>(from);
}

// The first `count` floats, fewer than kLanes, and `rest` behind them.
inline Vector load_part(const float* from, int64_t count, float rest) {
#ifdef __AVX512F__
  const auto mask = static_cast<__mmask16>((1u << count) - 1);
  return reinterpret_cast<Vector>(_mm512_mask_loadu_ps(_mm512_set1_ps(rest), mask, from));
#else
  Vector filled = Vector{} + rest;
  for (int64_t i = 0; i < count; ++i) {
    filled[i] = from[i];
  }
  return filled;
#endif
}

// kLanes units.
inline Vector load_units(const Unit* from) {
  return load(reinterpret_cast<const float*>(from));
}

inline Vector load_units(const BytePair* from) {
#if defined(__AVX512BW__) && defined(__AVX512F__)
  return (Vector)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#else
  int8_t bytes __attribute__((vector_size(2 * kLanes)));
  int16_t words __attribute__((vector_size(4 * kLanes)));
  std::memcpy(&bytes, from, sizeof(bytes));
  words = __builtin_convertvector(bytes, decltype(words));
  return reinterpret_cast<Vector>(words);
#endif
}

inline void store(float* to, Vector x) {
  *reinterpret_cast<StoredVector*>(to) = x;
}

inline float sum_of(Vector x) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < kLanes; ++i) {
    sum += x[i];
  }
  return sum;
}

inline float most_of(Vector x) {
  float most = x[0];
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < kLanes; ++i) {
    most = x[i] > most ? x[i] : most;
  }
  return most;
}

// The low or (kHalf = 1) high halves of two vectors, interleaved.
template <int kHalf, int... kAt>
inline Vector interleave(Vector a, Vector b, std::integer_sequence<int, kAt...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, (kHalf * kLanes / 2 + kAt / 2 + kAt % 2 * kLanes)...);
#else
  return __builtin_shuffle(a, b, IntVector{(kHalf * kLanes / 2 + kAt / 2 + kAt % 2 * kLanes)...});
#endif
}

// Transpose a square of kLanes vectors. Each round rotates the bits of an entry's (row, column) by one.
inline void transpose(Vector (&square)[kLanes]) {
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>{};
#pragma GCC unroll 4
  for (int64_t round = 1; round < kLanes; round *= 2) {
    Vector next[kLanes];
#pragma GCC unroll 8
    for (int64_t i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave<0>(square[i], square[i + kLanes / 2], kAll);
      next[2 * i + 1] = interleave<1>(square[i], square[i + kLanes / 2], kAll);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) {
      square[i] = next[i];
    }
  }
}

// One float or a vector of them, for functions on either.
inline float select(bool which, float yes, float no) {
  return which ? yes : no;
}

inline Vector select(IntVector which, Vector yes, Vector no) {
  return which ? yes : no;
}

inline int32_t bits_of(float x) {
  return std::bit_cast<int32_t>(x);
}

inline IntVector bits_of(Vector x) {
  return reinterpret_cast<IntVector>(x);
}

inline float float_of(int32_t bits) {
  return std::bit_cast<float>(bits);
}

inline Vector float_of(IntVector bits) {
  return reinterpret_cast<Vector>(bits);
}

// exp(x) to about two units in the last place of a float for x up to 88; 0 below -87.
template <typename F>
inline F fast_exp(F x) {
  const F bounded = select(x < -87.0f, F{} - 87.0f, select(x > 88.0f, F{} + 88.0f, x));
  // 2^n with n the nearest integer to x / ln 2, which is read off the bits of a large sum.
  const F shifted = bounded * 1.44269504f + 12582912.0f;
  const F n = shifted - 12582912.0f;
  const F rest = (bounded - n * 0.693145752f) - n * 1.42860677e-6f;
  F sum = rest * 1.98756915e-4f + 1.39819994e-3f;
  sum = sum * rest + 8.33345205e-3f;
  sum = sum * rest + 4.16657962e-2f;
  sum = sum * rest + 1.66666657e-1f;
  sum = sum * rest + 0.5f;
  sum = sum * rest * rest + rest + 1.0f;
  const F power = float_of((bits_of(shifted) - 0x4b400000 + 127) << 23);
  return select(x < -87.0f, F{}, sum * power);
}

// How units are multiplied and summed: `right` holds kLanes of them.
struct FloatDot {
  static constexpr int64_t kPerUnit = 1;
  using Element = float;
  static Vector add(Vector sum, Unit left, Vector right) { return sum + std::bit_cast<float>(left) * right; }
};

#ifdef __AVX512BF16__
struct PairDot {
  static constexpr int64_t kPerUnit = 2;
  using Element = c10::BFloat16;
  static Vector add(Vector sum, Unit left, Vector right) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(left)), (__m512bh)right);
  }
};
#endif

// A matrix of units read one at a time: entry (row, k) is at data[row * row_step + k * inner_step].
struct Units {
  const Unit* data;
  int64_t row_step;
  int64_t inner_step;
};

// What a product does besides, once for each unit of a tile's inner dimension.
struct Nothing {
  void operator()() const {}
};

template <typename Dot, int kRows, int kColumns, typename Kept, typename Beside>
inline void tile(const Units& a, int64_t inner, const Kept* b, int64_t b_step, float* c, int64_t c_step, bool add,
                 Beside& beside) {
  Vector sums[kRows][kColumns];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) {
      sums[i][j] = Vector{};
    }
  }
  // The inner dimension outside: all sums stay in registers, and each vector of the right serves kRows rows.
  for (int64_t k = 0; k < inner; ++k) {
    beside();
    Vector right[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) {
      right[j] = load_units(b + k * b_step + j * kLanes);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Unit left = a.data[i * a.row_step + k * a.inner_step];
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) {
        sums[i][j] = Dot::add(sums[i][j], left, right[j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) {
      float* to = c + i * c_step + j * kLanes;
      store(to, add ? load(to) + sums[i][j] : sums[i][j]);
    }
  }
}

// All rows of one column of tiles, whose part of the right side stays in the nearest cache.
template <typename Dot, int kColumns, typename Kept, typename Beside>
void tile_column(Units a, int64_t rows, int64_t inner, const Kept* b, int64_t b_step, float* c, int64_t c_step,
                 bool add, Beside& beside) {
  for (; rows >= kTileRows; rows -= kTileRows) {
    tile<Dot, kTileRows, kColumns>(a, inner, b, b_step, c, c_step, add, beside);
    a.data += kTileRows * a.row_step;
    c += kTileRows * c_step;
  }
  const auto rest = [&]<int... kRest>(std::integer_sequence<int, kRest...>) {
    ((rows == kRest + 1 ? tile<Dot, kRest + 1, kColumns>(a, inner, b, b_step, c, c_step, add, beside) : void()), ...);
  };
  rest(std::make_integer_sequence<int, kTileRows - 1>{});
}

// c = a b, or c += a b: a is rows x inner units, b inner x columns units, or what they are made of (`b_step` between its
// rows), and c rows x columns floats. `columns` is a multiple of kLanes.
template <typename Dot, typename Kept, typename Beside = Nothing>
void product(const Units& a, int64_t rows, int64_t inner, const Kept* b, int64_t b_step, int64_t columns, float* c,
             int64_t c_step, bool add, Beside&& beside = {}) {
  for (; columns >= kTileColumns * kLanes; columns -= kTileColumns * kLanes) {
    tile_column<Dot, kTileColumns>(a, rows, inner, b, b_step, c, c_step, add, beside);
    b += kTileColumns * kLanes;
    c += kTileColumns * kLanes;
  }
  const auto rest = [&]<int... kRest>(std::integer_sequence<int, kRest...>) {
    ((columns == (kRest + 1) * kLanes ? tile_column<Dot, kRest + 1>(a, rows, inner, b, b_step, c, c_step, add, beside)
                                      : void()),
     ...);
  };
  rest(std::make_integer_sequence<int, kTileColumns - 1>{});
}

}  // namespace compt_fast

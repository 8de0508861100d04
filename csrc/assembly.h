// What the assembly kernels read and write. Nothing of torch is included here, so that nvcc compiles
// the CUDA kernels against any torch, or none.
#pragma once

#include <cstdint>

namespace compt_fast {

enum class Float : int8_t { f32, f64, bf16, f16 };

// A matrix whose rows are contiguous; `stride` elements lie between the starts of two rows.
struct Matrix {
  void* data;
  Float type;
  int64_t stride;
};

// Which packed row is what. Row b of the batch carries the prompt of slot slots[b], which is
// prompts[prompt_cu_seqlens[slot] : prompt_cu_seqlens[slot + 1]], and its own tokens.
struct Layout {
  const int64_t* prompt_cu_seqlens;  // (slot_count + 1)
  const int64_t* slots;           // (rows)
  const int64_t* packed_cu_seqlens;  // (rows + 1)
  int64_t slot_count;
  int64_t rows;
  int64_t total;  // packed rows; those behind packed_cu_seqlens[rows] are slack
  int64_t width;  // d
  bool prepend;
};

struct Assembly {
  Layout layout;
  Matrix prompts;
  Matrix embedding;
  Matrix packed;
  const int64_t* token_ids;
  const int64_t* input_cu_seqlens;  // (rows + 1)
  int64_t prompt_rows;
  int64_t vocabulary;
  int64_t tokens;
};

// out[p] = the sum of grad over the packed rows that prompt row p was copied to, in the order of
// the batch's rows. `out` holds float, or double where grad does.
struct Reduction {
  Layout layout;
  Matrix grad;
  void* out;
  int64_t prompt_rows;
};

}  // namespace compt_fast

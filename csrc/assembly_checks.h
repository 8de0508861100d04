// What is asked of the assembly's arguments, and their form for its kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "assembly.h"

namespace compt_fast {

using MaybeSize = std::optional<c10::SymInt>;

// The tensors of compt_fast::assemble.
struct Inputs {
  at::Tensor prompts;
  at::Tensor prompt_cu_seqlens;
  at::Tensor slots;
  at::Tensor token_ids;
  at::Tensor input_cu_seqlens;
  at::Tensor embedding;
};

// The tensors of compt_fast::assemble_backward.
struct GradInputs {
  at::Tensor grad;
  at::Tensor prompt_cu_seqlens;
  at::Tensor slots;
  at::Tensor packed_cu_seqlens;
};

// Types, sizes, which may be symbols, and devices: for every backend, the one without data included.
void check_shapes(const Inputs& in, const MaybeSize& total);
void check_shapes(const GradInputs& in, const c10::SymInt& prompt_rows);

// For a backend with data: strides and storage. What kernels read by pointer is contiguous
// afterwards, matrices along their rows and vectors whole.
void check_memory(Inputs& in);
void check_memory(GradInputs& in);

// With cu_seqlens and slots on the host: every value of them, and where each row of the batch starts
// in the packed input, (rows + 1) int64.
at::Tensor checked_packed_cu_seqlens(const Inputs& in);

// The packed rows asked for, which must be enough; those needed where nothing was asked.
int64_t checked_total(const at::Tensor& packed_cu_seqlens, const MaybeSize& total);

// With cu_seqlens and slots on the host: every value of them, and that the rows hold their prompts.
void check_values(const GradInputs& in, int64_t prompt_rows);

// Everything in place; `packed` and `out` are written by the kernel.
Assembly assembly_of(const Inputs& in, const at::Tensor& packed_cu_seqlens, const at::Tensor& packed, bool prepend);
Reduction reduction_of(const GradInputs& in, const at::Tensor& out, bool prepend);

// The gradient's own dtype: float32, and float64 where the trunk is float64.
at::ScalarType sum_type(const at::Tensor& grad);

}  // namespace compt_fast

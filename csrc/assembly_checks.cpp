#include "assembly_checks.h"

#include <ATen/ops/empty.h>

#include "checks.h"

namespace compt_fast {
namespace {

void check_cu_seqlens_sizes(const char* name, const at::Tensor& cu_seqlens, const at::Tensor& prompt_cu_seqlens,
                        const at::Tensor& slots) {
  CHECK_SIZE(prompt_cu_seqlens.sym_size(0).sym_ge(1),
             "prompt_cu_seqlens must have an entry for each slot and one more, got none");
  CHECK_SIZE(cu_seqlens.sym_size(0).sym_eq(slots.sym_size(0) + 1), name, " must have one entry more than slots, ",
             slots.sym_size(0) + 1, ", got ", cu_seqlens.sym_size(0));
}

bool has_contiguous_rows(const at::Tensor& matrix) {
  return matrix.size(1) <= 1 || matrix.stride(1) == 1;
}

void make_rows_contiguous(at::Tensor& matrix) {
  if (!has_contiguous_rows(matrix)) {
    matrix = matrix.contiguous();
  }
}

// Offsets and slots are together on the host, or where the rest is.
at::Device home_of(const at::Tensor& cu_seqlens, at::Device device) {
  return cu_seqlens.is_cpu() ? at::Device(at::kCPU) : device;
}

void make_contiguous(std::initializer_list<at::Tensor*> vectors) {
  for (at::Tensor* vector : vectors) {
    *vector = vector->contiguous();
  }
}

Matrix matrix_of(const at::Tensor& tensor) {
  Float type = Float::f32;
  switch (tensor.scalar_type()) {
    case at::kDouble:
      type = Float::f64;
      break;
    case at::kBFloat16:
      type = Float::bf16;
      break;
    case at::kHalf:
      type = Float::f16;
      break;
    default:  // float32: the shapes' check lets nothing else pass
      break;
  }
  return {const_cast<void*>(tensor.const_data_ptr()), type, tensor.stride(0)};
}

Layout layout_of(const at::Tensor& prompt_cu_seqlens, const at::Tensor& slots, const at::Tensor& packed_cu_seqlens,
                 const at::Tensor& packed, bool prepend) {
  return {prompt_cu_seqlens.const_data_ptr<int64_t>(),
          slots.const_data_ptr<int64_t>(),
          packed_cu_seqlens.const_data_ptr<int64_t>(),
          prompt_cu_seqlens.numel() - 1,
          slots.numel(),
          packed.size(0),
          packed.size(1),
          prepend};
}

}  // namespace

void check_shapes(const Inputs& in, const MaybeSize& total) {
  check_floats("prompts", in.prompts, 2);
  check_index("prompt_cu_seqlens", in.prompt_cu_seqlens);
  check_index("slots", in.slots);
  check_index("token_ids", in.token_ids);
  check_index("input_cu_seqlens", in.input_cu_seqlens);
  check_floats("embedding", in.embedding, 2);
  CHECK_SIZE(in.prompts.sym_size(1).sym_eq(in.embedding.sym_size(1)), "prompts must be as wide as embedding, ",
             in.embedding.sym_size(1), ", got ", in.prompts.sym_size(1));
  check_cu_seqlens_sizes("input_cu_seqlens", in.input_cu_seqlens, in.prompt_cu_seqlens, in.slots);
  if (total) {
    CHECK_SIZE(total->sym_ge(0), "total must not be negative, got ", *total);
  }
  const at::Device device = in.prompts.device();
  const at::Device home = home_of(in.input_cu_seqlens, device);
  check_device("token_ids", in.token_ids, device);
  check_device("embedding", in.embedding, device);
  check_device("input_cu_seqlens", in.input_cu_seqlens, home);
  check_device("prompt_cu_seqlens", in.prompt_cu_seqlens, home);
  check_device("slots", in.slots, home);
}

void check_shapes(const GradInputs& in, const c10::SymInt& prompt_rows) {
  check_floats("grad", in.grad, 2);
  check_index("prompt_cu_seqlens", in.prompt_cu_seqlens);
  check_index("slots", in.slots);
  check_index("packed_cu_seqlens", in.packed_cu_seqlens);
  check_cu_seqlens_sizes("packed_cu_seqlens", in.packed_cu_seqlens, in.prompt_cu_seqlens, in.slots);
  CHECK_SIZE(prompt_rows.sym_ge(0), "prompt_rows must not be negative, got ", prompt_rows);
  const at::Device home = home_of(in.packed_cu_seqlens, in.grad.device());
  check_device("packed_cu_seqlens", in.packed_cu_seqlens, home);
  check_device("prompt_cu_seqlens", in.prompt_cu_seqlens, home);
  check_device("slots", in.slots, home);
}

void check_memory(Inputs& in) {
  check_storage("prompts", in.prompts);
  check_storage("token_ids", in.token_ids);
  check_storage("embedding", in.embedding);
  check_storage("input_cu_seqlens", in.input_cu_seqlens);
  check_storage("prompt_cu_seqlens", in.prompt_cu_seqlens);
  check_storage("slots", in.slots);
  // Not mended like the others: a copy of the table at every step would go unnoticed.
  CHECK_ARGUMENT(has_contiguous_rows(in.embedding), "embedding must have contiguous rows, got strides ",
                 in.embedding.strides());
  make_rows_contiguous(in.prompts);
  make_contiguous({&in.prompt_cu_seqlens, &in.slots, &in.token_ids, &in.input_cu_seqlens});
}

void check_memory(GradInputs& in) {
  check_storage("grad", in.grad);
  check_storage("packed_cu_seqlens", in.packed_cu_seqlens);
  check_storage("prompt_cu_seqlens", in.prompt_cu_seqlens);
  check_storage("slots", in.slots);
  make_rows_contiguous(in.grad);
  make_contiguous({&in.prompt_cu_seqlens, &in.slots, &in.packed_cu_seqlens});
}

at::Tensor checked_packed_cu_seqlens(const Inputs& in) {
  check_cu_seqlens("prompt_cu_seqlens", in.prompt_cu_seqlens, in.prompts.size(0), "rows of prompts");
  check_cu_seqlens("input_cu_seqlens", in.input_cu_seqlens, in.token_ids.numel(), "tokens");
  check_range("slots", in.slots, in.prompt_cu_seqlens.numel() - 1, "slots");
  const at::Tensor packed = at::empty(in.input_cu_seqlens.sizes(), in.input_cu_seqlens.options());
  const int64_t* prompt_at = in.prompt_cu_seqlens.const_data_ptr<int64_t>();
  const int64_t* row_at = in.input_cu_seqlens.const_data_ptr<int64_t>();
  const int64_t* slot = in.slots.const_data_ptr<int64_t>();
  int64_t* at = packed.mutable_data_ptr<int64_t>();
  int64_t prompts = 0;
  at[0] = 0;
  for (int64_t b = 0; b < in.slots.numel(); ++b) {
    // An expanded tensor can have more rows than memory has bytes.
    const bool fits = !__builtin_add_overflow(prompts, prompt_at[slot[b] + 1] - prompt_at[slot[b]], &prompts) &&
                      !__builtin_add_overflow(prompts, row_at[b + 1], &at[b + 1]);
    CHECK_ARGUMENT(fits, "prompts has so many rows that the packed input's cannot be counted");
  }
  return packed;
}

int64_t checked_total(const at::Tensor& packed_cu_seqlens, const MaybeSize& total) {
  const int64_t needed = packed_cu_seqlens.const_data_ptr<int64_t>()[packed_cu_seqlens.numel() - 1];
  if (!total) {
    return needed;
  }
  const int64_t asked = total->expect_int();
  CHECK_ARGUMENT(asked >= needed, "total must be at least ", needed, ", the prompts and tokens of all rows, got ",
                 asked);
  return asked;
}

void check_values(const GradInputs& in, int64_t prompt_rows) {
  check_cu_seqlens("prompt_cu_seqlens", in.prompt_cu_seqlens, prompt_rows, "rows of prompts");
  check_range("slots", in.slots, in.prompt_cu_seqlens.numel() - 1, "slots");
  const int64_t* prompt_at = in.prompt_cu_seqlens.const_data_ptr<int64_t>();
  const int64_t* at = in.packed_cu_seqlens.const_data_ptr<int64_t>();
  const int64_t* slot = in.slots.const_data_ptr<int64_t>();
  const int64_t n = in.slots.numel();
  CHECK_ARGUMENT(at[0] == 0 && at[n] <= in.grad.size(0), "packed_cu_seqlens must ascend from 0 to at most ",
                 in.grad.size(0), ", the rows of grad, got ", at[0], " to ", at[n]);
  for (int64_t b = 0; b < n; ++b) {
    const int64_t prompt_length = prompt_at[slot[b] + 1] - prompt_at[slot[b]];
    int64_t length = 0;
    const bool holds = !__builtin_sub_overflow(at[b + 1], at[b], &length) && length >= prompt_length;
    CHECK_ARGUMENT(holds, "packed_cu_seqlens must leave row ", b, " room for its prompt of ", prompt_length,
                   " rows, got ", at[b], " to ", at[b + 1]);
  }
}

Assembly assembly_of(const Inputs& in, const at::Tensor& packed_cu_seqlens, const at::Tensor& packed, bool prepend) {
  return {layout_of(in.prompt_cu_seqlens, in.slots, packed_cu_seqlens, packed, prepend),
          matrix_of(in.prompts),
          matrix_of(in.embedding),
          matrix_of(packed),
          in.token_ids.const_data_ptr<int64_t>(),
          in.input_cu_seqlens.const_data_ptr<int64_t>(),
          in.prompts.size(0),
          in.embedding.size(0),
          in.token_ids.numel()};
}

Reduction reduction_of(const GradInputs& in, const at::Tensor& out, bool prepend) {
  return {layout_of(in.prompt_cu_seqlens, in.slots, in.packed_cu_seqlens, in.grad, prepend), matrix_of(in.grad),
          out.mutable_data_ptr(), out.size(0)};
}

at::ScalarType sum_type(const at::Tensor& grad) {
  return grad.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace compt_fast

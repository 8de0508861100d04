// The assembly operator: its schema, and its kernels for the CPU, for tensors without data, and for
// gradients. The CUDA kernels are registered in assembly_cuda.cpp.
#include "assembly.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "assembly_checks.h"
#include "assembly_cpu.h"
#include "checks.h"

namespace compt_fast {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Packed = std::tuple<Tensor, Tensor>;

// Elements a thread gets at least: fewer are copied sooner than a thread is woken.
constexpr int64_t kGrain = 32768;

int64_t rows_a_thread(int64_t width) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width));
}

Packed assemble_cpu(const Tensor& prompts, const Tensor& prompt_cu_seqlens, const Tensor& slots,
                    const Tensor& token_ids, const Tensor& input_cu_seqlens, const Tensor& embedding, bool prepend,
                    MaybeSize total) {
  Inputs in{prompts, prompt_cu_seqlens, slots, token_ids, input_cu_seqlens, embedding};
  check_shapes(in, total);
  check_memory(in);
  const Tensor packed_cu_seqlens = checked_packed_cu_seqlens(in);
  check_range("token_ids", in.token_ids, embedding.size(0), "rows of embedding");
  const int64_t rows = checked_total(packed_cu_seqlens, total);
  const Tensor packed = at::empty({rows, embedding.size(1)}, embedding.options());
  if (packed.numel() > 0) {
    const Assembly job = assembly_of(in, packed_cu_seqlens, packed, prepend);
    at::parallel_for(0, rows, rows_a_thread(packed.size(1)),
                     [&](int64_t begin, int64_t end) { assemble_rows(job, begin, end); });
  }
  return {packed, packed_cu_seqlens};
}

Tensor assemble_backward_cpu(const Tensor& grad, const Tensor& prompt_cu_seqlens, const Tensor& slots,
                             const Tensor& packed_cu_seqlens, c10::SymInt prompt_rows, bool prepend) {
  GradInputs in{grad, prompt_cu_seqlens, slots, packed_cu_seqlens};
  check_shapes(in, prompt_rows);
  check_memory(in);
  const int64_t rows = prompt_rows.expect_int();
  check_values(in, rows);
  const Tensor out = at::empty({rows, grad.size(1)}, grad.options().dtype(sum_type(grad)));
  if (out.numel() > 0) {
    const Reduction job = reduction_of(in, out, prepend);
    const RowsOfSlots by_slot = rows_of_slots(job.layout);
    at::parallel_for(0, rows, rows_a_thread(grad.size(1)),
                     [&](int64_t begin, int64_t end) { reduce_rows(job, by_slot, begin, end); });
  }
  return out;
}

Packed assemble_meta(const Tensor& prompts, const Tensor& prompt_cu_seqlens, const Tensor& slots,
                     const Tensor& token_ids, const Tensor& input_cu_seqlens, const Tensor& embedding, bool /*prepend*/,
                     MaybeSize total) {
  check_shapes({prompts, prompt_cu_seqlens, slots, token_ids, input_cu_seqlens, embedding}, total);
  CHECK_ARGUMENT(total, "total must be given where cu_seqlens have no data, as under torch.compile and torch.export: "
                        "it is the size of the result");
  return {at::empty_symint({*total, embedding.sym_size(1)}, embedding.options()),
          at::empty_symint(input_cu_seqlens.sym_sizes(), input_cu_seqlens.options())};
}

Tensor assemble_backward_meta(const Tensor& grad, const Tensor& prompt_cu_seqlens, const Tensor& slots,
                              const Tensor& packed_cu_seqlens, c10::SymInt prompt_rows, bool /*prepend*/) {
  check_shapes({grad, prompt_cu_seqlens, slots, packed_cu_seqlens}, prompt_rows);
  return at::empty_symint({prompt_rows, grad.sym_size(1)}, grad.options().dtype(sum_type(grad)));
}

auto& assemble_op() {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("compt_fast::assemble", "")
                       .typed<decltype(assemble_cpu)>();
  return op;
}

auto& assemble_backward_op() {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("compt_fast::assemble_backward", "")
                       .typed<decltype(assemble_backward_cpu)>();
  return op;
}

// The sum over rows as an operator of its own, so that a second derivative is refused, not lost.
struct AssembleBackward : torch::autograd::Function<AssembleBackward> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* /*context*/, const Tensor& grad, const Tensor& prompt_cu_seqlens,
                        const Tensor& slots, const Tensor& packed_cu_seqlens, const c10::SymInt& prompt_rows,
                        bool prepend) {
    at::AutoDispatchBelowADInplaceOrView below;
    return assemble_backward_op().call(grad, prompt_cu_seqlens, slots, packed_cu_seqlens, prompt_rows, prepend);
  }

  static variable_list backward(AutogradContext* /*context*/, const variable_list& /*grads*/) {
    refuse_second_derivative();
  }
};

struct Assemble : torch::autograd::Function<Assemble> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* context, const Tensor& prompts, const Tensor& prompt_cu_seqlens,
                               const Tensor& slots, const Tensor& token_ids, const Tensor& input_cu_seqlens,
                               const Tensor& embedding, bool prepend, const MaybeSize& total) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [packed, packed_cu_seqlens] =
        assemble_op().call(prompts, prompt_cu_seqlens, slots, token_ids, input_cu_seqlens, embedding, prepend, total);
    context->save_for_backward({prompt_cu_seqlens, slots, packed_cu_seqlens});
    context->mark_non_differentiable({packed_cu_seqlens});
    context->saved_data["prompt_rows"] = prompts.sym_size(0);
    context->saved_data["prepend"] = prepend;
    context->saved_data["dtype"] = prompts.scalar_type();
    return {packed, packed_cu_seqlens};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(8);
    if (grads[0].defined()) {
      const auto saved = context->get_saved_variables();
      result[0] = assemble_backward_op()
                      .call(grads[0], saved[0], saved[1], saved[2], context->saved_data["prompt_rows"].toSymInt(),
                            context->saved_data["prepend"].toBool())
                      .to(context->saved_data["dtype"].toScalarType());
    }
    return result;
  }
};

Packed assemble_autograd(const Tensor& prompts, const Tensor& prompt_cu_seqlens, const Tensor& slots,
                         const Tensor& token_ids, const Tensor& input_cu_seqlens, const Tensor& embedding, bool prepend,
                         MaybeSize total) {
  refuse_gradient("embedding", embedding, "the trunk is frozen, and none is computed for its table");
  refuse_tangents({&prompts, &embedding});
  if (!at::GradMode::is_enabled() || !prompts.requires_grad()) {
    at::AutoDispatchBelowADInplaceOrView below;
    return assemble_op().call(prompts, prompt_cu_seqlens, slots, token_ids, input_cu_seqlens, embedding, prepend,
                              total);
  }
  const auto packed =
      Assemble::apply(prompts, prompt_cu_seqlens, slots, token_ids, input_cu_seqlens, embedding, prepend, total);
  return {packed[0], packed[1]};
}

Tensor assemble_backward_autograd(const Tensor& grad, const Tensor& prompt_cu_seqlens, const Tensor& slots,
                                  const Tensor& packed_cu_seqlens, c10::SymInt prompt_rows, bool prepend) {
  refuse_tangents({&grad});
  return AssembleBackward::apply(grad, prompt_cu_seqlens, slots, packed_cu_seqlens, prompt_rows, prepend);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(compt_fast, library) {
  library.def(
      "assemble(Tensor prompts, Tensor prompt_cu_seqlens, Tensor slots, Tensor token_ids, Tensor input_cu_seqlens, "
      "Tensor embedding, bool prepend, SymInt? total=None) -> (Tensor packed, Tensor packed_cu_seqlens)");
  library.def(
      "assemble_backward(Tensor grad, Tensor prompt_cu_seqlens, Tensor slots, Tensor packed_cu_seqlens, "
      "SymInt prompt_rows, bool prepend) -> Tensor");
}

TORCH_LIBRARY_IMPL(compt_fast, CPU, library) {
  library.impl("assemble", TORCH_FN(assemble_cpu));
  library.impl("assemble_backward", TORCH_FN(assemble_backward_cpu));
}

TORCH_LIBRARY_IMPL(compt_fast, Meta, library) {
  library.impl("assemble", TORCH_FN(assemble_meta));
  library.impl("assemble_backward", TORCH_FN(assemble_backward_meta));
}

TORCH_LIBRARY_IMPL(compt_fast, Autograd, library) {
  library.impl("assemble", TORCH_FN(assemble_autograd));
  library.impl("assemble_backward", TORCH_FN(assemble_backward_autograd));
}

}  // namespace compt_fast

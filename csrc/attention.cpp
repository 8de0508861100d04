// The attention operator of packed rows on the CPU: schema, checks, registrations.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "attention_cpu.h"
#include "checks.h"
#include "tasks.h"

namespace compt_fast {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Attended = std::tuple<Tensor, Tensor>;

// Pairs of query and key that a thread gets at least.
constexpr int64_t kGrain = 1024;

void check_shapes(const Tensor& qkv, const Tensor& cu_seqlens, const Tensor& bias) {
  check_layer_floats("qkv", qkv, 4);
  check_index("cu_seqlens", cu_seqlens);
  check_floats("bias", bias, 2);
  CHECK_ARGUMENT(bias.scalar_type() == at::kFloat, "bias must be float32, got ", bias.scalar_type());
  CHECK_SIZE(qkv.sym_size(1).sym_eq(3), "qkv must be (tokens, 3, heads, width), got ", qkv.sym_sizes());
  CHECK_SIZE(qkv.sym_size(3).sym_ge(1), "qkv must have a width of at least 1, got ", qkv.sym_size(3));
  CHECK_SIZE(bias.sym_size(0).sym_eq(qkv.sym_size(2)), "bias must have a row for each head, ", qkv.sym_size(2),
             ", got ", bias.sym_size(0));
  CHECK_SIZE(cu_seqlens.sym_size(0).sym_ge(1), "cu_seqlens must not be empty");
  check_device("bias", bias, qkv.device());
  check_device("cu_seqlens", cu_seqlens, cu_seqlens.is_cpu() ? at::Device(at::kCPU) : qkv.device());
}

void check_like(const char* name, const Tensor& tensor, const Tensor& qkv, at::ScalarType type,
                c10::SymIntArrayRef sizes) {
  check_device(name, tensor, qkv.device());
  CHECK_ARGUMENT(tensor.layout() == at::kStrided && tensor.scalar_type() == type && tensor.sym_sizes() == sizes, name,
                 " must be ", type, " of ", sizes, ", got ", tensor.scalar_type(), " of ", tensor.sym_sizes());
}

// The rows that are not empty, longest first, so that no thread is left with a long one at the end.
struct Rows {
  std::vector<int64_t> order;
  int64_t pairs = 0;
};

Rows checked_rows(const Tensor& qkv, const Tensor& cu_seqlens, const Tensor& bias) {
  check_dense("qkv", qkv);
  check_dense("cu_seqlens", cu_seqlens);
  check_dense("bias", bias);
  check_cu_seqlens("cu_seqlens", cu_seqlens, qkv.size(0), "tokens");
  const int64_t* at = cu_seqlens.const_data_ptr<int64_t>();
  const auto length = [at](int64_t row) { return at[row + 1] - at[row]; };
  Rows rows;
  for (int64_t row = 0; row < cu_seqlens.numel() - 1; ++row) {
    if (length(row) > 0) {
      rows.order.push_back(row);
      rows.pairs += length(row) * length(row);
    }
  }
  std::sort(rows.order.begin(), rows.order.end(), [&](int64_t a, int64_t b) { return length(a) > length(b); });
  const int64_t max_seqlen = rows.order.empty() ? 0 : length(rows.order.front());
  CHECK_ARGUMENT(bias.size(1) % 2 == 1 && bias.size(1) / 2 + 1 >= max_seqlen,
                 "bias must have 2 W - 1 columns, W at least ", max_seqlen, ", the longest row, got ", bias.size(1));
  return rows;
}

// task(row, head) for all of them.
template <typename F>
void for_rows_and_heads(const Rows& rows, int64_t heads, const F& task) {
  for_each_task(static_cast<int64_t>(rows.order.size()) * heads, rows.pairs * heads / kGrain + 1,
                [&](int64_t i) { task(rows.order[i / heads], i % heads); });
}

template <typename T>
Attention<T> attention_of(const Tensor& qkv, const Tensor& cu_seqlens, const Tensor& bias) {
  return {static_cast<const T*>(qkv.const_data_ptr()),
          cu_seqlens.const_data_ptr<int64_t>(),
          bias.const_data_ptr<float>(),
          qkv.size(2),
          qkv.size(3),
          bias.size(1) / 2 + 1};
}

Attended attention_cpu(const Tensor& qkv, const Tensor& cu_seqlens, const Tensor& bias) {
  check_shapes(qkv, cu_seqlens, bias);
  const Rows rows = checked_rows(qkv, cu_seqlens, bias);
  const int64_t heads = qkv.size(2);
  const Tensor out = at::empty({qkv.size(0), heads, qkv.size(3)}, qkv.options());
  const Tensor lse = at::empty({qkv.size(0), heads}, qkv.options().dtype(at::kFloat));
  with_type(qkv, [&](auto zero) {
    using T = decltype(zero);
    const auto job = attention_of<T>(qkv, cu_seqlens, bias);
    for_rows_and_heads(rows, heads, [&](int64_t row, int64_t head) {
      attend(job, static_cast<T*>(out.data_ptr()), lse.data_ptr<float>(), row, head);
    });
  });
  return {out, lse};
}

void check_backward_shapes(const Tensor& grad_out, const Tensor& qkv, const Tensor& lse) {
  const auto sizes = qkv.sym_sizes();
  check_like("grad_out", grad_out, qkv, qkv.scalar_type(), {sizes[0], sizes[2], sizes[3]});
  check_like("lse", lse, qkv, at::kFloat, {sizes[0], sizes[2]});
}

Tensor attention_backward_cpu(const Tensor& grad_out, const Tensor& qkv, const Tensor& lse, const Tensor& cu_seqlens,
                              const Tensor& bias) {
  check_shapes(qkv, cu_seqlens, bias);
  check_backward_shapes(grad_out, qkv, lse);
  const Rows rows = checked_rows(qkv, cu_seqlens, bias);
  check_dense("lse", lse);
  check_storage("grad_out", grad_out);
  const Tensor grad = grad_out.contiguous();
  const Tensor grad_qkv = at::empty(qkv.sizes(), qkv.options());
  with_type(qkv, [&](auto zero) {
    using T = decltype(zero);
    const auto job = attention_of<T>(qkv, cu_seqlens, bias);
    for_rows_and_heads(rows, qkv.size(2), [&](int64_t row, int64_t head) {
      attend_backward(job, static_cast<const T*>(grad.const_data_ptr()), lse.const_data_ptr<float>(),
                      static_cast<T*>(grad_qkv.data_ptr()), row, head);
    });
  });
  return grad_qkv;
}

Attended attention_meta(const Tensor& qkv, const Tensor& cu_seqlens, const Tensor& bias) {
  check_shapes(qkv, cu_seqlens, bias);
  const auto sizes = qkv.sym_sizes();
  return {at::empty_symint({sizes[0], sizes[2], sizes[3]}, qkv.options()),
          at::empty_symint({sizes[0], sizes[2]}, qkv.options().dtype(at::kFloat))};
}

Tensor attention_backward_meta(const Tensor& grad_out, const Tensor& qkv, const Tensor& lse, const Tensor& cu_seqlens,
                               const Tensor& bias) {
  check_shapes(qkv, cu_seqlens, bias);
  check_backward_shapes(grad_out, qkv, lse);
  return at::empty_symint(qkv.sym_sizes(), qkv.options());
}

auto& attention_op() {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("compt_fast::packed_attention", "")
                       .typed<decltype(attention_cpu)>();
  return op;
}

auto& attention_backward_op() {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("compt_fast::packed_attention_backward", "")
                       .typed<decltype(attention_backward_cpu)>();
  return op;
}

struct AttendBackward : torch::autograd::Function<AttendBackward> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* /*context*/, const Tensor& grad_out, const Tensor& qkv, const Tensor& lse,
                        const Tensor& cu_seqlens, const Tensor& bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    return attention_backward_op().call(grad_out, qkv, lse, cu_seqlens, bias);
  }

  static variable_list backward(AutogradContext* /*context*/, const variable_list& /*grads*/) {
    refuse_second_derivative();
  }
};

struct Attend : torch::autograd::Function<Attend> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* context, const Tensor& qkv, const Tensor& cu_seqlens,
                               const Tensor& bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [out, lse] = attention_op().call(qkv, cu_seqlens, bias);
    context->save_for_backward({qkv, lse, cu_seqlens, bias});
    context->mark_non_differentiable({lse});
    return {out, lse};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(3);
    if (grads[0].defined()) {
      const auto saved = context->get_saved_variables();
      result[0] = attention_backward_op().call(grads[0], saved[0], saved[1], saved[2], saved[3]);
    }
    return result;
  }
};

constexpr const char* kFrozenBias = "the trunk is frozen, and none is computed for its position bias";

Attended attention_autograd(const Tensor& qkv, const Tensor& cu_seqlens, const Tensor& bias) {
  refuse_gradient("bias", bias, kFrozenBias);
  refuse_tangents({&qkv, &bias});
  const auto attended = Attend::apply(qkv, cu_seqlens, bias);
  return {attended[0], attended[1]};
}

Tensor attention_backward_autograd(const Tensor& grad_out, const Tensor& qkv, const Tensor& lse,
                                   const Tensor& cu_seqlens, const Tensor& bias) {
  refuse_gradient("bias", bias, kFrozenBias);
  refuse_tangents({&grad_out, &qkv, &lse, &bias});
  return AttendBackward::apply(grad_out, qkv, lse, cu_seqlens, bias);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(compt_fast, library) {
  library.def("packed_attention(Tensor qkv, Tensor cu_seqlens, Tensor bias) -> (Tensor out, Tensor lse)");
  library.def(
      "packed_attention_backward(Tensor grad_out, Tensor qkv, Tensor lse, Tensor cu_seqlens, Tensor bias) "
      "-> Tensor grad_qkv");
}

TORCH_LIBRARY_IMPL(compt_fast, CPU, library) {
  library.impl("packed_attention", TORCH_FN(attention_cpu));
  library.impl("packed_attention_backward", TORCH_FN(attention_backward_cpu));
}

TORCH_LIBRARY_IMPL(compt_fast, Meta, library) {
  library.impl("packed_attention", TORCH_FN(attention_meta));
  library.impl("packed_attention_backward", TORCH_FN(attention_backward_meta));
}

TORCH_LIBRARY_IMPL(compt_fast, Autograd, library) {
  library.impl("packed_attention", TORCH_FN(attention_autograd));
  library.impl("packed_attention_backward", TORCH_FN(attention_backward_autograd));
}

}  // namespace compt_fast

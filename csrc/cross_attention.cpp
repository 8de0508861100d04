// Cross-attention of queries to packed rows of states, which are keys and values as they are, on the CPU: a
// decoder's without keys and values of its own. bfloat16 or float32 in and out, float32 inside.
//
// Inputs that require a gradient are refused: these are the inside of a frozen layer's own backward.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "checks.h"
#include "cross_attention_cpu.h"
#include "tasks.h"

namespace compt_fast {
namespace {

using at::Tensor;
using Attended = std::tuple<Tensor, Tensor>;

void check_values(const char* name, const Tensor& tensor, at::ScalarType type) {
  check_layer_floats(name, tensor, 2);
  CHECK_ARGUMENT(tensor.scalar_type() == type, name, " must be ", type, ", got ", tensor.scalar_type());
}

void check_queries(const Tensor& queries, const Tensor& packed, const Tensor& cu_seqlens_q,
                   const Tensor& cu_seqlens_k) {
  check_layer_floats("queries", queries, 2);
  CHECK_SIZE(queries.sym_size(1).sym_ge(1), "queries must have a width of at least 1, got ", queries.sym_size(1));
  CHECK_ARGUMENT(packed.layout() == at::kStrided && packed.dim() == 1 && packed.scalar_type() == at::kInt,
                 "packed must be what pack_states returns, a dense int32 vector, got ", packed.scalar_type(), " of ",
                 packed.dim(), " dimensions");
  check_index("cu_seqlens_q", cu_seqlens_q);
  check_index("cu_seqlens_k", cu_seqlens_k);
  CHECK_SIZE(cu_seqlens_q.sym_size(0).sym_ge(1), "cu_seqlens_q must not be empty");
  CHECK_SIZE(cu_seqlens_k.sym_size(0).sym_eq(cu_seqlens_q.sym_size(0)),
             "cu_seqlens_k must have as many entries as cu_seqlens_q, ", cu_seqlens_q.sym_size(0), ", got ",
             cu_seqlens_k.sym_size(0));
  check_device("packed", packed, queries.device());
  for (const auto& [name, cu_seqlens] :
       {std::pair{"cu_seqlens_q", &cu_seqlens_q}, std::pair{"cu_seqlens_k", &cu_seqlens_k}}) {
    check_device(name, *cu_seqlens, cu_seqlens->is_cpu() ? at::Device(at::kCPU) : queries.device());
  }
}

// The job of checked arguments.
template <typename T>
CrossAttention<T> cross_attention_of(const Tensor& queries, const Tensor& packed, const Tensor& cu_seqlens_q,
                                     const Tensor& cu_seqlens_k) {
  CrossAttention<T> job{static_cast<const T*>(queries.const_data_ptr()),
                        cu_seqlens_q.const_data_ptr<int64_t>(),
                        cu_seqlens_k.const_data_ptr<int64_t>(),
                        cu_seqlens_k.numel() - 1,
                        queries.size(1),
                        static_cast<const uint32_t*>(packed.const_data_ptr()),
                        {},
                        {}};
  lay_out(job);
  CHECK_ARGUMENT(packed.numel() == job.begin.back(),
                 "packed must be what pack_states returns for these cu_seqlens_k, of ", job.begin.back(),
                 " entries, got ", packed.numel());
  return job;
}

void check_contents(const Tensor& queries, const Tensor& packed, const Tensor& cu_seqlens_q,
                    const Tensor& cu_seqlens_k) {
  check_dense("queries", queries);
  check_dense("packed", packed);
  for (const auto& [name, cu_seqlens] :
       {std::pair{"cu_seqlens_q", &cu_seqlens_q}, std::pair{"cu_seqlens_k", &cu_seqlens_k}}) {
    check_device(name, *cu_seqlens, at::kCPU);
    check_dense(name, *cu_seqlens);
  }
  const int64_t* k = cu_seqlens_k.const_data_ptr<int64_t>();
  // Each state takes a unit of `packed` at least, and so does each pair of its numbers: before sizes are multiplied.
  const int64_t states = k[cu_seqlens_k.numel() - 1];
  CHECK_ARGUMENT(states == 0 || (states <= packed.numel() && queries.size(1) / 2 <= packed.numel()), "packed must be ",
                 "what pack_states returns for these cu_seqlens_k, and ", packed.numel(), " entries hold no ", states,
                 " states of width ", queries.size(1));
  check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, queries.size(0), "queries");
  check_cu_seqlens("cu_seqlens_k", cu_seqlens_k, states, "states");
  const int64_t* q = cu_seqlens_q.const_data_ptr<int64_t>();
  for (int64_t row = 0; row + 1 < cu_seqlens_q.numel(); ++row) {
    CHECK_ARGUMENT(q[row] == q[row + 1] || k[row] < k[row + 1], "cu_seqlens_k must leave row ", row,
                   " states that its queries can attend to");
  }
}

// Each row is laid out twice, its length rounded up to whole vectors in one, the width in the other. Long rows
// take twice the memory of the states, rows of one state kLanes + 2 times; and twice that where products read
// bfloat16 as floats.
Tensor pack_states_cpu(const Tensor& states, const Tensor& cu_seqlens) {
  check_layer_floats("states", states, 2);
  check_index("cu_seqlens", cu_seqlens);
  CHECK_ARGUMENT(states.size(1) >= 1 && cu_seqlens.numel() >= 1, "states and cu_seqlens must not be empty");
  check_dense("states", states);
  check_dense("cu_seqlens", cu_seqlens);
  check_cu_seqlens("cu_seqlens", cu_seqlens, states.size(0), "states");
  Tensor packed;
  with_type(states, [&](auto zero) {
    using T = decltype(zero);
    const int64_t* at = cu_seqlens.const_data_ptr<int64_t>();
    CrossAttention<T> job{nullptr, at, at, cu_seqlens.numel() - 1, states.size(1), nullptr, {}, {}};
    lay_out(job);
    packed = at::empty({job.begin.back()}, states.options().dtype(at::kInt));
    auto* to = static_cast<uint32_t*>(packed.data_ptr());
    for_each_task(job.rows, job.rows, [&](int64_t row) {
      pack_states(job, static_cast<const T*>(states.const_data_ptr()), to, row);
    });
  });
  return packed;
}

bool has_queries(const int64_t* cu_seqlens_q, int64_t row) {
  return cu_seqlens_q[row] < cu_seqlens_q[row + 1];
}

Attended cross_attention_cpu(const Tensor& queries, const Tensor& packed, const Tensor& cu_seqlens_q,
                             const Tensor& cu_seqlens_k) {
  check_queries(queries, packed, cu_seqlens_q, cu_seqlens_k);
  check_contents(queries, packed, cu_seqlens_q, cu_seqlens_k);
  const Tensor out = at::empty_like(queries);
  const Tensor lse = at::empty({queries.size(0)}, queries.options().dtype(at::kFloat));
  with_type(queries, [&](auto zero) {
    using T = decltype(zero);
    const auto job = cross_attention_of<T>(queries, packed, cu_seqlens_q, cu_seqlens_k);
    for_each_task(job.rows, job.rows, [&](int64_t row) {
      if (has_queries(job.cu_seqlens_q, row)) {
        cross_attend(job, static_cast<T*>(out.data_ptr()), lse.data_ptr<float>(), row);
      }
    });
  });
  return {out, lse};
}

void check_backward(const Tensor& grad_out, const Tensor& queries, const Tensor& lse, const Tensor& grad_states) {
  check_values("grad_out", grad_out, queries.scalar_type());
  check_values("grad_states", grad_states, at::kFloat);
  CHECK_ARGUMENT(lse.layout() == at::kStrided && lse.dim() == 1 && lse.scalar_type() == at::kFloat,
                 "lse must be a dense float32 vector");
  CHECK_SIZE(grad_out.sym_size(0).sym_eq(queries.sym_size(0)), "grad_out must have as many rows as queries, ",
             queries.sym_size(0), ", got ", grad_out.sym_size(0));
  CHECK_SIZE(grad_out.sym_size(1).sym_eq(queries.sym_size(1)), "grad_out must be as wide as queries, ",
             queries.sym_size(1), ", got ", grad_out.sym_size(1));
  CHECK_SIZE(lse.sym_size(0).sym_eq(queries.sym_size(0)), "lse must have an entry for each query, ",
             queries.sym_size(0), ", got ", lse.sym_size(0));
  CHECK_SIZE(grad_states.sym_size(1).sym_eq(queries.sym_size(1)), "grad_states must be as wide as queries, ",
             queries.sym_size(1), ", got ", grad_states.sym_size(1));
  for (const auto& [name, tensor] : {std::pair{"grad_out", &grad_out}, {"lse", &lse}, {"grad_states", &grad_states}}) {
    check_device(name, *tensor, queries.device());
  }
}

Tensor cross_attention_backward_cpu(const Tensor& grad_out, const Tensor& queries, const Tensor& lse,
                                    const Tensor& packed, const Tensor& cu_seqlens_q, const Tensor& cu_seqlens_k,
                                    Tensor& grad_states) {
  check_queries(queries, packed, cu_seqlens_q, cu_seqlens_k);
  check_backward(grad_out, queries, lse, grad_states);
  check_contents(queries, packed, cu_seqlens_q, cu_seqlens_k);
  check_dense("grad_out", grad_out);
  check_dense("lse", lse);
  check_dense("grad_states", grad_states);
  check_apart("grad_states", grad_states,
              {{"grad_out", &grad_out},
               {"queries", &queries},
               {"lse", &lse},
               {"packed", &packed},
               {"cu_seqlens_q", &cu_seqlens_q},
               {"cu_seqlens_k", &cu_seqlens_k}});
  CHECK_ARGUMENT(cu_seqlens_k.const_data_ptr<int64_t>()[cu_seqlens_k.numel() - 1] == grad_states.size(0),
                 "cu_seqlens_k must end at the rows of grad_states, ", grad_states.size(0));
  const Tensor grad_queries = at::empty_like(queries);
  with_type(queries, [&](auto zero) {
    using T = decltype(zero);
    const auto job = cross_attention_of<T>(queries, packed, cu_seqlens_q, cu_seqlens_k);
    for_each_task(job.rows, job.rows, [&](int64_t row) {
      if (has_queries(job.cu_seqlens_q, row)) {
        cross_attend_backward(job, static_cast<const T*>(grad_out.const_data_ptr()), lse.const_data_ptr<float>(),
                              static_cast<T*>(grad_queries.data_ptr()), grad_states.data_ptr<float>(), row);
      }
    });
  });
  return grad_queries;
}

Attended cross_attention_meta(const Tensor& queries, const Tensor& packed, const Tensor& cu_seqlens_q,
                              const Tensor& cu_seqlens_k) {
  check_queries(queries, packed, cu_seqlens_q, cu_seqlens_k);
  return {at::empty_symint(queries.sym_sizes(), queries.options()),
          at::empty_symint({queries.sym_size(0)}, queries.options().dtype(at::kFloat))};
}

Tensor cross_attention_backward_meta(const Tensor& grad_out, const Tensor& queries, const Tensor& lse,
                                     const Tensor& packed, const Tensor& cu_seqlens_q, const Tensor& cu_seqlens_k,
                                     Tensor& grad_states) {
  check_queries(queries, packed, cu_seqlens_q, cu_seqlens_k);
  check_backward(grad_out, queries, lse, grad_states);
  return at::empty_symint(queries.sym_sizes(), queries.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(compt_fast, library) {
  library.def("pack_states(Tensor states, Tensor cu_seqlens) -> Tensor");
  library.def(
      "cross_attention(Tensor queries, Tensor packed, Tensor cu_seqlens_q, Tensor cu_seqlens_k) "
      "-> (Tensor out, Tensor lse)");
  library.def(
      "cross_attention_backward(Tensor grad_out, Tensor queries, Tensor lse, Tensor packed, Tensor cu_seqlens_q, "
      "Tensor cu_seqlens_k, Tensor(a!) grad_states) -> Tensor");
}

TORCH_LIBRARY_IMPL(compt_fast, CPU, library) {
  library.impl("pack_states", TORCH_FN(pack_states_cpu));
  library.impl("cross_attention", TORCH_FN(cross_attention_cpu));
  library.impl("cross_attention_backward", TORCH_FN(cross_attention_backward_cpu));
}

TORCH_LIBRARY_IMPL(compt_fast, Meta, library) {
  library.impl("cross_attention", TORCH_FN(cross_attention_meta));
  library.impl("cross_attention_backward", TORCH_FN(cross_attention_backward_meta));
}

TORCH_LIBRARY_IMPL(compt_fast, Autograd, library) {
  for (const char* name : {"pack_states", "cross_attention", "cross_attention_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&without_derivative>());
  }
}

}  // namespace compt_fast

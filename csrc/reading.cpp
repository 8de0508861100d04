// Queries that read packed rows of states as their keys and their values, on the CPU: a decoder's
// cross-attention without projecting its source. bfloat16 or float32 in and out, float32 inside.
//
// Inputs that require a gradient are refused: these are the inside of a frozen layer's own backward.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "checks.h"
#include "reading_cpu.h"
#include "tasks.h"

namespace compt_fast {
namespace {

using at::Tensor;
using Read = std::tuple<Tensor, Tensor>;

void check_values(const char* name, const Tensor& tensor, at::ScalarType type) {
  check_layer_floats(name, tensor, 2);
  CHECK_ARGUMENT(tensor.scalar_type() == type, name, " must be ", type, ", got ", tensor.scalar_type());
}

void check_queries(const Tensor& queries, const Tensor& packed, const Tensor& q_offsets, const Tensor& k_offsets) {
  check_layer_floats("queries", queries, 2);
  CHECK_SIZE(queries.sym_size(1).sym_ge(1), "queries must have a width of at least 1, got ", queries.sym_size(1));
  CHECK_ARGUMENT(packed.layout() == at::kStrided && packed.dim() == 1 && packed.scalar_type() == at::kInt,
                 "packed must be what pack_states returns, a dense int32 vector, got ", packed.scalar_type(), " of ",
                 packed.dim(), " dimensions");
  check_index("q_offsets", q_offsets);
  check_index("k_offsets", k_offsets);
  CHECK_SIZE(q_offsets.sym_size(0).sym_ge(1), "q_offsets must not be empty");
  CHECK_SIZE(k_offsets.sym_size(0).sym_eq(q_offsets.sym_size(0)), "k_offsets must have as many entries as q_offsets, ",
             q_offsets.sym_size(0), ", got ", k_offsets.sym_size(0));
  check_device("packed", packed, queries.device());
  for (const auto& [name, offsets] : {std::pair{"q_offsets", &q_offsets}, std::pair{"k_offsets", &k_offsets}}) {
    check_device(name, *offsets, offsets->is_cpu() ? at::Device(at::kCPU) : queries.device());
  }
}

// The job of checked arguments.
template <typename T>
Reading<T> reading_of(const Tensor& queries, const Tensor& packed, const Tensor& q_offsets, const Tensor& k_offsets) {
  Reading<T> job{static_cast<const T*>(queries.const_data_ptr()),
                 q_offsets.const_data_ptr<int64_t>(),
                 k_offsets.const_data_ptr<int64_t>(),
                 k_offsets.numel() - 1,
                 queries.size(1),
                 static_cast<const uint32_t*>(packed.const_data_ptr()),
                 {},
                 {}};
  lay_out(job);
  CHECK_ARGUMENT(packed.numel() == job.begin.back(), "packed must be what pack_states returns for these k_offsets, of ",
                 job.begin.back(), " entries, got ", packed.numel());
  return job;
}

void check_contents(const Tensor& queries, const Tensor& packed, const Tensor& q_offsets, const Tensor& k_offsets) {
  check_dense("queries", queries);
  check_dense("packed", packed);
  for (const auto& [name, offsets] : {std::pair{"q_offsets", &q_offsets}, std::pair{"k_offsets", &k_offsets}}) {
    check_device(name, *offsets, at::kCPU);
    check_dense(name, *offsets);
  }
  const int64_t* k = k_offsets.const_data_ptr<int64_t>();
  // Each state takes a unit of `packed` at least, and so does each pair of its numbers: before sizes are multiplied.
  const int64_t states = k[k_offsets.numel() - 1];
  CHECK_ARGUMENT(states == 0 || (states <= packed.numel() && queries.size(1) / 2 <= packed.numel()), "packed must be ",
                 "what pack_states returns for these k_offsets, and ", packed.numel(), " entries hold no ", states,
                 " states of width ", queries.size(1));
  check_offsets("q_offsets", q_offsets, queries.size(0), "queries");
  check_offsets("k_offsets", k_offsets, states, "states");
  const int64_t* q = q_offsets.const_data_ptr<int64_t>();
  for (int64_t row = 0; row + 1 < q_offsets.numel(); ++row) {
    CHECK_ARGUMENT(q[row] == q[row + 1] || k[row] < k[row + 1], "k_offsets must leave row ", row,
                   " states that its queries can read");
  }
}

// Each row is laid out twice, its length rounded up to whole vectors in one, the width in the other. Long rows
// take twice the memory of the states, rows of one state kLanes + 2 times; and twice that where products read
// bfloat16 as floats.
Tensor pack_states_cpu(const Tensor& states, const Tensor& offsets) {
  check_layer_floats("states", states, 2);
  check_index("offsets", offsets);
  CHECK_ARGUMENT(states.size(1) >= 1 && offsets.numel() >= 1, "states and offsets must not be empty");
  check_dense("states", states);
  check_dense("offsets", offsets);
  check_offsets("offsets", offsets, states.size(0), "states");
  Tensor packed;
  with_type(states, [&](auto zero) {
    using T = decltype(zero);
    const int64_t* at = offsets.const_data_ptr<int64_t>();
    Reading<T> job{nullptr, at, at, offsets.numel() - 1, states.size(1), nullptr, {}, {}};
    lay_out(job);
    packed = at::empty({job.begin.back()}, states.options().dtype(at::kInt));
    auto* to = static_cast<uint32_t*>(packed.data_ptr());
    for_each_task(job.rows, job.rows, [&](int64_t row) {
      pack_states(job, static_cast<const T*>(states.const_data_ptr()), to, row);
    });
  });
  return packed;
}

bool asks(const int64_t* q_offsets, int64_t row) {
  return q_offsets[row] < q_offsets[row + 1];
}

Read read_states_cpu(const Tensor& queries, const Tensor& packed, const Tensor& q_offsets, const Tensor& k_offsets) {
  check_queries(queries, packed, q_offsets, k_offsets);
  check_contents(queries, packed, q_offsets, k_offsets);
  const Tensor out = at::empty_like(queries);
  const Tensor lse = at::empty({queries.size(0)}, queries.options().dtype(at::kFloat));
  with_type(queries, [&](auto zero) {
    using T = decltype(zero);
    const auto job = reading_of<T>(queries, packed, q_offsets, k_offsets);
    for_each_task(job.rows, job.rows, [&](int64_t row) {
      if (asks(job.q_offsets, row)) {
        read_states(job, static_cast<T*>(out.data_ptr()), lse.data_ptr<float>(), row);
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

Tensor read_states_backward_cpu(const Tensor& grad_out, const Tensor& queries, const Tensor& lse, const Tensor& packed,
                                const Tensor& q_offsets, const Tensor& k_offsets, Tensor& grad_states) {
  check_queries(queries, packed, q_offsets, k_offsets);
  check_backward(grad_out, queries, lse, grad_states);
  check_contents(queries, packed, q_offsets, k_offsets);
  check_dense("grad_out", grad_out);
  check_dense("lse", lse);
  check_dense("grad_states", grad_states);
  check_apart("grad_states", grad_states,
              {{"grad_out", &grad_out},
               {"queries", &queries},
               {"lse", &lse},
               {"packed", &packed},
               {"q_offsets", &q_offsets},
               {"k_offsets", &k_offsets}});
  CHECK_ARGUMENT(k_offsets.const_data_ptr<int64_t>()[k_offsets.numel() - 1] == grad_states.size(0),
                 "k_offsets must end at the rows of grad_states, ", grad_states.size(0));
  const Tensor grad_queries = at::empty_like(queries);
  with_type(queries, [&](auto zero) {
    using T = decltype(zero);
    const auto job = reading_of<T>(queries, packed, q_offsets, k_offsets);
    for_each_task(job.rows, job.rows, [&](int64_t row) {
      if (asks(job.q_offsets, row)) {
        read_states_backward(job, static_cast<const T*>(grad_out.const_data_ptr()), lse.const_data_ptr<float>(),
                             static_cast<T*>(grad_queries.data_ptr()), grad_states.data_ptr<float>(), row);
      }
    });
  });
  return grad_queries;
}

Read read_states_meta(const Tensor& queries, const Tensor& packed, const Tensor& q_offsets, const Tensor& k_offsets) {
  check_queries(queries, packed, q_offsets, k_offsets);
  return {at::empty_symint(queries.sym_sizes(), queries.options()),
          at::empty_symint({queries.sym_size(0)}, queries.options().dtype(at::kFloat))};
}

Tensor read_states_backward_meta(const Tensor& grad_out, const Tensor& queries, const Tensor& lse, const Tensor& packed,
                                 const Tensor& q_offsets, const Tensor& k_offsets, Tensor& grad_states) {
  check_queries(queries, packed, q_offsets, k_offsets);
  check_backward(grad_out, queries, lse, grad_states);
  return at::empty_symint(queries.sym_sizes(), queries.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(compt_fast, library) {
  library.def("pack_states(Tensor states, Tensor offsets) -> Tensor");
  library.def(
      "read_states(Tensor queries, Tensor packed, Tensor q_offsets, Tensor k_offsets) -> (Tensor out, Tensor lse)");
  library.def(
      "read_states_backward(Tensor grad_out, Tensor queries, Tensor lse, Tensor packed, Tensor q_offsets, "
      "Tensor k_offsets, Tensor(a!) grad_states) -> Tensor");
}

TORCH_LIBRARY_IMPL(compt_fast, CPU, library) {
  library.impl("pack_states", TORCH_FN(pack_states_cpu));
  library.impl("read_states", TORCH_FN(read_states_cpu));
  library.impl("read_states_backward", TORCH_FN(read_states_backward_cpu));
}

TORCH_LIBRARY_IMPL(compt_fast, Meta, library) {
  library.impl("read_states", TORCH_FN(read_states_meta));
  library.impl("read_states_backward", TORCH_FN(read_states_backward_meta));
}

TORCH_LIBRARY_IMPL(compt_fast, Autograd, library) {
  for (const char* name : {"pack_states", "read_states", "read_states_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&without_derivative>());
  }
}

}  // namespace compt_fast

// Products of packed tokens with a frozen matrix in int8, on the CPU, for inference: x W^T, W rounded when it was packed,
// x when it comes, to int8 or int16. They have no derivatives.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "checks.h"
#include "products_ints_cpu.h"

namespace compt_fast {
namespace {

using at::Tensor;

void check_matrix(const char* name, const Tensor& tensor, at::ScalarType type, int64_t dimensions) {
  CHECK_ARGUMENT(tensor.layout() == at::kStrided && tensor.dim() == dimensions && tensor.scalar_type() == type, name,
                 " must be a dense ", type, " tensor of ", dimensions, " dimensions, got ", tensor.scalar_type(), " of ",
                 tensor.dim());
}

void check_inner(const char* name, const c10::SymInt& inner) {
  CHECK_SIZE(inner.sym_ge(1), name, " must have an inner size of at least 1, got 0");
  CHECK_SIZE(inner.sym_le(kDeepest), name, " must have an inner size of at most ", kDeepest, ", got ", inner);
}

template <typename Dot>
c10::SymInt units_of(const c10::SymInt& inner) {
  return (inner + (Dot::kPerUnit - 1)) / Dot::kPerUnit;
}

c10::SymInt panels_of(const c10::SymInt& columns) {
  return (columns + (kIntPanel - 1)) / kIntPanel;
}

Tensor pack_int8_meta(const Tensor& weight) {
  check_matrix("weight", weight, at::kChar, 2);
  check_inner("weight", weight.sym_size(1));
  const auto units = units_of<ByteDot>(weight.sym_size(1));
  return at::empty_symint({panels_of(weight.sym_size(0)), units, kIntPanel}, weight.options().dtype(at::kInt));
}

Tensor pack_int8_cpu(const Tensor& weight) {
  const Tensor packed = pack_int8_meta(weight);
  check_dense("weight", weight);
  pack_ints<ByteDot>(static_cast<const int8_t*>(weight.const_data_ptr()), weight.size(0), weight.size(1),
                     static_cast<Unit*>(packed.data_ptr()));
  return packed;
}

// As `pack_int8`, for rows of int16 and of several matrices (groups, columns, inner): (groups, panels, units, columns of
// a panel).
Tensor pack_int16_meta(const Tensor& weight) {
  check_matrix("weight", weight, at::kChar, 3);
  check_inner("weight", weight.sym_size(2));
  const auto units = units_of<WordDot>(weight.sym_size(2));
  return at::empty_symint({weight.sym_size(0), panels_of(weight.sym_size(1)), units, kIntPanel},
                          weight.options().dtype(at::kShort));
}

Tensor pack_int16_cpu(const Tensor& weight) {
  const Tensor packed = pack_int16_meta(weight);
  check_dense("weight", weight);
  const int64_t columns = weight.size(1), inner = weight.size(2);
  for (int64_t group = 0; group < weight.size(0); ++group) {
    pack_ints<WordDot>(static_cast<const int8_t*>(weight.const_data_ptr()) + group * columns * inner, columns, inner,
                       static_cast<BytePair*>(packed.data_ptr()) + group * packed_units<WordDot>(columns, inner));
  }
  return packed;
}

// The sizes of the product.
std::array<c10::SymInt, 2> check_sides(const Tensor& x, const Tensor& panels, const Tensor& steps) {
  check_layer_floats("x", x, 2);
  check_matrix("panels", panels, at::kInt, 3);
  check_matrix("steps", steps, at::kFloat, 1);
  check_device("panels", panels, x.device());
  check_device("steps", steps, x.device());
  check_inner("x", x.sym_size(1));
  const auto units = units_of<ByteDot>(x.sym_size(1));
  const auto wanted = panels_of(steps.sym_size(0));
  CHECK_SIZE(panels.sym_size(0).sym_eq(wanted), "panels must have ", wanted, " panels, for as many columns as steps has, got ",
             panels.sym_size(0));
  CHECK_SIZE(panels.sym_size(1).sym_eq(units), "panels must have ", units, " units, for as many columns as x has, got ",
             panels.sym_size(1));
  CHECK_SIZE(panels.sym_size(2).sym_eq(kIntPanel), "panels must have panels of ", kIntPanel, " columns, got ",
             panels.sym_size(2));
  return {x.sym_size(0), steps.sym_size(0)};
}

template <typename Dot>
void multiply_into(const Tensor& y, const Tensor& x, const Tensor& panels, const Tensor& steps, After after) {
  check_dense("x", x);
  check_dense("panels", panels);
  check_dense("steps", steps);
  const int64_t groups = x.dim() == 3 ? x.size(1) : 1;
  const int64_t rows = x.size(0) * groups;
  const Tensor q = at::empty({rows, int_units<Dot>(x.size(-1))}, panels.options().dtype(at::kInt));
  const Tensor row_steps = at::empty({rows, static_cast<int64_t>(sizeof(IntRow))}, panels.options().dtype(at::kByte));
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    multiply(IntProduct<Dot, T>{.x = static_cast<const T*>(x.const_data_ptr()),
                                .weight = static_cast<const typename Dot::Kept*>(panels.const_data_ptr()),
                                .steps = static_cast<const float*>(steps.const_data_ptr()),
                                .y = static_cast<T*>(y.data_ptr()),
                                .q = static_cast<Unit*>(q.data_ptr()),
                                .row_steps = static_cast<IntRow*>(row_steps.data_ptr()),
                                .rows = x.size(0),
                                .groups = groups,
                                .inner = x.size(-1),
                                .columns = y.size(-1),
                                .after = after});
  });
}

Tensor product_int8_meta(const Tensor& x, const Tensor& panels, const Tensor& steps, bool /*relu*/) {
  return at::empty_symint(check_sides(x, panels, steps), x.options());
}

Tensor product_int8_cpu(const Tensor& x, const Tensor& panels, const Tensor& steps, bool relu) {
  const Tensor y = product_int8_meta(x, panels, steps, relu);
  multiply_into<ByteDot>(y, x, panels, steps, relu ? After::kRelu : After::kNothing);
  return y;
}

// x (rows, groups, inner) in int16 with a matrix a group: panels as `pack_int16` gives them, steps (groups, columns).
Tensor product_int16_meta(const Tensor& x, const Tensor& panels, const Tensor& steps) {
  check_layer_floats("x", x, 3);
  check_matrix("panels", panels, at::kShort, 4);
  check_matrix("steps", steps, at::kFloat, 2);
  check_device("panels", panels, x.device());
  check_device("steps", steps, x.device());
  check_inner("x", x.sym_size(2));
  const auto groups = x.sym_size(1);
  const auto wanted = panels_of(steps.sym_size(1));
  const auto units = units_of<WordDot>(x.sym_size(2));
  CHECK_SIZE(steps.sym_size(0).sym_eq(groups), "steps must have ", groups, " rows, as many as x has groups, got ",
             steps.sym_size(0));
  CHECK_SIZE(panels.sym_size(0).sym_eq(groups), "panels must have ", groups, " groups, as many as x has, got ",
             panels.sym_size(0));
  CHECK_SIZE(panels.sym_size(1).sym_eq(wanted), "panels must have ", wanted,
             " panels a group, for as many columns as steps has, got ", panels.sym_size(1));
  CHECK_SIZE(panels.sym_size(2).sym_eq(units), "panels must have ", units, " units, for as many columns as x has, got ",
             panels.sym_size(2));
  CHECK_SIZE(panels.sym_size(3).sym_eq(kIntPanel), "panels must have panels of ", kIntPanel, " columns, got ",
             panels.sym_size(3));
  return at::empty_symint({x.sym_size(0), groups, steps.sym_size(1)}, x.options());
}

Tensor product_int16_cpu(const Tensor& x, const Tensor& panels, const Tensor& steps) {
  const Tensor y = product_int16_meta(x, panels, steps);
  multiply_into<WordDot>(y, x, panels, steps, After::kNothing);
  return y;
}

void product_int8_add_meta(const Tensor& x, const Tensor& panels, const Tensor& steps, Tensor& total) {
  const auto sizes = check_sides(x, panels, steps);
  check_matrix("total", total, x.scalar_type(), 2);
  check_device("total", total, x.device());
  CHECK_SIZE(total.sym_size(0).sym_eq(sizes[0]), "total must have ", sizes[0], " rows, got ", total.sym_size(0));
  CHECK_SIZE(total.sym_size(1).sym_eq(sizes[1]), "total must have ", sizes[1], " columns, got ", total.sym_size(1));
}

void product_int8_add_cpu(const Tensor& x, const Tensor& panels, const Tensor& steps, Tensor& total) {
  product_int8_add_meta(x, panels, steps, total);
  check_dense("total", total);
  check_apart("total", total, {{"x", &x}, {"panels", &panels}, {"steps", &steps}});
  multiply_into<ByteDot>(total, x, panels, steps, After::kAdd);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(compt_fast, library) {
  library.def("pack_int8(Tensor weight) -> Tensor");
  library.def("pack_int16(Tensor weight) -> Tensor");
  library.def("product_int16(Tensor x, Tensor panels, Tensor steps) -> Tensor");
  library.def("product_int8(Tensor x, Tensor panels, Tensor steps, bool relu=False) -> Tensor");
  library.def("product_int8_add(Tensor x, Tensor panels, Tensor steps, Tensor(a!) total) -> ()");
}

TORCH_LIBRARY_IMPL(compt_fast, CPU, library) {
  library.impl("pack_int8", TORCH_FN(pack_int8_cpu));
  library.impl("pack_int16", TORCH_FN(pack_int16_cpu));
  library.impl("product_int16", TORCH_FN(product_int16_cpu));
  library.impl("product_int8", TORCH_FN(product_int8_cpu));
  library.impl("product_int8_add", TORCH_FN(product_int8_add_cpu));
}

TORCH_LIBRARY_IMPL(compt_fast, Meta, library) {
  library.impl("pack_int8", TORCH_FN(pack_int8_meta));
  library.impl("pack_int16", TORCH_FN(pack_int16_meta));
  library.impl("product_int16", TORCH_FN(product_int16_meta));
  library.impl("product_int8", TORCH_FN(product_int8_meta));
  library.impl("product_int8_add", TORCH_FN(product_int8_add_meta));
}

TORCH_LIBRARY_IMPL(compt_fast, Autograd, library) {
  for (const char* name : {"pack_int8", "product_int8", "product_int8_add", "pack_int16", "product_int16"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&without_derivative>());
  }
}

}  // namespace compt_fast

// Products of packed tokens with a frozen matrix, on the CPU: x W^T forward, x W back, with what follows
// them done on the sums. bfloat16 or float32 in and out, float32 inside.
//
// They are the inside of a frozen layer's own backward, and have no derivatives of their own: inputs
// that require one are refused.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "checks.h"
#include "products_cpu.h"

namespace compt_fast {
namespace {

using at::Tensor;

void check_like(const char* name, const Tensor& tensor, const Tensor& x) {
  CHECK_ARGUMENT(tensor.scalar_type() == x.scalar_type(), name, " must be ", x.scalar_type(), ", as x is, got ",
                 tensor.scalar_type());
  check_device(name, tensor, x.device());
}

void check_inner(const c10::SymInt& found, const c10::SymInt& inner, bool back) {
  CHECK_SIZE(found.sym_eq(inner), "x must have ", inner, " columns, as many as weight has ", back ? "rows" : "columns",
             ", got ", found);
  CHECK_SIZE(inner.sym_ge(1), "weight must have an inner size of at least 1, got 0");
}

// The two sides; returns the sizes of their product.
std::array<c10::SymInt, 2> check_sides(const Tensor& x, const Tensor& weight, bool back) {
  check_layer_floats("x", x, 2);
  check_layer_floats("weight", weight, 2);
  check_like("weight", weight, x);
  check_inner(x.sym_size(1), weight.sym_size(back ? 0 : 1), back);
  return {x.sym_size(0), weight.sym_size(back ? 1 : 0)};
}

void check_result(const char* name, const Tensor& tensor, const Tensor& x, const std::array<c10::SymInt, 2>& sizes) {
  check_layer_floats(name, tensor, 2);
  check_like(name, tensor, x);
  CHECK_SIZE(tensor.sym_size(0).sym_eq(sizes[0]), name, " must have ", sizes[0], " rows, got ", tensor.sym_size(0));
  CHECK_SIZE(tensor.sym_size(1).sym_eq(sizes[1]), name, " must have ", sizes[1], " columns, got ",
             tensor.sym_size(1));
}

void multiply_into(const Tensor& y, const Tensor& x, const Tensor& weight, bool back, After after,
                   const Tensor* other = nullptr) {
  check_dense("x", x);
  check_dense("weight", weight);
  if (after == After::kAdd) {
    check_apart("total", y, {{"x", &x}, {"weight", &weight}});
  }
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    multiply(Product<T>{.x = static_cast<const T*>(x.const_data_ptr()),
                        .weight = static_cast<const T*>(weight.const_data_ptr()),
                        .y = static_cast<T*>(y.data_ptr()),
                        .other = other ? static_cast<const T*>(other->const_data_ptr()) : nullptr,
                        .rows = x.size(0),
                        .groups = x.dim() == 3 ? x.size(1) : 1,
                        .inner = x.size(-1),
                        .columns = y.size(-1),
                        .back = back,
                        .after = after});
  });
}

Tensor product_meta(const Tensor& x, const Tensor& weight, bool back, bool /*relu*/) {
  return at::empty_symint(check_sides(x, weight, back), x.options());
}

Tensor product_cpu(const Tensor& x, const Tensor& weight, bool back, bool relu) {
  const Tensor y = product_meta(x, weight, back, relu);
  multiply_into(y, x, weight, back, relu ? After::kRelu : After::kNothing);
  return y;
}

// The same of a part of each row with a matrix of its own: (rows, groups, inner) with (groups, columns, inner).
Tensor grouped_product_meta(const Tensor& x, const Tensor& weight, bool back) {
  check_layer_floats("x", x, 3);
  check_layer_floats("weight", weight, 3);
  check_like("weight", weight, x);
  CHECK_SIZE(x.sym_size(1).sym_eq(weight.sym_size(0)), "x must have ", weight.sym_size(0),
             " parts a row, as many as weight has matrices, got ", x.sym_size(1));
  check_inner(x.sym_size(2), weight.sym_size(back ? 1 : 2), back);
  return at::empty_symint({x.sym_size(0), x.sym_size(1), weight.sym_size(back ? 2 : 1)}, x.options());
}

Tensor grouped_product_cpu(const Tensor& x, const Tensor& weight, bool back) {
  const Tensor y = grouped_product_meta(x, weight, back);
  multiply_into(y, x, weight, back, After::kNothing);
  return y;
}

Tensor product_where_meta(const Tensor& x, const Tensor& weight, const Tensor& inner) {
  const auto sizes = check_sides(x, weight, true);
  check_result("inner", inner, x, sizes);
  return at::empty_symint(sizes, x.options());
}

Tensor product_where_cpu(const Tensor& x, const Tensor& weight, const Tensor& inner) {
  const Tensor y = product_where_meta(x, weight, inner);
  check_dense("inner", inner);
  multiply_into(y, x, weight, true, After::kWhere, &inner);
  return y;
}

void product_add_meta(const Tensor& x, const Tensor& weight, Tensor& total) {
  check_result("total", total, x, check_sides(x, weight, false));
}

void product_add_cpu(const Tensor& x, const Tensor& weight, Tensor& total) {
  product_add_meta(x, weight, total);
  check_dense("total", total);
  multiply_into(total, x, weight, false, After::kAdd);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(compt_fast, library) {
  library.def("has_products(ScalarType dtype) -> bool", has_products);
  library.def("product(Tensor x, Tensor weight, bool back=False, bool relu=False) -> Tensor");
  library.def("grouped_product(Tensor x, Tensor weight, bool back=False) -> Tensor");
  library.def("product_where(Tensor x, Tensor weight, Tensor inner) -> Tensor");
  library.def("product_add(Tensor x, Tensor weight, Tensor(a!) total) -> ()");
}

TORCH_LIBRARY_IMPL(compt_fast, CPU, library) {
  library.impl("product", TORCH_FN(product_cpu));
  library.impl("grouped_product", TORCH_FN(grouped_product_cpu));
  library.impl("product_where", TORCH_FN(product_where_cpu));
  library.impl("product_add", TORCH_FN(product_add_cpu));
}

TORCH_LIBRARY_IMPL(compt_fast, Meta, library) {
  library.impl("product", TORCH_FN(product_meta));
  library.impl("grouped_product", TORCH_FN(grouped_product_meta));
  library.impl("product_where", TORCH_FN(product_where_meta));
  library.impl("product_add", TORCH_FN(product_add_meta));
}

TORCH_LIBRARY_IMPL(compt_fast, Autograd, library) {
  for (const char* name : {"product", "grouped_product", "product_where", "product_add"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&without_derivative>());
  }
}

}  // namespace compt_fast

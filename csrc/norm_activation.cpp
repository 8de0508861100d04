// The encoder's and decoder's work between matrix products on the CPU, in one pass each: T5's norm
// without its weight, and the gated gelu. bfloat16 or float32 in and out, float32 inside.
//
// They are the inside of a frozen layer's own backward, and have no derivatives of their own: inputs
// that require one are refused.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "checks.h"
#include "vectors.h"

namespace compt_fast {
namespace {

using at::Tensor;
using Normed = std::tuple<Tensor, Tensor>;

// Elements a thread gets at least.
constexpr int64_t kGrain = 16384;

template <typename F>
void for_rows(int64_t rows, int64_t width, const F& rows_from_to) {
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)), rows_from_to);
}

template <typename T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// That a tensor is as large as said and where `other` is.
void check_sizes(const char* name, const Tensor& tensor, const c10::SymInt& rows, const c10::SymInt& width,
                 const Tensor& other) {
  check_device(name, tensor, other.device());
  CHECK_SIZE(tensor.sym_size(0).sym_eq(rows), name, " must have ", rows, " rows, got ", tensor.sym_size(0));
  CHECK_SIZE(tensor.sym_size(1).sym_eq(width), name, " must have ", width, " columns, got ", tensor.sym_size(1));
}

void check_norm_backward(const Tensor& grad_y, const Tensor& y, const Tensor& r, const Tensor& grad) {
  check_layer_floats("grad_y", grad_y, 2);
  check_layer_floats("y", y, 2);
  check_layer_floats("r", r, 2);
  check_layer_floats("grad", grad, 2);
  CHECK_ARGUMENT(grad_y.scalar_type() == y.scalar_type(), "grad_y must be ", y.scalar_type(), ", as y is, got ",
                 grad_y.scalar_type());
  CHECK_ARGUMENT(r.scalar_type() == at::kFloat, "r must be float32, got ", r.scalar_type());
  check_sizes("grad_y", grad_y, y.sym_size(0), y.sym_size(1), y);
  check_sizes("grad", grad, y.sym_size(0), y.sym_size(1), y);
  check_sizes("r", r, y.sym_size(0), 1, y);
}

void check_gelu(const Tensor& uv) {
  check_layer_floats("uv", uv, 2);
  CHECK_SIZE((uv.sym_size(1) % 2).sym_eq(0), "uv must have an even number of columns, got ", uv.sym_size(1));
}

void check_gelu_backward(const Tensor& grad, const Tensor& uv) {
  check_gelu(uv);
  check_layer_floats("grad", grad, 2);
  CHECK_ARGUMENT(grad.scalar_type() == uv.scalar_type(), "grad must be ", uv.scalar_type(), ", as uv is, got ",
                 grad.scalar_type());
  check_sizes("grad", grad, uv.sym_size(0), uv.sym_size(1) / 2, uv);
}

// One row of the norm; returns r.
template <typename T>
float norm_row(const T* __restrict x, T* __restrict y, int64_t width, float eps) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; ++i) {
    squares += static_cast<float>(x[i]) * static_cast<float>(x[i]);
  }
  const float r = 1 / std::sqrt(squares / static_cast<float>(width) + eps);
  for (int64_t i = 0; i < width; ++i) {
    y[i] = static_cast<T>(static_cast<float>(x[i]) * r);
  }
  return r;
}

template <typename T, typename G>
void norm_row_backward(const T* __restrict grad_y, const T* __restrict y, float r, G* __restrict grad, int64_t width) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < width; ++i) {
    dot += static_cast<float>(grad_y[i]) * static_cast<float>(y[i]);
  }
  const float mean = dot / static_cast<float>(width);
  for (int64_t i = 0; i < width; ++i) {
    const float across_y = static_cast<float>(grad_y[i]) - static_cast<float>(y[i]) * mean;
    grad[i] = static_cast<G>(static_cast<float>(grad[i]) + r * across_y);
  }
}

// gelu(u) = u s(u) with s a logistic function: the tanh form of the gelu, as T5 has it.
inline float logistic_of_gelu(float u) {
  const float z = 1.5957691216f * (u + 0.044715f * u * u * u);
  return 1 / (1 + fast_exp(-z));
}

inline float gelu_slope(float u, float s) {
  return s + u * s * (1 - s) * 1.5957691216f * (1 + 3 * 0.044715f * u * u);
}

template <typename T>
void gelu_row(const T* __restrict u, const T* __restrict v, T* __restrict y, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const float wide = static_cast<float>(u[i]);
    y[i] = static_cast<T>(wide * logistic_of_gelu(wide) * static_cast<float>(v[i]));
  }
}

template <typename T>
void gelu_row_backward(const T* __restrict grad, const T* __restrict u, const T* __restrict v, T* __restrict grad_u,
                       T* __restrict grad_v, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const float wide = static_cast<float>(u[i]);
    const float s = logistic_of_gelu(wide);
    const float g = static_cast<float>(grad[i]);
    grad_u[i] = static_cast<T>(g * static_cast<float>(v[i]) * gelu_slope(wide, s));
    grad_v[i] = static_cast<T>(g * wide * s);
  }
}

Normed rms_norm_cpu(const Tensor& x, double eps) {
  check_layer_floats("x", x, 2);
  CHECK_ARGUMENT(x.size(1) >= 1, "x must have a width of at least 1, got 0");
  check_dense("x", x);
  const int64_t width = x.size(1);
  const Tensor y = at::empty(x.sizes(), x.options());
  const Tensor r = at::empty({x.size(0), 1}, x.options().dtype(at::kFloat));
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    for_rows(x.size(0), width, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        r.data_ptr<float>()[i] = norm_row(read<T>(x) + i * width, static_cast<T*>(y.data_ptr()) + i * width, width,
                                          static_cast<float>(eps));
      }
    });
  });
  return {y, r};
}

void rms_norm_backward_cpu(const Tensor& grad_y, const Tensor& y, const Tensor& r, Tensor& grad) {
  check_norm_backward(grad_y, y, r, grad);
  check_dense("grad_y", grad_y);
  check_dense("y", y);
  check_dense("r", r);
  check_dense("grad", grad);
  check_apart("grad", grad, {{"grad_y", &grad_y}, {"y", &y}, {"r", &r}});
  const int64_t width = y.size(1);
  with_type(y, [&](auto t) {
    with_type(grad, [&](auto g) {
      using T = decltype(t);
      using G = decltype(g);
      for_rows(y.size(0), width, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          norm_row_backward(read<T>(grad_y) + i * width, read<T>(y) + i * width, read<float>(r)[i],
                            static_cast<G*>(grad.data_ptr()) + i * width, width);
        }
      });
    });
  });
}

Tensor gated_gelu_cpu(const Tensor& uv) {
  check_gelu(uv);
  check_dense("uv", uv);
  const int64_t width = uv.size(1) / 2;
  const Tensor y = at::empty({uv.size(0), width}, uv.options());
  with_type(uv, [&](auto zero) {
    using T = decltype(zero);
    for_rows(uv.size(0), width, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* u = read<T>(uv) + i * 2 * width;
        gelu_row(u, u + width, static_cast<T*>(y.data_ptr()) + i * width, width);
      }
    });
  });
  return y;
}

Tensor gated_gelu_backward_cpu(const Tensor& grad, const Tensor& uv) {
  check_gelu_backward(grad, uv);
  check_dense("grad", grad);
  check_dense("uv", uv);
  const int64_t width = uv.size(1) / 2;
  const Tensor out = at::empty(uv.sizes(), uv.options());
  with_type(uv, [&](auto zero) {
    using T = decltype(zero);
    for_rows(uv.size(0), width, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* u = read<T>(uv) + i * 2 * width;
        T* to = static_cast<T*>(out.data_ptr()) + i * 2 * width;
        gelu_row_backward(read<T>(grad) + i * width, u, u + width, to, to + width, width);
      }
    });
  });
  return out;
}

Normed rms_norm_meta(const Tensor& x, double /*eps*/) {
  check_layer_floats("x", x, 2);
  return {at::empty_symint(x.sym_sizes(), x.options()),
          at::empty_symint({x.sym_size(0), 1}, x.options().dtype(at::kFloat))};
}

void rms_norm_backward_meta(const Tensor& grad_y, const Tensor& y, const Tensor& r, Tensor& grad) {
  check_norm_backward(grad_y, y, r, grad);
}

Tensor gated_gelu_meta(const Tensor& uv) {
  check_gelu(uv);
  return at::empty_symint({uv.sym_size(0), uv.sym_size(1) / 2}, uv.options());
}

Tensor gated_gelu_backward_meta(const Tensor& grad, const Tensor& uv) {
  check_gelu_backward(grad, uv);
  return at::empty_symint(uv.sym_sizes(), uv.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(compt_fast, library) {
  library.def("rms_norm(Tensor x, float eps) -> (Tensor y, Tensor r)");
  library.def("rms_norm_backward(Tensor grad_y, Tensor y, Tensor r, Tensor(a!) grad) -> ()");
  library.def("gated_gelu(Tensor uv) -> Tensor");
  library.def("gated_gelu_backward(Tensor grad, Tensor uv) -> Tensor");
}

TORCH_LIBRARY_IMPL(compt_fast, CPU, library) {
  library.impl("rms_norm", TORCH_FN(rms_norm_cpu));
  library.impl("rms_norm_backward", TORCH_FN(rms_norm_backward_cpu));
  library.impl("gated_gelu", TORCH_FN(gated_gelu_cpu));
  library.impl("gated_gelu_backward", TORCH_FN(gated_gelu_backward_cpu));
}

TORCH_LIBRARY_IMPL(compt_fast, Meta, library) {
  library.impl("rms_norm", TORCH_FN(rms_norm_meta));
  library.impl("rms_norm_backward", TORCH_FN(rms_norm_backward_meta));
  library.impl("gated_gelu", TORCH_FN(gated_gelu_meta));
  library.impl("gated_gelu_backward", TORCH_FN(gated_gelu_backward_meta));
}

TORCH_LIBRARY_IMPL(compt_fast, Autograd, library) {
  for (const char* name : {"rms_norm", "rms_norm_backward", "gated_gelu", "gated_gelu_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&without_derivative>());
  }
}

}  // namespace compt_fast

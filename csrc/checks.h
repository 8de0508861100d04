// What every operator asks of its arguments before a kernel sees them. Messages name the argument
// that is wrong and say what would be right; all are ValueError in Python.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <utility>

#define CHECK_ARGUMENT(condition, ...) TORCH_CHECK_VALUE(condition, "compt_fast operator: ", __VA_ARGS__)
// For sizes: a guard or a runtime assertion where they are symbols.
#define CHECK_SIZE(condition, ...) CHECK_ARGUMENT((condition).expect_true(__FILE__, __LINE__), __VA_ARGS__)

namespace c10 {
class OperatorHandle;
}

namespace compt_fast {

// Type and dimensions alone, which tensors without data have too. Floats are float32, float64,
// bfloat16 and float16.
void check_floats(const char* name, const at::Tensor& tensor, int64_t dimensions);
void check_index(const char* name, const at::Tensor& tensor);

// The same, of float32 or bfloat16: what the operators inside a frozen layer take.
void check_layer_floats(const char* name, const at::Tensor& tensor, int64_t dimensions);

// f with a zero of the type of a tensor that passed check_layer_floats.
template <typename F>
void with_type(const at::Tensor& tensor, F&& f) {
  if (tensor.scalar_type() == at::kFloat) {
    f(float{});
  } else {
    f(c10::BFloat16{});
  }
}

void check_device(const char* name, const at::Tensor& tensor, at::Device device);

// That there is storage for all that the tensor shows.
void check_storage(const char* name, const at::Tensor& tensor);
// That, and that nothing lies between its elements.
void check_dense(const char* name, const at::Tensor& tensor);

// That `written`, which an operator writes into, shares no memory with what it reads; all of them dense, on the host.
void check_apart(const char* name, const at::Tensor& written,
                 std::initializer_list<std::pair<const char*, const at::Tensor*>> read);

// For contiguous vectors on the host: cu_seqlens ascend from 0 to `end`, ids are within 0 ... below - 1.
void check_cu_seqlens(const char* name, const at::Tensor& cu_seqlens, int64_t end, const char* of_what);
void check_range(const char* name, const at::Tensor& ids, int64_t below, const char* of_what);

// For an operator's Autograd kernel: what is not differentiated is refused, never lost.
void refuse_tangents(std::initializer_list<const at::Tensor*> tensors);
void refuse_gradient(const char* name, const at::Tensor& tensor, const char* why);
[[noreturn]] void refuse_second_derivative();

// The Autograd kernel of operators that have none of their own: on to the device's, unless a derivative
// would get lost.
void without_derivative(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack);

}  // namespace compt_fast

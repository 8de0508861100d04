#include "checks.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>

namespace compt_fast {

void check_floats(const char* name, const at::Tensor& tensor, int64_t dimensions) {
  const at::ScalarType type = tensor.scalar_type();
  const bool right = type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf;
  CHECK_ARGUMENT(tensor.layout() == at::kStrided && tensor.dim() == dimensions && right, name,
                 " must be a dense tensor of ", dimensions, " dimensions of float32, float64, bfloat16 or float16, got ",
                 type, " of ", tensor.dim(), " dimensions, layout ", tensor.layout());
}

void check_index(const char* name, const at::Tensor& tensor) {
  CHECK_ARGUMENT(tensor.layout() == at::kStrided && tensor.dim() == 1 && tensor.scalar_type() == at::kLong, name,
                 " must be a dense int64 vector, got ", tensor.scalar_type(), " of ", tensor.dim(),
                 " dimensions, layout ", tensor.layout());
}

void check_layer_floats(const char* name, const at::Tensor& tensor, int64_t dimensions) {
  check_floats(name, tensor, dimensions);
  CHECK_ARGUMENT(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16, name,
                 " must be float32 or bfloat16, got ", tensor.scalar_type());
}

void check_device(const char* name, const at::Tensor& tensor, at::Device device) {
  CHECK_ARGUMENT(tensor.device() == device, name, " must be on ", device, ", got ", tensor.device());
}

void check_storage(const char* name, const at::Tensor& tensor) {
  const size_t needed =
      at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.itemsize(), tensor.storage_offset());
  CHECK_ARGUMENT(tensor.numel() == 0 || tensor.storage().nbytes() >= needed, name, " needs ", needed,
                 " bytes of storage, and its storage holds ", tensor.storage().nbytes());
}

void check_dense(const char* name, const at::Tensor& tensor) {
  check_storage(name, tensor);
  CHECK_ARGUMENT(tensor.is_contiguous(), name, " must be contiguous, got strides ", tensor.strides());
}

void check_apart(const char* name, const at::Tensor& written,
                 std::initializer_list<std::pair<const char*, const at::Tensor*>> read) {
  const auto begin = [](const at::Tensor& tensor) { return static_cast<const char*>(tensor.const_data_ptr()); };
  for (const auto& [other_name, other] : read) {
    const bool empty = written.numel() == 0 || other->numel() == 0;
    const bool apart = empty || begin(written) + written.nbytes() <= begin(*other) ||
                       begin(*other) + other->nbytes() <= begin(written);
    CHECK_ARGUMENT(apart, name, " is written to, and must not share memory with ", other_name);
  }
}

void check_cu_seqlens(const char* name, const at::Tensor& cu_seqlens, int64_t end, const char* of_what) {
  const int64_t* at = cu_seqlens.const_data_ptr<int64_t>();
  const int64_t n = cu_seqlens.numel() - 1;
  CHECK_ARGUMENT(at[0] == 0 && at[n] == end, name, " must ascend from 0 to ", end, ", the ", of_what, ", got ", at[0],
                 " to ", at[n]);
  for (int64_t i = 0; i < n; ++i) {
    CHECK_ARGUMENT(at[i] <= at[i + 1], name, " must ascend, got ", at[i], " before ", at[i + 1], " at ", i);
  }
}

void check_range(const char* name, const at::Tensor& ids, int64_t below, const char* of_what) {
  const int64_t* at = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    CHECK_ARGUMENT(at[i] >= 0 && at[i] < below, name, "[", i, "] is ", at[i], ", and there are ", below, " ", of_what);
  }
}

void refuse_tangents(std::initializer_list<const at::Tensor*> tensors) {
  for (const at::Tensor* tensor : tensors) {
    TORCH_CHECK_NOT_IMPLEMENTED(!tensor->_fw_grad(/*level=*/0).defined(),
                                "compt_fast operator: forward-mode derivatives are not implemented");
  }
}

void refuse_gradient(const char* name, const at::Tensor& tensor, const char* why) {
  CHECK_ARGUMENT(!(c10::GradMode::is_enabled() && tensor.requires_grad()), name, " must not require a gradient: ", why);
}

void refuse_second_derivative() {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "compt_fast operator: second derivatives are not implemented");
}

void without_derivative(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const c10::IValue& given = torch::jit::peek(*stack, i, arguments.size());
    if (!given.isTensor()) {
      continue;
    }
    const at::Tensor& tensor = given.toTensor();
    refuse_gradient(arguments[i].name().c_str(), tensor, "this operator is the inside of a frozen layer");
    refuse_tangents({&tensor});
    if (arguments[i].alias_info() != nullptr) {
      tensor.unsafeGetTensorImpl()->bump_version();
    }
  }
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

}  // namespace compt_fast

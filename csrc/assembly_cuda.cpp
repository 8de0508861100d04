// The assembly operator's CUDA half: what torch needs around the kernels of assembly_cuda.cu.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "assembly_checks.h"
#include "assembly_cuda.h"
#include "checks.h"

namespace compt_fast {
namespace {

using at::Tensor;

// A copy from pageable memory: the host's tensor may be gone, or changed, when this returns.
Tensor onto(at::Device device, const Tensor& tensor) {
  return tensor.device() == device ? tensor : tensor.to(device, /*non_blocking=*/true);
}

std::tuple<Tensor, Tensor> assemble_on_cuda(const Tensor& prompts, const Tensor& prompt_offsets, const Tensor& slots,
                                            const Tensor& token_ids, const Tensor& row_offsets,
                                            const Tensor& embedding, bool prepend, MaybeSize total) {
  Inputs in{prompts, prompt_offsets, slots, token_ids, row_offsets, embedding};
  check_shapes(in, total);
  check_memory(in);
  const at::Device device = in.prompts.device();
  const c10::cuda::CUDAGuard guard(device);
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();

  Tensor packed_offsets;
  int64_t rows = 0;
  if (in.row_offsets.is_cpu()) {
    packed_offsets = checked_packed_offsets(in);
    rows = checked_total(packed_offsets, total);
    in.prompt_offsets = onto(device, in.prompt_offsets);
    in.slots = onto(device, in.slots);
    in.row_offsets = onto(device, in.row_offsets);
  } else {
    CHECK_ARGUMENT(total, "total must be given where row_offsets is on ", device,
                   ": reading it there would wait for the device");
    rows = total->expect_int();
    packed_offsets = at::empty(in.row_offsets.sizes(), in.row_offsets.options());
    C10_CUDA_CHECK(packed_offsets_cuda(in.prompt_offsets.const_data_ptr<int64_t>(), in.prompt_offsets.numel() - 1,
                                       in.slots.const_data_ptr<int64_t>(), in.row_offsets.const_data_ptr<int64_t>(),
                                       in.slots.numel(), packed_offsets.mutable_data_ptr<int64_t>(), stream));
  }
  const Tensor packed = at::empty({rows, embedding.size(1)}, embedding.options());
  if (packed.numel() > 0) {
    C10_CUDA_CHECK(assemble_cuda(assembly_of(in, onto(device, packed_offsets), packed, prepend), stream));
  }
  return {packed, packed_offsets};
}

Tensor assemble_backward_on_cuda(const Tensor& grad, const Tensor& prompt_offsets, const Tensor& slots,
                                 const Tensor& packed_offsets, c10::SymInt prompt_rows, bool prepend) {
  GradInputs in{grad, prompt_offsets, slots, packed_offsets};
  check_shapes(in, prompt_rows);
  check_memory(in);
  const at::Device device = in.grad.device();
  const c10::cuda::CUDAGuard guard(device);
  const int64_t rows = prompt_rows.expect_int();
  if (in.packed_offsets.is_cpu()) {
    check_values(in, rows);
    in.prompt_offsets = onto(device, in.prompt_offsets);
    in.slots = onto(device, in.slots);
    in.packed_offsets = onto(device, in.packed_offsets);
  }
  const Tensor out = at::empty({rows, grad.size(1)}, grad.options().dtype(sum_type(grad)));
  if (out.numel() > 0) {
    C10_CUDA_CHECK(reduce_cuda(reduction_of(in, out, prepend), c10::cuda::getCurrentCUDAStream()));
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(compt_fast, CUDA, library) {
  library.impl("assemble", TORCH_FN(assemble_on_cuda));
  library.impl("assemble_backward", TORCH_FN(assemble_backward_on_cuda));
}

}  // namespace compt_fast

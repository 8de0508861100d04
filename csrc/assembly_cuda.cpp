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

std::tuple<Tensor, Tensor> assemble_on_cuda(const Tensor& prompts, const Tensor& prompt_cu_seqlens, const Tensor& slots,
                                            const Tensor& token_ids, const Tensor& input_cu_seqlens,
                                            const Tensor& embedding, bool prepend, MaybeSize total) {
  Inputs in{prompts, prompt_cu_seqlens, slots, token_ids, input_cu_seqlens, embedding};
  check_shapes(in, total);
  check_memory(in);
  const at::Device device = in.prompts.device();
  const c10::cuda::CUDAGuard guard(device);
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();

  Tensor packed_cu_seqlens;
  int64_t rows = 0;
  if (in.input_cu_seqlens.is_cpu()) {
    packed_cu_seqlens = checked_packed_cu_seqlens(in);
    rows = checked_total(packed_cu_seqlens, total);
    in.prompt_cu_seqlens = onto(device, in.prompt_cu_seqlens);
    in.slots = onto(device, in.slots);
    in.input_cu_seqlens = onto(device, in.input_cu_seqlens);
  } else {
    CHECK_ARGUMENT(total, "total must be given where input_cu_seqlens is on ", device,
                   ": reading it there would wait for the device");
    rows = total->expect_int();
    packed_cu_seqlens = at::empty(in.input_cu_seqlens.sizes(), in.input_cu_seqlens.options());
    C10_CUDA_CHECK(packed_cu_seqlens_cuda(
        in.prompt_cu_seqlens.const_data_ptr<int64_t>(), in.prompt_cu_seqlens.numel() - 1,
        in.slots.const_data_ptr<int64_t>(), in.input_cu_seqlens.const_data_ptr<int64_t>(), in.slots.numel(),
        packed_cu_seqlens.mutable_data_ptr<int64_t>(), stream));
  }
  const Tensor packed = at::empty({rows, embedding.size(1)}, embedding.options());
  if (packed.numel() > 0) {
    C10_CUDA_CHECK(assemble_cuda(assembly_of(in, onto(device, packed_cu_seqlens), packed, prepend), stream));
  }
  return {packed, packed_cu_seqlens};
}

Tensor assemble_backward_on_cuda(const Tensor& grad, const Tensor& prompt_cu_seqlens, const Tensor& slots,
                                 const Tensor& packed_cu_seqlens, c10::SymInt prompt_rows, bool prepend) {
  GradInputs in{grad, prompt_cu_seqlens, slots, packed_cu_seqlens};
  check_shapes(in, prompt_rows);
  check_memory(in);
  const at::Device device = in.grad.device();
  const c10::cuda::CUDAGuard guard(device);
  const int64_t rows = prompt_rows.expect_int();
  if (in.packed_cu_seqlens.is_cpu()) {
    check_values(in, rows);
    in.prompt_cu_seqlens = onto(device, in.prompt_cu_seqlens);
    in.slots = onto(device, in.slots);
    in.packed_cu_seqlens = onto(device, in.packed_cu_seqlens);
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

#pragma once

#include <cuda_runtime.h>

#include "assembly.h"

namespace compt_fast {

// All pointers are on the current device. Values of cu_seqlens, slots and ids are not trusted: nothing
// outside the tensors is read or written whatever they are, and packed rows that they leave without
// a source become NaN.

// Fill packed_cu_seqlens (rows + 1).
cudaError_t packed_cu_seqlens_cuda(const int64_t* prompt_cu_seqlens, int64_t slot_count, const int64_t* slots,
                                const int64_t* input_cu_seqlens, int64_t rows, int64_t* packed_cu_seqlens,
                                cudaStream_t stream);

// Fill job.packed.
cudaError_t assemble_cuda(const Assembly& job, cudaStream_t stream);

// Fill job.out.
cudaError_t reduce_cuda(const Reduction& job, cudaStream_t stream);

}  // namespace compt_fast

"""The compiled operators: found, built at first use, loaded. `compt_fast.ops` calls them.

`load()` says whether `torch.ops.compt_fast` can be called, and builds it at first use.

    packed, packed_cu_seqlens = assemble(
        prompts, prompt_cu_seqlens, slots, token_ids, input_cu_seqlens, embedding, prepend, total=None
    )

Row b of the packed encoder input is the prompt of slot `slots[b]` and the embeddings of row b's
tokens, in that order with `prepend`, else the other way round.

    prompts            (P, d)  any float dtype, any strides; differentiable
    prompt_cu_seqlens  (S+1,)  int64; slot s owns prompts[prompt_cu_seqlens[s]:prompt_cu_seqlens[s+1]]
    slots              (B,)    int64, 0 <= slots[b] < S
    token_ids          (N,)    int64, 0 <= id < V; on the device of `prompts`
    input_cu_seqlens   (B+1,)  int64; row b reads token_ids[input_cu_seqlens[b]:input_cu_seqlens[b+1]]
    embedding          (V, d)  the trunk's dtype; frozen (an error when it requires a gradient)
    total              int     rows of `packed`; None: exactly those needed (cu_seqlens are then on the CPU)
    packed             (total, d) in embedding's dtype; rows behind packed_cu_seqlens[B] are zero
    packed_cu_seqlens  (B+1,)  int64, on the device of `input_cu_seqlens`

`prompt_cu_seqlens`, `slots` and `input_cu_seqlens` lie together on the CPU, or together on the device of
`prompts`. On the CPU all cu_seqlens, every slot and (where the tokens are there too) id is checked. On a
CUDA device nothing waits for the host: `total` must be given, a bad slot or id makes its rows NaN,
and the call can be captured in a CUDA graph. `torch.compile` and `torch.export` need `total` too,
and on CUDA all tensors on the device.

    out, lse = packed_attention(qkv, cu_seqlens, bias)

    qkv         (N, 3, H, D)  bf16 or fp32, contiguous: the fused projection; differentiable
    cu_seqlens  (B+1,)        int64 on the CPU; row b attends within qkv[cu_seqlens[b]:cu_seqlens[b+1]]
    bias        (H, 2 W - 1)  fp32: bias[h, W - 1 + key - query] is added to the score; frozen; W is at
                              least the longest row
    out         (N, H, D)     qkv's dtype; softmax(q k^T + bias) v, unscaled as in T5
    lse         (N, H)        fp32; the logarithm of the softmax's denominator

Sums and softmax are in fp32; with bf16 the probabilities are rounded to bf16 before they meet v.

For the inside of a frozen layer's own backward there are besides, on the CPU, under
`torch.ops.compt_fast` and where `load()` is true; all tensors are contiguous, bf16 or fp32 with fp32
inside, and all but the first refuse what requires a gradient:

    packed_attention_backward(grad_out, qkv, lse, cu_seqlens, bias) -> grad_qkv
    product(x (N, k), weight, back=False, relu=False) -> (N, m)  x weight^T, weight (m, k), or with `back` x weight,
                                                                weight (k, m); with `relu` what is above 0 of it
    product_where(x (N, k), weight (k, m), inner (N, m))        x weight where inner is above 0, else 0
    product_add(x (N, k), weight (m, k), total (N, m))          total += x weight^T, in place, rounded once
    pack_int8(weight (m, k) int8) -> panels                     as products in int8 want it: int32, of no other use
    product_int8(x (N, k), panels, steps (m,) fp32, relu=False) -> (N, m)
                                                                round(x / s) weight^T s steps, s = max|x| / 127 by row
    product_int8_add(x (N, k), panels, steps, total (N, m))     total += that, in place
    pack_int16(weight (H, m, k) int8) -> panels                 the same for x in int16
    product_int16(x (N, H, k), panels, steps (H, m) fp32) -> (N, H, m)
                                                                as product_int8 by H, with s = max|x| / limit, limit
                                                                as many steps as 127 of each leave room for in int32
    has_products(dtype) -> bool                                 whether these are quick on this processor
    rms_norm(x (N, d), eps) -> y (N, d), r (N, 1) fp32          r = rsqrt(mean(x^2) + eps), y = x r
    rms_norm_backward(grad_y, y, r, grad)                       grad += r (grad_y - y mean(grad_y y)), in place
    gated_gelu(uv (N, 2f)) -> (N, f)                            gelu(u) v, the tanh form of the gelu
    gated_gelu_backward(grad (N, f), uv) -> grad_uv (N, 2f)
    pack_states(states (N, d), cu_seqlens) -> packed            the states as later products want them: int32, of
                                                                no meaning elsewhere, fit for one processor
    cross_attention(queries (M, d), packed, cu_seqlens_q, cu_seqlens_k) -> out (M, d), lse (M,) fp32
                                                                softmax(q states^T) states within each row
    cross_attention_backward(grad_out, queries, lse, packed, cu_seqlens_q, cu_seqlens_k, grad_states) -> grad_queries
                                                                grad_states (N, d) fp32 is added to in place

What is added to in place shares no memory with another argument (ValueError).

A process that has computed on several threads, by these operators or by torch's own, must not fork: the
threads that GNU's OpenMP keeps do not exist in the child, and its first parallel loop waits for them for
ever. Start children by multiprocessing's `spawn` or `forkserver`, or call `torch.set_num_threads(1)` in them
before anything else, as torch's `DataLoader` does in its workers.
"""

from __future__ import annotations

from compt_fast.native.library import Status, has_cuda, keep_quiet, load, status

__all__ = ["Status", "has_cuda", "keep_quiet", "load", "status"]

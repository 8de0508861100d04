"""The compiled operators, and the same in plain PyTorch where they are not to be had.

    packed, packed_offsets = assemble(
        prompts, prompt_offsets, slots, token_ids, row_offsets, embedding, prepend, total=None
    )

Row b of the packed encoder input is the prompt of slot `slots[b]` and the embeddings of row b's
tokens, in that order with `prepend`, else the other way round.

    prompts         (P, d)   any float dtype, any strides; differentiable
    prompt_offsets  (S+1,)   int64; slot s owns prompts[prompt_offsets[s]:prompt_offsets[s+1]]
    slots           (B,)     int64, 0 <= slots[b] < S
    token_ids       (N,)     int64, 0 <= id < V; on the device of `prompts`
    row_offsets     (B+1,)   int64; row b reads token_ids[row_offsets[b]:row_offsets[b+1]]
    embedding       (V, d)   the trunk's dtype; frozen (an error when it requires a gradient)
    total           int      rows of `packed`; None: exactly those needed (the offsets are then on the CPU)
    packed          (total, d) in embedding's dtype; rows behind packed_offsets[B] are zero
    packed_offsets  (B+1,)   int64, on the device of `row_offsets`

`prompt_offsets`, `slots` and `row_offsets` lie together on the CPU, or together on the device of
`prompts`. On the CPU every offset, slot and (where the tokens are there too) id is checked. On a
CUDA device nothing waits for the host: `total` must be given, a bad slot or id makes its rows NaN,
and the call can be captured in a CUDA graph. `torch.compile` and `torch.export` need `total` too,
and on CUDA all tensors on the device.

    out, lse = packed_attention(qkv, row_offsets, bias)
    grad_qkv = packed_attention_backward(grad_out, qkv, out, lse, row_offsets, bias)

    qkv          (N, 3, H, D)  bf16 or fp32, contiguous: the fused projection; differentiable
    row_offsets  (B+1,)        int64 on the CPU; row b attends within qkv[row_offsets[b]:row_offsets[b+1]]
    bias         (H, 2 W - 1)  fp32: bias[h, W - 1 + key - query] is added to the score; frozen; W is
                               at least the longest row
    out          (N, H, D)     qkv's dtype; softmax(q k^T + bias) v, unscaled as in T5, fp32 inside
    lse          (N, H)        fp32; the logarithm of the softmax's denominator
"""

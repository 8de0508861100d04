"""A whole T5 with the target prompts and labels of some tasks, in TorchScript: rows in, answers and scores out."""

# No postponed annotations: TorchScript takes those of a module's attributes for types.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compt_fast.models.engines.fast import ABSORBED_ELEMENTS
from compt_fast.models.scripted.attention import Encoded, encoded, selected
from compt_fast.models.scripted.layers import Decoder, Encoder
from compt_fast.models.scripted.products import How, how_for, linear, rms_norm
from compt_fast.models.scripted.rows import (
    chunks_by_scores,
    chunks_by_tokens,
    cu_seqlens_of,
    distances,
    no_padding,
    padding_of,
    ranges,
)
from compt_fast.models.t5.decode import Trie
from compt_fast.models.t5.head import CHUNK_ELEMENTS
from compt_fast.models.t5.weights import Weights
from compt_fast.ops import varlen


@dataclass(frozen=True)
class ScriptedTask:
    """What a file holds of one task: what stands before each of a row's texts, how many tokens of them are kept, its
    target prompt (L, d) of any float dtype, its labels as texts and as token ids, each with its </s>, the most tokens
    that are read of what the trunk writes, and the task's own words for its labels.
    """

    name: str
    before: Sequence[str]
    max_source_length: int
    prompt: Tensor
    labels: Sequence[str]
    label_ids: Sequence[Sequence[int]]
    max_new_tokens: int
    words: Sequence[str]


class ScriptedTrunk(nn.Module):
    """Answers rows of T tasks. `token_ids` (N,) int64 are all rows' tokens, each row's with </s>, `cu_seqlens` (B+1,)
    int64 the rows' cumulative lengths, and `tasks` (B,) int64 each row's task; they may lie on any device.

    Raises for whatever of these does not fit, naming it. All results lie on the CPU.
    """

    embedding: Tensor
    head: Tensor
    head_scale: Tensor
    encoder_bias: Tensor
    decoder_bias: Tensor
    prompts: Tensor
    prompt_cu_seqlens: Tensor
    trie_cu_seqlens: Tensor
    trie_tokens: Tensor
    trie_depths: Tensor
    trie_paths: Tensor
    label_cu_seqlens: Tensor
    step_cu_seqlens: Tensor
    step_nodes: Tensor
    step_tokens: Tensor

    def __init__(
        self, weights: Weights, tasks: Sequence[ScriptedTask], start_id: int, end_id: int, prepend: bool
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.eps = weights.heads, weights.head_dim, weights.eps
        self.start_id, self.end_id, self.prepend = start_id, end_id, prepend
        self.absorbed_elements, self.logits_elements, self.masked = ABSORBED_ELEMENTS, CHUNK_ELEMENTS, varlen.MASKED
        self.max_new_tokens = [task.max_new_tokens for task in tasks]
        self.task_names = [task.name for task in tasks]
        self.before = [list(task.before) for task in tasks]
        self.max_source_lengths = [task.max_source_length for task in tasks]
        self.labels = [list(task.labels) for task in tasks]
        self.words = [list(task.words) for task in tasks]
        self.encoder = nn.ModuleList(Encoder(layer, weights) for layer in weights.encoder)
        self.decoder = nn.ModuleList(Decoder(layer, weights, depth) for depth, layer in enumerate(weights.decoder))
        self.register_buffer("embedding", weights.embedding)
        self.register_buffer("head", weights.head.weight)
        self.register_buffer("head_scale", weights.head_scale)
        for name, bias in (("encoder_bias", weights.encoder_bias), ("decoder_bias", weights.decoder_bias)):
            # beyond `max_distance` all keys share a bucket
            self.register_buffer(name, bias.by_distance(bias.max_distance + 1))
        self.register_buffer("prompts", torch.cat([task.prompt for task in tasks]).to(weights.embedding))
        for name, constant in _constants(tasks, start_id).items():
            self.register_buffer(name, constant)

    def forward(self, token_ids: Tensor, cu_seqlens: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`answer` and `score` of the same rows, which are encoded once."""
        states, cu, tasks = self._encode(token_ids, cu_seqlens, tasks)
        answers, answer_cu_seqlens = self._greedy(states, cu, tasks)
        scores, score_cu_seqlens = self._rank(states, cu, tasks)
        return answers, answer_cu_seqlens, scores, score_cu_seqlens

    @torch.jit.export
    def answer(self, token_ids: Tensor, cu_seqlens: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's greedy answer: token ids (n,) int64 of all rows without </s>, and cumulative lengths (B+1,)."""
        states, cu, tasks = self._encode(token_ids, cu_seqlens, tasks)
        return self._greedy(states, cu, tasks)

    @torch.jit.export
    def score(self, token_ids: Tensor, cu_seqlens: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """The log-likelihood in nats of each of a row's labels, (n,) fp32 of all rows, and cumulative counts (B+1,)."""
        states, cu, tasks = self._encode(token_ids, cu_seqlens, tasks)
        return self._rank(states, cu, tasks)

    def _encode(self, token_ids: Tensor, cu_seqlens: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The encoder's states (N, d), the rows' cumulative lengths in them, prompts and all, and tasks on the host."""
        cu_seqlens, tasks = cu_seqlens.cpu(), tasks.cpu()
        self._check(token_ids, cu_seqlens, tasks)
        how = how_for(self.embedding)
        token_ids = token_ids.to(self.embedding.device)
        prompt_cu_seqlens = self.prompt_cu_seqlens.cpu()
        cu = cu_seqlens_of(cu_seqlens.diff() + prompt_cu_seqlens.diff()[tasks])
        if how.host:
            inputs = torch.ops.compt_fast.assemble(
                self.prompts, prompt_cu_seqlens, tasks, token_ids, cu_seqlens, self.embedding, self.prepend, None
            )[0]
        else:
            inputs = self._assembled(token_ids, cu_seqlens.diff(), tasks, prompt_cu_seqlens, cu)
        chunks = chunks_by_tokens(cu) if how.host else chunks_by_scores(cu, self.heads)
        states = torch.empty_like(inputs)
        for first, last in chunks:
            own = cu[first : last + 1]
            states[int(own[0]) : int(own[-1])] = self._encode_chunk(inputs, own, how)
        return states, cu, tasks

    def _check(self, token_ids: Tensor, cu_seqlens: Tensor, tasks: Tensor) -> None:
        """Raise for arguments that are no rows."""
        for name, x in (("token_ids", token_ids), ("cu_seqlens", cu_seqlens), ("tasks", tasks)):
            if x.dtype != torch.int64 or x.dim() != 1:
                raise ValueError(f"{name} must be a one-dimensional int64 tensor")
        if len(tasks) == 0 or len(cu_seqlens) != len(tasks) + 1:
            raise ValueError(f"{len(tasks)} tasks and {len(cu_seqlens)} cumulative lengths: B of B rows, and B+1")
        if int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) != len(token_ids) or int(cu_seqlens.diff().min()) < 1:
            raise ValueError(f"cu_seqlens must ascend from 0 to {len(token_ids)}; no row is empty")
        count = len(self.prompt_cu_seqlens) - 1
        if int(tasks.min()) < 0 or int(tasks.max()) >= count:
            raise ValueError(f"tasks are numbers from 0 to {count - 1}")
        if int(token_ids.min()) < 0 or int(token_ids.max()) >= len(self.embedding):
            raise ValueError(f"token_ids are numbers from 0 to {len(self.embedding) - 1}")

    def _assembled(
        self, token_ids: Tensor, text_lengths: Tensor, tasks: Tensor, prompt_cu_seqlens: Tensor, cu: Tensor
    ) -> Tensor:
        """What the operator `assemble` makes, (N, d)."""
        prompt_lengths, starts, device = prompt_cu_seqlens.diff()[tasks], cu[:-1], token_ids.device
        prompt_starts = starts if self.prepend else starts + text_lengths
        text_starts = starts + prompt_lengths if self.prepend else starts
        packed = self.embedding.new_empty([int(cu[-1]), self.embedding.shape[1]])
        packed[ranges(text_starts, text_lengths).to(device)] = self.embedding[token_ids]
        rows = ranges(prompt_cu_seqlens[tasks], prompt_lengths).to(device)
        packed[ranges(prompt_starts, prompt_lengths).to(device)] = self.prompts[rows]
        return packed

    def _encode_chunk(self, inputs: Tensor, cu: Tensor, how: How) -> Tensor:
        """The states (n, d) of consecutive rows, of cumulative lengths `cu` within all inputs (N, d)."""
        x = inputs[int(cu[0]) : int(cu[-1])].clone()
        cu = cu - cu[0]
        longest = int(cu.diff().max())
        bias = distances(self.encoder_bias, torch.arange(1 - longest, longest))
        padding = no_padding() if how.host else padding_of(cu, x.device)
        for layer in self.encoder:
            layer(x, cu, bias, padding, how)
        return rms_norm(x, self.eps, how)

    def _cross(self, states: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, times: int, how: How) -> Encoded:
        """Absorbed or projected keys and values, whichever takes fewer products if each query asks `times` times."""
        queries, keys = cu_seqlens_q.diff() * times, cu_seqlens_k.diff()
        count, pairs = int(queries.sum()), int((queries * keys).sum())
        inner, width = self.heads * self.head_dim, states.shape[1]
        absorbed = count * inner * width + pairs * self.heads * width
        pays = absorbed <= len(states) * inner * width + pairs * inner
        return encoded(states, cu_seqlens_q, cu_seqlens_k, pays, [], self.heads, how)

    def _decode(
        self,
        ids: Tensor,
        bias: Tensor,
        paths: Tensor | None,
        written: int,
        cache: list[Tensor],
        of: Encoded,
        how: How,
    ) -> Tensor:
        """The decoder's states (M, d), as the head reads them, of input ids (M,); arguments as of `layers.Decoder`."""
        x = F.embedding(ids, self.embedding)
        for layer in self.decoder:
            layer(x, bias, paths, written, cache, of, how)
        return (rms_norm(x, self.eps, how) * self.head_scale).to(x.dtype)

    def _greedy(self, states: Tensor, cu: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """`answer` of rows whose states are known."""
        how, count, device = how_for(states), len(cu) - 1, states.device
        most = torch.tensor(self.max_new_tokens)[tasks]
        longest = int(most.max())
        of = self._cross(states, torch.arange(count + 1), cu, longest, how)
        rows, written = torch.arange(count), torch.full([count, longest], -1)
        ids = torch.full([count], self.start_id, device=device)
        cache: list[Tensor] = []
        bias = distances(self.decoder_bias, torch.arange(1 - longest, longest))
        for step in range(longest):
            here = bias if how.host else bias[None, :, None, longest - 1 - step : longest]
            out = self._decode(ids, here, None, step, cache, of, how)
            ids = linear(out, self.head, how).float().argmax(1)
            tokens = ids.cpu()
            going = torch.nonzero(tokens != self.end_id)[:, 0]
            written[rows[going], step] = tokens[going]
            if len(going) == 0 or step == longest - 1:
                break
            if len(going) < len(rows):
                of, rows = selected(of, going, self.heads, how), rows[going]
                chosen = going.to(device)
                cache = [kv[chosen] for kv in cache]
                ids = ids[chosen]
        read = (written >= 0) & (torch.arange(longest)[None] < most[:, None])
        return written[read], cu_seqlens_of(read.sum(1))

    def _rank(self, states: Tensor, cu: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """`score` of rows whose states are known: some rows at a time, to bound what their queries take."""
        how = how_for(states)
        nodes = self.trie_cu_seqlens.cpu().diff()[tasks]
        most = max(1, self.absorbed_elements // (self.heads * states.shape[1]))
        scores: list[Tensor] = []
        of = self._cross(states, cu_seqlens_of(nodes), cu, 1, how)
        parts = chunks_by_tokens(cu_seqlens_of(nodes), most)
        for first, last in parts:
            part = of if len(parts) == 1 else selected(of, torch.arange(first, last), self.heads, how)
            scores.append(self._rank_part(tasks[first:last], part, how))
        return torch.cat(scores), cu_seqlens_of(self.label_cu_seqlens.cpu().diff()[tasks])

    def _rank_part(self, tasks: Tensor, of: Encoded, how: How) -> Tensor:
        """The log-likelihoods (n,) fp32 on the host of all labels of the rows of `of`."""
        device, trie, labels = of.states.device, self.trie_cu_seqlens.cpu(), self.label_cu_seqlens.cpu()
        nodes, counts, starts = trie.diff()[tasks], labels.diff()[tasks], of.cu_seqlens_q[:-1]
        at = ranges(trie[tasks], nodes).to(device)
        paths = self.trie_paths[at] + torch.repeat_interleave(starts, nodes)[:, None].to(device)
        out = self._decode(self.trie_tokens[at], self._path_bias(self.trie_depths[at]), paths, 0, [], of, how)
        own = ranges(labels[tasks], counts)
        steps = self.step_cu_seqlens.cpu()
        lengths = steps.diff()[own]
        chosen = ranges(steps[own], lengths)
        first = torch.repeat_interleave(torch.repeat_interleave(starts, counts), lengths)
        found = self._log_likelihoods(out, self.step_nodes.cpu()[chosen] + first, self.step_tokens.cpu()[chosen], how)
        return torch.segment_reduce(found, "sum", lengths=lengths)

    def _path_bias(self, depths: Tensor) -> Tensor:
        """The bias (M, H, 1, P) of tokens at `depths` (M,) to their paths, which end where they stand."""
        steps = torch.arange(self.trie_paths.shape[1], device=depths.device)
        away = steps[None] - depths[:, None]
        bias = distances(self.decoder_bias, away).transpose(0, 1)
        return bias.masked_fill((away > 0)[:, None], self.masked)[:, :, None]

    def _log_likelihoods(self, out: Tensor, at: Tensor, ids: Tensor, how: How) -> Tensor:
        """The log-probability in nats of token `ids[i]` behind state `at[i]` of `out` (M, d): (n,) fp32 on the host."""
        scored = torch.empty([len(ids)])
        size = max(1, self.logits_elements // len(self.head))
        for start in range(0, len(out), size):
            here = torch.nonzero((at >= start) & (at < start + size))[:, 0]
            scores = torch.log_softmax(linear(out[start : start + size], self.head, how), 1, dtype=torch.float32)
            scored[here] = scores[(at[here] - start).to(out.device), ids[here].to(out.device)].cpu()
        return scored


def _constants(tasks: Sequence[ScriptedTask], start_id: int) -> dict[str, Tensor]:
    """All integers of a file: whose prompt rows, label tries and labels are whose."""
    tries = [Trie.of(task.label_ids, start_id) for task in tasks]
    paths = [path for trie in tries for path in trie.paths]
    longest = max(map(len, paths))
    steps = [candidate for trie in tries for candidate in trie.steps]
    flat = [step for candidate in steps for step in candidate]
    return {
        "prompt_cu_seqlens": varlen.cu_seqlens_of([len(task.prompt) for task in tasks]),
        "trie_cu_seqlens": varlen.cu_seqlens_of([len(trie.tokens) for trie in tries]),
        "trie_tokens": torch.tensor([token for trie in tries for token in trie.tokens]),
        "trie_depths": torch.tensor([len(path) - 1 for path in paths]),
        "trie_paths": torch.tensor([[*path, *path[-1:] * (longest - len(path))] for path in paths]),
        "label_cu_seqlens": varlen.cu_seqlens_of([len(trie.steps) for trie in tries]),
        "step_cu_seqlens": varlen.cu_seqlens_of([len(candidate) for candidate in steps]),
        "step_nodes": torch.tensor([node for node, _ in flat]),
        "step_tokens": torch.tensor([token for _, token in flat]),
    }

"""Teachers: other prompts, whose answers to the same rows a prompt learns from (MPT, arXiv 2303.02861, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.models.padding import LabelPlaces


@dataclass(frozen=True)
class Teachers:
    """The teachers of n rows of a batch; all but `prompts` on the CPU.

    rows (n,) int64, ascending, are those rows, and slots (n,) int64 say which of the `prompts` teaches each. The loss
    of such a row, summed over its label's M tokens like its cross-entropy, is more by

        weight * temperature^2 * sum_k KL(softmax(t_k / temperature) || softmax(s_k / temperature))
        + hidden * M * (the mean square of H - H', of the encoder, and that of the decoder)

    with s and H the logits and last hidden states under the row's own prompt, and t and H' those under its teacher,
    which take no gradient. weight, temperature and hidden are (n,) fp32. The paper's lambda stands for weight and
    hidden; that the divergence is multiplied by temperature^2 (Hinton et al. 2015) and what the squares are averaged
    over is ours. Hidden states are compared place by place: the teacher's prompt must be as long as the row's own.
    """

    rows: Tensor
    prompts: TargetPrompts
    slots: Tensor
    weight: Tensor
    temperature: Tensor
    hidden: Tensor

    def batch(self, batch: Batch) -> Batch:
        """The rows of a batch that have teachers, with these."""
        return replace(batch.take(self.rows), slots=self.slots)

    def within(self, rows: Tensor) -> Teachers | None:
        """The same of a batch of these `rows`, ascending, alone; None where none of them has a teacher."""
        there = torch.isin(self.rows, rows)
        if not bool(there.any()):
            return None
        numbers = {name: getattr(self, name)[there] for name in ("slots", "weight", "temperature", "hidden")}
        return replace(self, rows=torch.searchsorted(rows, self.rows[there]), **numbers)

    def answers_loss(self, labels: LabelPlaces, logits: Tensor, taught: Tensor) -> Tensor:
        """How far the answers of these n rows, `logits` (n, at least M, V), are from their teachers' (n, M, V),
        weighed: (n,) in fp32 or more.
        """
        weight, temperature = self.weight.to(logits.device), self.temperature.to(logits.device)
        each = torch.repeat_interleave(temperature, labels.lengths)
        return weight * labels.sum_by_row(divergences(labels.flat(logits), labels.flat(taught), each))

    def of_ordered(self, order: Tensor) -> Teachers:
        """The same of a batch whose row i is the row `order[i]` of this one."""
        rows = order.argsort()[self.rows]
        again = rows.argsort()
        numbers = {name: getattr(self, name)[again] for name in ("slots", "weight", "temperature", "hidden")}
        return replace(self, rows=rows[again], **numbers)


def divergences(logits: Tensor, taught: Tensor, temperature: Tensor) -> Tensor:
    """temperature^2 KL(softmax(taught / temperature) || softmax(logits / temperature)) in nats: (k,), in fp32 or more.

    logits and taught (k, V), temperature (k,).
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    own, other = (F.log_softmax(x.to(wide) / temperature[:, None], 1) for x in (logits, taught))
    return F.kl_div(own, other, reduction="none", log_target=True).sum(1) * temperature.square()

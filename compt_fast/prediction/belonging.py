"""Whether prompts belong to the trunk that they are to be used with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from compt_fast.config.job import JobSettings
from compt_fast.models.api import Trunk
from compt_fast.prediction.prompts import TaskPrompt
from compt_fast.prompts.artifact import TrunkId, check_trunk
from compt_fast.runs.job import named_trunk


@dataclass
class Belonging:
    """A trunk that is open, as `settings` name it, and its hashes by precision, as far as they are known.

    `named`: the user said which trunk it is. Then prompts that know no hash are taken to be of it, whatever they call
    theirs; else the name has to be the same. `made_of` is as for `named_trunk`.
    """

    trunk: Trunk
    settings: JobSettings
    named: bool
    hashes: dict[str | None, str] = field(default_factory=dict)
    made_of: str | None = None

    def check(self, one: TaskPrompt) -> None:
        """Raise `InputError` unless a prompt is of this trunk.

        The trunk is opened once more for the hash of another precision than the prompts before were trained in.
        """
        said = one.trunk if one.trunk.sha256 or not self.named else replace(one.trunk, name=self.trunk.name)
        own = TrunkId(
            self.trunk.name, self._hash(one.trunk.dtype) if one.trunk.sha256 else None, family=self.trunk.family
        )
        check_trunk(one.where, said, one.d_model, own, self.trunk.d_model)

    def _hash(self, dtype: str | None) -> str:
        if dtype not in self.hashes:
            settings = replace(self.settings, dtype=dtype or "fp32")
            self.hashes[dtype] = named_trunk(settings).fingerprint()
        return self.hashes[dtype]

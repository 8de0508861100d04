"""What bounds a server; each bound is a field, and so a flag of `compt_fast.serve`."""

from __future__ import annotations

from dataclasses import dataclass, field

from compt_fast.config.fields import NOT_NEGATIVE, POSITIVE, Flag, flags_of, stated
from compt_fast.utils.errors import InputError

_flag = stated(Flag)


@dataclass(frozen=True)
class Limits:
    """Bounds of a server. Raises `InputError` for a number that none of them can be."""

    batch_tokens: int = field(
        default=4096,
        metadata=_flag("tokens, prompts among them, that go through the trunk together", ranges=(POSITIVE,)),
    )
    max_wait_ms: float = field(
        default=2.0,
        metadata=_flag(
            "milliseconds that a row waits for others to share its batch, while the trunk has nothing else to do",
            ranges=(NOT_NEGATIVE,),
        ),
    )
    queue_rows: int = field(
        default=4096,
        metadata=_flag("rows that may wait; a request beyond them is answered by 429", ranges=(POSITIVE,)),
    )
    max_rows: int = field(
        default=1024, metadata=_flag("rows of a request; more are answered by 422", ranges=(POSITIVE,))
    )
    max_text: int = field(
        default=20_000, metadata=_flag("characters of a text; more are answered by 422", ranges=(POSITIVE,))
    )
    max_body: int = field(
        default=2**20, metadata=_flag("bytes of a request's body; more are answered by 413", ranges=(POSITIVE,))
    )
    timeout: float = field(
        default=30.0,
        metadata=_flag(
            "seconds until a request is answered by 504, or by 408 where its body has not come", ranges=(POSITIVE,)
        ),
    )

    def __post_init__(self) -> None:
        for flag in LIMITS.values():
            flag.check(getattr(self, flag.field))
        if self.max_rows > self.queue_rows:
            raise InputError(
                f"--max-rows {self.max_rows} is above --queue-rows {self.queue_rows}: such a request would never "
                "be taken"
            )


LIMITS: dict[str, Flag] = flags_of(Limits, Flag)

"""Compositional prompt tuning of a frozen T5: many runs in one pass over one trunk.

Importing this package loads nothing heavy and touches no device. `compt_fast.train`, `compt_fast.evaluate`,
`compt_fast.predict` and others are its commands. Of its Python interface, `compt_fast.fit` trains prompts, and
`compt_fast.load` gives what answers rows with them. Imported before torch, it also bounds how long torch's threads spin
(`compt_fast.utils.openmp`).
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from compt_fast.utils.openmp import bound_spinning

if TYPE_CHECKING:
    from compt_fast.prediction.fitting import Fitted as Fitted
    from compt_fast.prediction.fitting import fit as fit
    from compt_fast.prediction.predictor import Answer as Answer
    from compt_fast.prediction.predictor import Predictor as Predictor
    from compt_fast.prediction.predictor import load as load

__version__ = "0.1.0"

bound_spinning(os.environ)

_INTERFACE = {
    **dict.fromkeys(("Answer", "Predictor", "load"), "compt_fast.prediction.predictor"),
    **dict.fromkeys(("Fitted", "fit"), "compt_fast.prediction.fitting"),
}
"""The Python interface: names of this package, each imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _INTERFACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_INTERFACE[name]), name)

"""The softmax of the logits over a temperature that falls as sources grow in number (CrossPT, Section 2.2)."""

from __future__ import annotations

from compt_fast.prompts.normalisations import Normalisation
from compt_fast.prompts.normalisations.softmax import softmax

ENTRY = Normalisation(softmax, temperature=True, kernel="softmax", captured=True)

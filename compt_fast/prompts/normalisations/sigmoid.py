"""The sigmoid of each logit, whatever the others are: the weights need not add up to 1."""

from __future__ import annotations

from compt_fast.prompts.normalisations import Normalisation
from compt_fast.prompts.products import sigmoid

ENTRY = Normalisation(sigmoid, kernel="sigmoid", captured=True)

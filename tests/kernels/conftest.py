"""Without a GPU, Triton's interpreter runs the kernels; it has to be chosen before Triton's first import."""

import os
import sys

import torch

if not torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ:
    assert "triton" not in sys.modules, "something imported Triton before its interpreter was chosen"
    os.environ["TRITON_INTERPRET"] = "1"

"""The T5 of `compt_fast.models.t5` in TorchScript: forward alone, by the extension's operators or in plain PyTorch.

TorchScript compiles functions whose every type is known, and no closures, cached properties or abstract classes, which
the trunk that also trains is made of. So its steps stand here once more, one function each, and `tests/models/scripted`
holds each of them to the other's bits.
"""

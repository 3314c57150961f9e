"""Eager PyTorch on any device, with autograd."""

from bilevel.protocol import BackendSpec

SPEC = BackendSpec(
    name="torch",
    library="torch",
    requires="torch",
    install='python -m pip install "bilevel[torch]"',
    load="bilevel_torch.backend:BACKEND",
)

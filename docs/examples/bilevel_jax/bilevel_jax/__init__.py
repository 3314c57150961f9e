"""A backend of bilevel for JAX arrays."""

from bilevel import BackendSpec

SPEC = BackendSpec(
    name="jax",
    library="jax",
    requires="jax",
    install="python -m pip install bilevel-jax",
    load="bilevel_jax.backend:BACKEND",
)

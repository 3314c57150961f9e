"""The reference backend: plain NumPy, capable of float64. It is the specification."""

from bilevel.protocol import BackendSpec

SPEC = BackendSpec(
    name="numpy",
    library="numpy",
    requires="numpy",
    install="python -m pip install numpy",
    load="bilevel_numpy.backend:BACKEND",
)

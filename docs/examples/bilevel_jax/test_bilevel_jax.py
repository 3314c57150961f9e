"""JAX has every property of a backend; and jit, grad and vmap go through."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bilevel_jax import SPEC

import bilevel
from bilevel.testing import check_backend

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)  # compilation takes most of the time

bra = partial(bilevel.bra, topk=3, regions=(3, 2))


@pytest.fixture
def tokens() -> np.ndarray:
    """q, k and v: ten by seven tokens, in regions that are not all of one size."""
    return np.random.default_rng(0).standard_normal((3, 2, 10, 7, 2, 4))


def test_conformance() -> None:
    check_backend(SPEC, examples=5)


def test_it_agrees_with_numpy(tokens: np.ndarray) -> None:
    np.testing.assert_allclose(bra(*jnp.asarray(tokens)), bra(*tokens), rtol=1e-12, atol=1e-14)


def test_jit(tokens: np.ndarray) -> None:
    out, routes = jax.jit(partial(bra, return_routes=True))(*tokens)
    again = jax.jit(bra)(*tokens, routes=routes.index)
    np.testing.assert_allclose(out, bra(*tokens), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(out, again)


def test_grad_with_respect_to_one_of_several(tokens: np.ndarray) -> None:
    q, k, v = jnp.asarray(tokens)
    routes = bra(q, k, v, return_routes=True)[1].index

    def loss(k: jax.Array) -> jax.Array:
        return (bra(q, k, v, routes=routes) ** 2).sum()

    out, pullback = bilevel.bra_vjp(*tokens, regions=(3, 2), routes=np.asarray(routes))
    for grad in (jax.grad(loss), jax.jit(jax.grad(loss))):
        np.testing.assert_allclose(grad(k), pullback(2 * out)[1], rtol=1e-9, atol=1e-12)


def test_vmap(tokens: np.ndarray) -> None:
    stacked = jnp.stack([jnp.asarray(tokens), jnp.asarray(tokens[:, ::-1])], axis=1)
    out = jax.vmap(bra)(*stacked)
    np.testing.assert_allclose(out[1], bra(*tokens)[::-1], rtol=1e-12, atol=1e-14)


def test_arrays_of_others(tokens: np.ndarray) -> None:
    views = np.moveaxis(tokens, 0, -1).copy()
    views.flags.writeable = False
    out, routes = bra(*np.moveaxis(views, -1, 0), backend="jax", return_routes=True)
    assert isinstance(out, np.ndarray)
    assert isinstance(routes.index, np.ndarray)
    np.testing.assert_allclose(out, bra(*tokens), rtol=1e-12, atol=1e-14)

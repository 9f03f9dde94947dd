"""The digits of a derivative itself, not of the terms that it is the difference of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import jsoftmax
from jsoftmax import cross_entropy, entropy, kl_divergence, log_softmax, logsumexp
from tests import rows

Loss = Callable[..., Array]
EPS = float(np.finfo(np.float32).eps)
ONE_HOT = np.array([1.0, 0, 0, 0])


def of_label(x: Array, **settings: float) -> Array:
    return cross_entropy(x, jnp.array(0), **settings)


def of_distribution(x: Array, **settings: float) -> Array:
    return cross_entropy(x, jnp.asarray(ONE_HOT, x.dtype), **settings)


def of_log_softmax(x: Array, **settings: float) -> Array:
    return -log_softmax(x, **settings)[0]


def of_the_draw(x: Array, **settings: float) -> Array:
    return -jsoftmax.sample_and_log_prob(jax.random.key(0), x, **settings)[1]


def of_softmax_s_own_loss(x: Array, **settings: float) -> Array:
    return jsoftmax.fenchel_young_loss(x, jnp.array(0), alpha=1, **settings)


def of_weight(x: Array, **settings: float) -> Array:
    label = jnp.zeros(1, jnp.int32)
    loss = jsoftmax.linear_cross_entropy(jnp.ones((1, 1), x.dtype), x[None], label, **settings)
    return jnp.squeeze(loss)


LOSSES = [
    of_label,
    of_distribution,
    of_log_softmax,
    of_the_draw,
    of_softmax_s_own_loss,
    of_weight,
]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_gradient_at_a_sure_label(loss: Loss, dtype: str) -> None:
    """It is -(1 - p): the others' mass, of which 1 - p in floats keeps nothing from 1e-8 on."""
    for gap, temperature in ((2.0, 1.0), (8.0, 1.0), (20.0, 1.0), (40.0, 1.0), (12.0, 0.5)):
        x = jnp.array([gap, 0.0, -1.0, 1.0], dtype)
        others = np.exp((np.asarray(x, np.float64)[1:] - gap) / temperature)
        exact = -others.sum() / (1 + others.sum()) / temperature
        settings = {} if temperature == 1 else {"temperature": temperature}
        got = jax.jit(jax.grad(lambda x, settings=settings: loss(x, **settings)))(x)[0]
        # The sums are taken in float32, of entries that are rounded there.
        rounded = 0.51 * float(jnp.finfo(dtype).eps) if dtype != "float32" else 0
        allowed = rounded + (4 + gap / temperature) * EPS
        np.testing.assert_allclose(float(got), exact, rtol=allowed)


def test_jvp_at_a_sure_label() -> None:
    x = jnp.array([20.0, 0.0, -1.0, 1.0])
    for loss in (of_label, of_distribution, of_log_softmax, of_the_draw):
        one = jnp.array([1.0, 0.0, 0.0, 0.0])
        exact = np.exp(-20.0) * (1 + np.exp(-1) + np.e)
        _, got = jax.jvp(loss, (x,), (one,))
        if loss in (of_log_softmax, of_the_draw):
            np.testing.assert_allclose(got, -exact, rtol=8 * EPS)
        else:
            # Of a label forward mode adds what reverse mode need not: p there, and -1.
            np.testing.assert_allclose(got, -exact, atol=EPS)


def test_an_entry_that_is_not_sure_is_not_taken_for_one() -> None:
    x = jnp.log(jnp.array([[0.5, 0.5, 1e-9], [0.52, 0.48, 1e-9], [0.62, 0.38, 1e-9]]))
    p = np.exp(np.asarray(x, np.float64))
    p /= p.sum(-1, keepdims=True)
    for label in range(3):
        got = jax.grad(lambda x, label=label: cross_entropy(x, jnp.full(3, label)).sum())(x)
        np.testing.assert_allclose(got, p - np.eye(3)[label], rtol=4 * EPS, atol=EPS)
        got = jax.grad(lambda x, label=label: log_softmax(x)[:, label].sum())(x)
        np.testing.assert_allclose(got, np.eye(3)[label] - p, rtol=4 * EPS, atol=EPS)


@pytest.mark.parametrize("scale", [1e-1, 1e-3, 1e-5])
def test_gradient_of_entropy_of_a_row_that_is_nearly_uniform(scale: float) -> None:
    x = (scale * rows.normal(5000, 1.0)).astype(np.float32)
    z = x.astype(np.float64)
    p = np.exp(z) / np.exp(z).sum()
    exact = -p * (z - (p * z).sum())
    got = np.asarray(jax.grad(entropy)(x), np.float64)
    assert np.abs(got - exact).max() <= 64 * EPS * np.sqrt((exact**2).mean())
    by_temperature = jax.grad(lambda t: entropy(jnp.asarray(x), temperature=t))(1.0)
    variance = (p * (z - (p * z).sum()) ** 2).sum()
    np.testing.assert_allclose(by_temperature, variance, rtol=64 * EPS)


def test_gradient_of_entropy_of_two_entries_that_share_the_mass() -> None:
    x = jnp.array([1.0, 1.0, -20.0, -22.0])
    exact = [-4.5709e-09, -4.5709e-09, 7.9617e-09, 1.1801e-09]
    np.testing.assert_allclose(jax.grad(entropy)(x), exact, rtol=1e-4)


@pytest.mark.parametrize(("apart", "most"), [(1e-2, 2e-6), (1e-3, 3e-5), (1e-4, 3e-4)])
def test_gradient_of_kl_of_distributions_that_are_nearly_the_same(
    apart: float, most: float
) -> None:
    x = rows.normal(1000, 1.0)
    y = (x + apart * rows.normal(1000, 1.0, seed=1)).astype(np.float32)
    p, q = (np.exp(v.astype(np.float64)) / np.exp(v.astype(np.float64)).sum() for v in (x, y))
    got = np.asarray(jax.grad(kl_divergence, 1)(x, y), np.float64)
    assert np.median(np.abs(got - (q - p)) / np.abs(q - p)) <= most


@pytest.mark.parametrize(
    "row", [[8.0, 0.0, -1.0, 1.0], [1.0, 0.5, 0.0, 0.9], [30.0, 0.0, 0.0, 0.0]]
)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_second_derivative_of_a_loss(loss: Loss, row: list[float]) -> None:
    """It is that of logsumexp, diag(p) - p p', whatever the label; of sure rows too."""
    x, along = jnp.array(row), jnp.array([1.0, -0.5, 0.25, 2.0])
    e = np.exp(np.asarray(x, np.float64) - row[0])
    p = e / e.sum()
    exact = p * (along - (p * np.asarray(along, np.float64)).sum())
    modes = {"reverse over reverse": jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), along))(x)}
    if loss is not of_weight:
        modes["forward over reverse"] = jax.jvp(jax.grad(loss), (x,), (along,))[1]
    for got in modes.values():
        np.testing.assert_allclose(got, exact, rtol=1e-4, atol=4 * EPS)


HALVES: dict[str, Loss] = {
    "logsumexp": logsumexp,
    "entropy": entropy,
    "kl_divergence by p": lambda x: kl_divergence(x, jnp.asarray([0.5, 0, -0.5, 4], x.dtype)),
    "kl_divergence by q": lambda x: kl_divergence(jnp.asarray([0.5, 0, -0.5, 4], x.dtype), x),
    "label": of_label,
    "label, smoothed": lambda x: of_label(x, temperature=0.7, label_smoothing=0.1),
    "label, z-loss": lambda x: of_label(x, z_loss=1e-3),
    "distribution": lambda x: cross_entropy(x, jnp.asarray([0.7, 0.1, 0.1, 0.1], x.dtype)),
    "log_softmax": lambda x: log_softmax(x).astype(jnp.float32)[1],
    "draw": of_the_draw,
    "fenchel_young_loss": of_softmax_s_own_loss,
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", HALVES)
def test_gradient_of_a_gradient_in_half_precision_is_rounded_once(name: str, dtype: str) -> None:
    loss = HALVES[name]
    weight = jnp.array([0.5, 1.0, -0.75, 0.25])

    def second(x: Array) -> Array:
        def along(x: Array) -> Array:
            return jnp.vdot(jax.grad(loss)(x).astype(weight.dtype), weight)

        return jax.grad(along)(x)

    for row in ([8.0, 0.0, -1.0, 1.0], [1e-3, -2e-3, 5e-4, 0.0]):
        x = jnp.array(row, dtype)
        exact = second(x.astype(jnp.float32))
        # The z-loss is added to the rest.
        allowed = (1.51 if "z-loss" in name else 0.51) * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            second(x).astype(jnp.float32),
            exact,
            rtol=allowed,
            atol=float(jnp.finfo(dtype).tiny) * float(jnp.finfo(dtype).eps),
        )


def test_equal_logits_stay_equal_under_a_soft_cap() -> None:
    """At T = 0 they share the mass; XLA:CPU may round the last of a short row in another way."""
    random = np.random.default_rng(0)
    cap = jnp.asarray(np.exp(2 * random.normal(size=2048)), jnp.float32)
    for size in (3, 7, 31):
        rows = np.repeat(random.choice([1.5, 32.0, 128.0], (2048, 1)), size, axis=1)

        def log_prob(row: Array, cap: Array, t: Array) -> Array:
            weight = jnp.stack([row, row])
            return jsoftmax.linear_log_prob(
                jnp.full(2, 0.5), weight, jnp.int32(1), temperature=t, logit_softcap=cap
            )

        got = jax.jit(jax.vmap(log_prob))(rows.astype(np.float32), cap, jnp.zeros(2048))
        np.testing.assert_allclose(got, np.full(2048, -np.log(size)), rtol=1e-6)

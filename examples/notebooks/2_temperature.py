# %% [markdown]
# # 2. Temperature
#
# One number says how sharply softmax looks at its logits. It divides them:
#
# $$p_i = \frac{\exp(x_i / T)}{\sum_j \exp(x_j / T)}$$
#
# Every map of jsoftmax takes it as `temperature=`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jsoftmax
from jsoftmax import plot

# %% [markdown]
# ## What it does to the odds
#
# Two logits that are $d$ apart have odds of $e^{d/T}$ to 1. Half the temperature *squares* the
# odds; twice the temperature takes their root.

# %%
pair = jnp.array([10.0, 5.0])
for temperature in (0.5, 1.0, 2.0, 5.0):
    p = jsoftmax.softmax(pair, temperature=temperature)
    odds = float(p[0] / p[1])
    print(f"T = {temperature:3}: {p[0]:.5f} and {p[1]:.5f}, {odds:8,.1f} to 1")
    assert np.isclose(odds, np.exp(5 / temperature), rtol=1e-5)

# %% [markdown]
# The order of the entries never changes. Only how far apart they are does.
#
# ## A row at many temperatures
#
# Eight logits, and what softmax makes of them. On the left one entry takes all, on the right all
# are equal; T = 1 is the distribution that the logits stand for.

# %%
words = ["blue", "red", "brown", "purple", "orange", "pink", "white", "black"]
x = jnp.array([2.0, 1.7, 0.8, 0.6, 0.0, -0.8, -1.1, -1.6])

figure, ax = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
ax = plot.temperature_sweep(
    x, temperatures=np.geomspace(0.05, 20, 121), labels=words, ax=ax
)

# %% [markdown]
# ## A setting is data
#
# A temperature is a number, or one number for each row. It is traced: under `jit`, a new
# temperature compiles nothing. Here are three temperatures for three rows, in one call.

# %%
temperatures = jnp.array([0.25, 1.0, 4.0])
rows = jsoftmax.softmax(jnp.stack([x, x, x]), temperature=temperatures)

figure, panels = plt.subplots(
    1, 3, figsize=(7.2, 2.6), sharey=True, layout="constrained"
)
for ax, temperature, p in zip(panels, temperatures, rows, strict=True):
    ax.bar(words, p, color="#3b5bdb")
    ax.set_title(f"T = {temperature:g}", loc="left")
    ax.tick_params(axis="x", rotation=90, length=0)
    ax.spines[["top", "right"]].set_visible(False)

# %%
traces = 0


@jax.jit
def likeliest(x, temperature):
    global traces
    traces += 1  # Python runs this line only while JAX traces the function.
    return jsoftmax.softmax(x, temperature=temperature).max()


for temperature in (0.1, 0.5, 1.0, 2.0, 10.0):
    print(f"T = {temperature:4}: {likeliest(x, temperature):.3f}")
print("traced", traces, "time")
assert traces == 1

# %% [markdown]
# ## Entropy
#
# The entropy $H = -\sum_i p_i \log p_i$ says how open the choice is. $e^H$ is the number of equally
# likely entries that would be as open: from 1 to 8 here.

# %%
sweep = jnp.geomspace(0.02, 50, 200)
entropies = jsoftmax.entropy(jnp.broadcast_to(x, (200, 8)), temperature=sweep)

figure, ax = plt.subplots(figsize=(7.2, 3), layout="constrained")
ax.semilogx(sweep, jnp.exp(entropies), color="#3b5bdb")
ax.axvline(1, color="gray", linewidth=0.8)
ax.set(
    xlabel="temperature", ylabel="effective number of entries", ylim=(0.8, 8.2)
)
ax.set_xticks([0.1, 1, 10], labels=["0.1", "1", "10"])
ax.spines[["top", "right"]].set_visible(False)

assert (jnp.diff(entropies) >= -1e-6).all()

# %% [markdown]
# It only ever rises, because its derivative is a variance:
#
# $$\frac{dH}{dT} = \frac{\mathrm{Var}_p(x)}{T^3}$$
#
# The temperature is an argument like any other, so JAX can differentiate by it. The two agree:

# %%
for temperature in (0.3, 1.0, 3.0):
    slope = jax.grad(lambda t: jsoftmax.entropy(x, temperature=t))(temperature)
    p = jsoftmax.softmax(x, temperature=temperature)
    variance = p @ x**2 - (p @ x) ** 2
    formula = variance / temperature**3
    print(
        f"T = {temperature}: {slope:.5f} by jax.grad, {formula:.5f} by formula"
    )
    assert jnp.allclose(slope, formula, rtol=1e-4)

# %% [markdown]
# ## The limits
#
# Dividing by 0 gives NaN, so code that divides the logits itself needs a special case for greedy
# decoding. In jsoftmax T = 0 and T = inf *are* the limits: all mass on the largest entry, shared
# among equals, and the uniform distribution.

# %%
ties = jnp.array([1.0, 2.0, 2.0])
print("x / 0.0:", jax.nn.softmax(ties / 0.0))
print("T = 0:  ", jsoftmax.softmax(ties, temperature=0.0))
print("T = inf:", jsoftmax.softmax(ties, temperature=jnp.inf))
assert jnp.isnan(jax.nn.softmax(ties / 0.0)).all()
assert (
    jsoftmax.softmax(ties, temperature=0.0) == jnp.array([0.0, 0.5, 0.5])
).all()
assert jnp.allclose(jsoftmax.softmax(ties, temperature=jnp.inf), 1 / 3)

# %% [markdown]
# ## Drawing at a temperature
#
# `sample` takes the same argument. A batch may mix greedy rows with hot ones: no branch, no second
# program. We draw 20,000 times at each of three temperatures and compare with the probabilities.

# %%
number = 20_000
batch = jnp.broadcast_to(x, (number, 3, 8))
temperatures = jnp.array([0.0, 1.0, 4.0])
drawn = jsoftmax.sample(jax.random.key(0), batch, temperature=temperatures)
expected = jsoftmax.softmax(jnp.stack([x, x, x]), temperature=temperatures)
for column, temperature in enumerate(temperatures):
    share = jnp.bincount(drawn[:, column], length=8) / number
    print(f"T = {temperature:g}")
    print(
        "  drawn   ",
        np.array2string(np.asarray(share), precision=3, suppress_small=True),
    )
    p = expected[column]
    print(
        "  expected",
        np.array2string(np.asarray(p), precision=3, suppress_small=True),
    )
    # Five standard deviations of a share.
    assert (jnp.abs(share - p) <= 5 * jnp.sqrt(p * (1 - p) / number)).all()

# %% [markdown]
# ## What to remember
#
# - Odds are $e^{d/T}$: temperature stretches differences and keeps the order.
# - It may differ from row to row, and a new value compiles nothing.
# - T = 0 is greedy decoding, and T = inf is uniform, without a special case.
#
# A high temperature gives mass to every entry. With a vocabulary of 49,152 that is a problem, which
# [truncation](3_top_p.ipynb) answers.

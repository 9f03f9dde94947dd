# %% [markdown]
# # 1. Softmax, and how it overflows
#
# Softmax turns a row of real numbers $x$, the *logits*, into probabilities:
#
# $$p_i = \frac{\exp(x_i)}{\sum_j \exp(x_j)}$$
#
# The formula is right, and a program that computes it as it stands is wrong. This notebook shows
# where it breaks, to the digit, and the one line that repairs it.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jsoftmax

# %% [markdown]
# ## 10 against 5 is 148 to 1
#
# The exponential makes ratios of differences: $p_i / p_j = \exp(x_i - x_j)$. Two logits that are 5
# apart have odds of $e^5 \approx 148.4$ to 1, wherever they are.

# %%
for row in ([10.0, 5.0], [5.0, 0.0], [-100.0, -105.0]):
    p = jsoftmax.softmax(jnp.array(row))
    print(f"{row}: {p[0]:.4f} and {p[1]:.4f}, {p[0] / p[1]:.1f} to 1")
    assert jnp.allclose(p[0] / p[1], jnp.exp(5.0), rtol=1e-5)

# %% [markdown]
# So only differences count. Adding the same number to every logit changes nothing. That will be the
# repair.
#
# ## The formula as it stands
#
# Here it is, word for word. It agrees with the library for the small logits above.


# %%
def textbook(x):
    mass = jnp.exp(x)
    return mass / mass.sum()


x = jnp.array([10.0, 5.0])
print(textbook(x), jsoftmax.softmax(x))
assert jnp.allclose(textbook(x), jsoftmax.softmax(x), rtol=1e-6)

# %% [markdown]
# Now the same two logits, moved up by 10,000. The answer should not change.

# %%
for dtype in (jnp.float16, jnp.float32):
    x = jnp.array([1e4, 1e4 - 8], dtype)
    print(f"{x.dtype}: textbook {textbook(x)}, jsoftmax {jsoftmax.softmax(x)}")
    assert jnp.isnan(textbook(x)).all()
    assert jnp.allclose(jsoftmax.softmax(x)[1], jnp.exp(-8.0), rtol=1e-3)

# %% [markdown]
# `exp(10000)` is infinite in either type, and infinity over infinity is not a number (NaN).
#
# The second logit is 8 below the first, and not 5, for a reason: near 10,000 the numbers of float16
# are 8 apart, and 9,995 is not one of them. No softmax can bring back what was rounded away before
# it was called.

# %%
near = jnp.array([9992, 9995, 9997, 10_000], jnp.float16)
print(near.astype(jnp.int32))
assert jnp.float16(9995) == 9992

# %% [markdown]
# ## Where exactly
#
# `exp(x)` overflows where it passes the largest number of its type, so at the logarithm of that
# number. In float16 it is 11.09, which is not much of a logit. bfloat16 keeps the range of float32,
# and gives up digits instead.

# %%
for dtype, expected in (
    (jnp.float16, 11.09),
    (jnp.bfloat16, 88.72),
    (jnp.float32, 88.72),
):
    limit = np.log(float(jnp.finfo(dtype).max))
    # Numbers near the limit, rounded to those of the type.
    near = jnp.linspace(limit - 1, limit + 1, 20_001).astype(dtype)
    fits = jnp.isfinite(jnp.exp(near))
    last, first = float(near[fits].max()), float(near[~fits].min())
    name = dtype.dtype.name
    print(f"{name:>8}: {limit:.4f}; fits: {last:.4f}, overflows: {first:.4f}")
    assert round(limit, 2) == expected
    assert last <= limit + 1e-4
    assert first >= limit - 1e-4

# %% [markdown]
# A picture of it. Each line is `exp` as computed in its type. On the right it ends in infinity, on
# the left in 0: a row whose logits are *all* very negative gives 0 / 0.

# %%
x = jnp.linspace(-120, 120, 2401)
figure, ax = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
for dtype, color, width in (
    (jnp.float32, "#3b5bdb", 5),
    (jnp.float16, "#e8590c", 2),
):
    y = jnp.exp(x.astype(dtype)).astype(jnp.float32)
    drawn = np.asarray((y > 0) & jnp.isfinite(y))
    ax.semilogy(
        x[drawn], y[drawn], color=color, linewidth=width, label=dtype.dtype.name
    )
    for end, word in ((x[drawn].min(), "0"), (x[drawn].max(), "inf")):
        ax.axvline(end, color=color, linewidth=1, linestyle=":")
        height = 1e-20 if word == "0" else 1e20
        ax.text(
            end,
            height,
            f" {word} ",
            color=color,
            ha="right" if word == "0" else "left",
        )
ax.set(xlabel="x", ylabel="exp(x), as computed", xlim=(-120, 120))
ax.legend(frameon=False, loc="lower right")
ax.spines[["top", "right"]].set_visible(False)

low = jnp.array([-200.0, -200.0])
print(
    "two logits of -200: textbook",
    textbook(low),
    "jsoftmax",
    jsoftmax.softmax(low),
)
assert jnp.isnan(textbook(low)).all()
assert (jsoftmax.softmax(low) == 0.5).all()

# %% [markdown]
# ## The shift
#
# Only differences count, so take the largest logit off all of them first:
#
# $$p_i = \frac{\exp(x_i - m)}{\sum_j \exp(x_j - m)}, \quad m = \max_j x_j$$
#
# No exponent is above 0 now, so nothing overflows. One exponent *is* 0, so the sum is at least 1,
# and nothing is divided by 0. What still underflows is a probability too small for the type, and 0
# is the nearest number to it.


# %%
def shifted(x):
    return textbook(x - x.max())


for x in (
    jnp.array([1e4, 1e4 - 8]),
    jnp.array([-200.0, -200.0]),
    jnp.array([3e38, 0.0]),
):
    print(x, "->", shifted(x))
    assert jnp.allclose(shifted(x), jsoftmax.softmax(x), rtol=1e-6)

# %% [markdown]
# `jax.nn.softmax` shifts as well: for such rows there is nothing to choose between the two.

# %%
x = jnp.array([1e4, 1e4 - 8])
assert jnp.allclose(jax.nn.softmax(x), jsoftmax.softmax(x), rtol=1e-6)

# %% [markdown]
# ## A long row overflows too
#
# Not only the exponentials, their *sum* must fit. The largest number of float16 is 65,504, and many
# a vocabulary has more entries than that. Here is a row of 70,000 equal logits. Each probability
# should be 1/70,000, which float16 can hold.

# %%
row = jnp.zeros(70_000, jnp.float16)
print("1/70000 in float16:", jnp.float16(1 / 70_000))
print("shifted formula:   ", shifted(row)[0])
print("jax.nn.softmax:    ", jax.nn.softmax(row)[0])
print("jsoftmax.softmax:  ", jsoftmax.softmax(row)[0])
assert shifted(row)[0] == 0
assert jsoftmax.softmax(row)[0] == jnp.float16(1 / 70_000)

# %% [markdown]
# jsoftmax computes float16 and bfloat16 in float32 and rounds once, at the end. Rounding a number
# to the 8 bits of bfloat16 moves it by up to one part in 256; no result can promise less.

# %%
logits = jax.random.normal(jax.random.key(0), (64, 4096)).astype(jnp.bfloat16)
exact = np.exp(np.asarray(logits, np.float64))
exact /= exact.sum(-1, keepdims=True)


def worst(p):
    """The largest relative error of a probability, in parts of 256."""
    return 256 * np.abs(np.asarray(p, np.float64) / exact - 1).max()


print(f"jax.nn.softmax:   {worst(jax.nn.softmax(logits)):.2f} / 256")
print(f"jsoftmax.softmax: {worst(jsoftmax.softmax(logits)):.2f} / 256")
assert worst(jsoftmax.softmax(logits)) < 1.001

# %% [markdown]
# ## The logarithm
#
# Losses need $\log p$. The logarithm of a probability that has underflowed is $-\infty$; but the
# logarithm itself is an ordinary number:
#
# $$\log p_i = (x_i - m) - \log \sum_j \exp(x_j - m)$$

# %%
x = jnp.array([0.0, -200.0])
print("log of softmax:", jnp.log(jsoftmax.softmax(x)))
print("log_softmax:   ", jsoftmax.log_softmax(x))
assert jnp.log(jsoftmax.softmax(x))[1] == -jnp.inf
assert jsoftmax.log_softmax(x)[1] == -200

# %% [markdown]
# The other end is subtler. An entry that is nearly certain has $\log p$ near 0, as small as what
# the others sum to. Computed as $\log(1 + \varepsilon)$ it is lost to rounding; as
# `log1p` of $\varepsilon$ it is not.

# %%
x = jnp.array([20.0, 0.0])
exact = -np.log1p(np.exp(-20.0))
print(f"exact             {exact:.6g}")
print(f"jax.nn            {jax.nn.log_softmax(x)[0]:.6g}")
print(f"jsoftmax          {jsoftmax.log_softmax(x)[0]:.6g}")
assert jnp.allclose(jsoftmax.log_softmax(x)[0], exact, rtol=1e-6)

# %% [markdown]
# ## What to remember
#
# - Softmax sees differences of logits: 5 apart is 148 to 1.
# - Without the shift it fails from a logit of 11.09 in float16 and 88.72 in float32.
# - With the shift it never overflows; sums still want float32, and logarithms want `log_softmax`.
#
# One case is left over: a row in which *every* logit is $-\infty$. Its maximum is $-\infty$, and
# the shift is $-\infty - (-\infty)$. The [notebook about gradients](5_gradients.ipynb) takes it up;
# the [next one](2_temperature.ipynb) is about stretching the differences.

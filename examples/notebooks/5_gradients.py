# %% [markdown]
# # 5. Gradients: what goes wrong with -inf
#
# A logit of $-\infty$ is an honest way to say "never": its probability is exactly 0. Masks, padding
# and truncation all produce it. The values are easy to get right. The *gradients* are where NaN
# comes from, and one NaN in a gradient can spoil every weight of a model.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jsoftmax

# %% [markdown]
# ## Zero times infinity
#
# The entropy $H = -\sum_i p_i \log p_i$ takes $0 \log 0$ as 0, its limit. Arithmetic does not know
# that: $0 \cdot (-\infty)$ is NaN.

# %%
x = jnp.array([1.0, 2.0, -jnp.inf])


def textbook(x):
    p = jax.nn.softmax(x)
    return -jnp.sum(p * jnp.log(p))


print("textbook:", textbook(x))
print("jsoftmax:", jsoftmax.entropy(x))
assert jnp.isnan(textbook(x))
assert jnp.allclose(jsoftmax.entropy(x), jsoftmax.entropy(x[:2]))

# %% [markdown]
# ## A repair that repairs half
#
# Everyone's first idea is to replace the term where $p = 0$. The value is right after that. The
# gradient is not.


# %%
def repaired_after(x):
    p = jax.nn.softmax(x)
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(p), 0.0))


print("value:   ", repaired_after(x))
print("gradient:", jax.grad(repaired_after)(x))
assert jnp.isfinite(repaired_after(x))
assert jnp.isnan(jax.grad(repaired_after)(x)).all()

# %% [markdown]
# Why? `where` selects values. Its derivative sends a 0 into the branch that was not taken, and the
# chain rule multiplies that 0 by the slope of the branch. The slope of $p \log p$ is
# $\log p + p / p$, and no number at $p = 0$. Zero times that is NaN again, one step further on.

# %%
p = jnp.geomspace(1e-6, 1, 400)
figure, panels = plt.subplots(1, 2, figsize=(7.2, 2.7), layout="constrained")
panels[0].plot(p, p * jnp.log(p), color="#3b5bdb")
panels[0].set_title("p log p: tends to 0", loc="left", size=10)
panels[1].plot(
    p, jax.vmap(jax.grad(lambda p: p * jnp.log(p)))(p), color="#e8590c"
)
panels[1].set_title("its slope: falls without end", loc="left", size=10)
for ax in panels:
    ax.set_xlabel("p")
    ax.spines[["top", "right"]].set_visible(False)

assert jnp.isnan(jax.grad(lambda p: p * jnp.log(p))(0.0))

# %% [markdown]
# ## The double where
#
# The known cure is to keep the infinity from being computed at all: one `where` before the
# logarithm, one after it. It works, and has to be thought of in each place anew. A function with
# the right limit at 0, `jax.scipy.special.entr`, is not enough:


# %%
def double_where(x):
    p = jax.nn.softmax(x)
    log_p = jnp.log(jnp.where(p > 0, p, 1.0))
    return -jnp.sum(jnp.where(p > 0, p * log_p, 0.0))


def by_entr(x):
    return jax.scipy.special.entr(jax.nn.softmax(x)).sum()


for name, entropy in {
    "textbook": textbook,
    "where, after": repaired_after,
    "entr": by_entr,
    "double where": double_where,
    "jsoftmax.entropy": jsoftmax.entropy,
}.items():
    print(f"{name:>16}: {entropy(x):.4f}, gradient {jax.grad(entropy)(x)}")

# dH / dx_i = -p_i (log p_i + H), and 0 for an entry that is not there.
p = jsoftmax.softmax(x[:2])
expected = -p * (jnp.log(p) + jsoftmax.entropy(x))
assert jnp.allclose(jax.grad(jsoftmax.entropy)(x)[:2], expected, atol=1e-6)
assert jax.grad(jsoftmax.entropy)(x)[2] == 0

# %% [markdown]
# ## A row with nothing allowed
#
# A batch of sequences is padded to one length. A query that is all padding may attend to nothing:
# every one of its scores is $-\infty$. The shift by the maximum is then $-\infty - (-\infty)$.

# %%
nothing = jnp.full(3, -jnp.inf)
print("jax.nn.softmax:  ", jax.nn.softmax(nothing))
print("jsoftmax.softmax:", jsoftmax.softmax(nothing))
assert (jsoftmax.softmax(nothing) == 0).all()

# %% [markdown]
# Here is what that does in attention, with the mask as a bias that is added to the scores: 0 where
# allowed, $-\infty$ elsewhere. Two sequences share a weight `w`. The second is all padding, and the
# loss does not even look at it.


# %%
def bias(allowed):
    return jnp.where(allowed, 0.0, -jnp.inf)


def plain(scores, allowed):
    return jax.nn.softmax(scores + bias(allowed))


def repaired(scores, allowed):
    p = plain(scores, allowed)
    return jnp.where(jnp.isnan(p), 0.0, p)


def safe(scores, allowed):
    return jsoftmax.softmax(scores + bias(allowed))


def masked(scores, allowed):
    return jsoftmax.softmax(scores, where=allowed)


w, x_batch = jnp.eye(4), jax.random.normal(jax.random.key(0), (2, 3, 4))
allowed = jnp.array([[[True, True, False]], [[False, False, False]]])


def loss(w, to_weights):
    attended = to_weights(x_batch @ w @ x_batch.mT, allowed) @ x_batch
    return (attended[0] ** 2).sum()


gradients = {}
for to_weights in (plain, repaired, safe, masked):
    value, gradient = jax.value_and_grad(loss)(w, to_weights)
    gradients[to_weights.__name__] = gradient
    bad = int(jnp.isnan(gradient).sum())
    name = to_weights.__name__
    print(f"{name:>9}: loss {value:.4f}, {bad:2} of {w.size} gradients NaN")

assert jnp.isnan(gradients["plain"]).all()
assert jnp.isnan(gradients["repaired"]).all()
assert jnp.isfinite(gradients["safe"]).all()
assert jnp.allclose(gradients["safe"], gradients["masked"])

# %% [markdown]
# All four have the same loss, and two of them have no gradient. (A mask that *replaces* the scores
# by `jnp.where` keeps the NaN from `w`, since its own derivative is 0 there; the output is NaN all
# the same.)
#
# A large number in place of infinity has a gradient, and another fault: where everything is masked
# it attends *equally* to what is masked.

# %%
print(jax.nn.softmax(jnp.full(3, -1e9)))
assert jnp.allclose(jax.nn.softmax(jnp.full(3, -1e9)), 1 / 3)


# What the text says in brackets: the output is NaN, the gradient of w is not.
def replaced(scores, allowed):
    return jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf))


assert jnp.isnan(replaced(x_batch @ w @ x_batch.mT, allowed)[1]).all()
assert jnp.isfinite(jax.grad(loss)(w, replaced)).all()

# %% [markdown]
# To be fair: `jax.nn.softmax` takes `where=` as well, and with it gives zeros and a zero gradient.
# The trouble is with $-\infty$ in the logits. In jsoftmax the two mean the same, in every function.

# %%
never = jnp.zeros(3, bool)
finite = jnp.array([1.0, 2.0, 3.0])
print("jax.nn, where=:  ", jax.nn.softmax(finite, where=never))
print("jsoftmax, where=:", jsoftmax.softmax(finite, where=never))
print("jsoftmax, -inf:  ", jsoftmax.softmax(nothing))
for gradient in (
    jax.jacobian(lambda x: jax.nn.softmax(x, where=never))(finite),
    jax.jacobian(lambda x: jsoftmax.softmax(x, where=never))(finite),
    jax.jacobian(jsoftmax.softmax)(nothing),
):
    assert (gradient == 0).all()

# %% [markdown]
# ## A target of zero on an impossible class
#
# The cross-entropy against a distribution is $-\sum_i t_i \log p_i$. A class that cannot be, with
# no target on it, gives $0 \cdot (-\infty)$ once more. optax has a function of its own for that
# case; here there is one function, and it is the safe one.

# %%
target = jnp.array([0.0, 1.0, 0.0])
for name, function in {
    "optax.softmax_cross_entropy": optax.softmax_cross_entropy,
    "optax.safe_softmax_cross_entropy": optax.losses.safe_softmax_cross_entropy,
    "jsoftmax.cross_entropy": jsoftmax.cross_entropy,
}.items():
    print(f"{name:>32}: {function(x, target):.4f}")
assert jnp.allclose(jsoftmax.cross_entropy(x, target), jnp.log1p(jnp.exp(-1.0)))
assert jnp.isfinite(jax.grad(jsoftmax.cross_entropy)(x, target)).all()

# %% [markdown]
# ## The idea: a rule from the outputs
#
# How does the library do it? It does not let JAX differentiate the steps of the computation. It
# states the derivative of the *function*, which needs nothing but the result:
#
# $$dp_i = p_i \Big(dx_i - \sum_j p_j \, dx_j\Big)$$
#
# Where $p_i = 0$ this is 0, whatever $x_i$ was. No maximum, no division, no infinity occurs in it,
# and nothing but $p$ has to be kept for the backward pass. In JAX such a rule is a `custom_jvp`:


# %%
@jax.custom_jvp
def own_softmax(x):
    # Finite, also where nothing is allowed.
    peak = jnp.maximum(x.max(), jnp.finfo(x.dtype).min)
    mass = jnp.exp(x - peak)
    total = mass.sum()
    return mass / jnp.where(total == 0, 1.0, total)


@own_softmax.defjvp
def own_softmax_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    p = own_softmax(x)
    return p, p * (dx - p @ dx)


for row in (x, nothing):
    assert jnp.allclose(own_softmax(row), jsoftmax.softmax(row))
    assert jnp.allclose(
        jax.jacobian(own_softmax)(row), jax.jacobian(jsoftmax.softmax)(row)
    )
print(jax.jacobian(own_softmax)(x))

# %% [markdown]
# A rule for forward mode serves both modes, since JAX transposes it, and it can be differentiated
# again. So every order is finite. Here is the second derivative of the entropy, beside that of the
# row without the impossible entry:

# %%
print(np.asarray(jax.hessian(jsoftmax.entropy)(x)))
print(np.asarray(jax.hessian(jsoftmax.entropy)(x[:2])))
assert jnp.allclose(
    jax.hessian(jsoftmax.entropy)(x)[:2, :2],
    jax.hessian(jsoftmax.entropy)(x[:2]),
    atol=1e-6,
)
assert (jax.hessian(jsoftmax.entropy)(x)[2] == 0).all()

# %% [markdown]
# The library's rules do the same for the temperature, `where`, other axes, half precision and rows
# that are split over devices.
#
# ## T = 0
#
# The last division by zero. As T tends to 0 softmax tends to a constant, the arg-max, whose
# gradient is 0. Dividing by 0 gives NaN instead.

# %%
ties = jnp.array([1.0, 2.0, 2.0])


def divided(x, t):
    return jax.nn.softmax(x / t)[1]


def second(x, t):
    return jsoftmax.softmax(x, temperature=t)[1]


print("x / T:   ", jax.grad(divided)(ties, 0.0))
print("jsoftmax:", jax.grad(second)(ties, 0.0))
assert jnp.isnan(jax.grad(divided)(ties, 0.0)).all()
assert (jax.grad(second)(ties, 0.0) == 0).all()
assert jax.grad(second, argnums=1)(ties, 0.0) == 0

# %% [markdown]
# ## What to remember
#
# - A right value does not mean a right gradient. Test `jax.grad` at the edges, not only the value.
# - `where` after the fact leaves the NaN in the gradient. Mask before: `where=` of the function.
# - Do not put -1e9 for $-\infty$: a row with nothing allowed attends to what it must not see.
# - In jsoftmax an entry that is not allowed has probability 0 and gradient 0, to any order.

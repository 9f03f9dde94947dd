# %% [markdown]
# # 6. Sparse attention: top-k masks, sparsemax and entmax
#
# Softmax gives every entry some mass, however little. In attention that means that every position
# leaks into every other. Three ways to exact zeros: a mask by a rule, and two maps that find their
# zeros themselves.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jsoftmax

# %% [markdown]
# ## Two maps with zeros
#
# *Sparsemax* (Martins and Astudillo 2016) is the point of the simplex nearest to the logits:
#
# $$p_i = \max(x_i - \tau, 0), \quad \tau \text{ such that } \sum_i p_i = 1$$
#
# *Entmax* (Peters, Niculae and Martins 2019) has a dial: $\alpha = 1$ is softmax, $\alpha = 2$ is
# sparsemax, and 1.5 is the usual choice between them.
#
# One row through each:

# %%
row = jnp.array([2.0, 1.6, 1.1, 0.9, 0.1, -0.5])
for name, p in {
    "softmax": jsoftmax.softmax(row),
    "softmax of top-k 3": jsoftmax.softmax(
        row, where=jsoftmax.top_k_mask(row, 3)
    ),
    "entmax 1.5": jsoftmax.entmax(row),
    "sparsemax": jsoftmax.sparsemax(row),
}.items():
    print(
        f"{name:>18}:",
        np.array2string(np.asarray(p), precision=3, suppress_small=True),
    )
    assert jnp.allclose(p.sum(), 1)

assert (jsoftmax.softmax(row) > 0).all()
assert (jsoftmax.sparsemax(row) > 0).sum() == 2
assert jnp.allclose(jsoftmax.entmax(row, alpha=2.0), jsoftmax.sparsemax(row))

# %% [markdown]
# The difference is in who decides. Top-k keeps three whatever the logits are, and shares the mass
# among them as softmax does. Sparsemax and entmax keep as many as the logits ask for: one where one
# stands out, all where they are equal.

# %%
for name, logits in (
    ("one stands out", jnp.array([3.0, 0.0, 0.0, 0.0])),
    ("two compete", jnp.array([3.0, 2.9, 0.0, 0.0])),
    ("all are equal", jnp.zeros(4)),
):
    by_rule = jsoftmax.top_k_mask(logits, 2, ties="first").sum()
    by_map = (jsoftmax.sparsemax(logits) > 0).sum()
    print(f"{name:>15}: top-k 2 keeps {by_rule}, sparsemax {by_map}")

assert (jsoftmax.sparsemax(jnp.zeros(4)) > 0).all()
assert (jsoftmax.sparsemax(jnp.array([3.0, 0.0, 0.0, 0.0])) > 0).sum() == 1

# %% [markdown]
# ## Attention maps
#
# Causal self-attention over 24 positions: a position sees itself and what came before. The causal
# mask is `where=`, and the square root of the width is the temperature. A truncation takes the same
# mask, so that the three largest are chosen among what may be seen.

# %%
length, width = 24, 16
key_q, key_k = jax.random.split(jax.random.key(1))
query, key = (
    1.6 * jax.random.normal(k, (length, width)) for k in (key_q, key_k)
)
scores = query @ key.T
causal = jnp.tril(jnp.ones((length, length), bool))
temperature = width**0.5

top_3 = jsoftmax.top_k_mask(scores, 3, where=causal)
attention = {
    "softmax": jsoftmax.softmax(scores, where=causal, temperature=temperature),
    "softmax of top-k 3": jsoftmax.softmax(
        scores, where=top_3, temperature=temperature
    ),
    "entmax 1.5": jsoftmax.entmax(
        scores, where=causal, temperature=temperature
    ),
    "sparsemax": jsoftmax.sparsemax(
        scores, where=causal, temperature=temperature
    ),
}

zeros = {name: int(((p == 0) & causal).sum()) for name, p in attention.items()}

figure, panels = plt.subplots(
    1, 4, figsize=(8.6, 2.7), sharey=True, layout="constrained"
)
for ax, (name, p) in zip(panels, attention.items(), strict=True):
    # Exact zeros stay grey.
    shown = np.ma.masked_equal(np.asarray(p), 0)
    ax.set_facecolor("#e9ecef")
    image = ax.imshow(shown, vmin=0, vmax=1, cmap="viridis_r")
    ax.set_title(
        f"{name}\n{zeros[name]} of {causal.sum()} are 0", loc="left", size=10
    )
    ax.set_xlabel("key")
panels[0].set_ylabel("query")
figure.colorbar(image, ax=panels, label="weight", shrink=0.85)

for p in attention.values():
    assert (jnp.where(causal, 0, p) == 0).all()
    assert jnp.allclose(p.sum(-1), 1, atol=1e-6)
assert zeros["softmax"] == 0 < zeros["entmax 1.5"] < zeros["sparsemax"]

# %% [markdown]
# Grey is an exact zero. The upper triangle is the future; the rest of the grey is what a rule or a
# map left out.
#
# ## Gradients
#
# A zero has no gradient: a key that gets no weight does not learn from that query. For top-k the
# rule decides which ones, and no gradient flows through its cut. The derivative of sparsemax is the
# identity on its support, less the mean: what is kept shares the gradient.

# %%
of_score = jax.jacobian(jsoftmax.sparsemax)(row)
support = jsoftmax.sparsemax(row) > 0
print(np.asarray(of_score))
expected = jnp.outer(support, support) * (jnp.eye(6) - 1 / support.sum())
assert jnp.allclose(of_score, expected, atol=1e-6)

# %% [markdown]
# ## Where it helps: longer rows than in training
#
# Softmax disperses. With the logits in a bounded range, the weight of the largest entry falls as
# the row grows, because each of the others keeps a little. A sparse map does not give to what is
# far enough below.
#
# The task: a set of items, each with a priority in [0, 1] and a class. What is the class of the
# item of highest priority? A small network gives each item a score; attention over the items takes
# the mean of their embeddings; a linear layer reads the class. We train on sets of 16 items and
# test on up to 1024.
#
# One function trains for any $\alpha$. It is traced like every setting, so `vmap` trains all three
# in one program.

# %%
classes, width, trained_on = 8, 32, 16


def draw_sets(key, number, size):
    key_priority, key_class = jax.random.split(key)
    priority = jax.random.uniform(key_priority, (number, size))
    kind = jax.random.randint(key_class, (number, size), 0, classes)
    first = priority.argmax(-1, keepdims=True)
    return priority, kind, jnp.take_along_axis(kind, first, -1)[:, 0]


def initialise(key):
    keys = jax.random.split(key, 4)
    return {
        "in": jax.random.normal(keys[0], (1, width)),
        "bias": jnp.zeros(width),
        "score": jax.random.normal(keys[1], (width, 1)) / width**0.5,
        "embedding": jax.random.normal(keys[2], (classes, width)),
        "out": jax.random.normal(keys[3], (width, classes)) / width**0.5,
    }


def classify(parameters, priority, kind, alpha):
    hidden = jax.nn.relu(
        priority[..., None] @ parameters["in"] + parameters["bias"]
    )
    weights = jsoftmax.entmax(
        (hidden @ parameters["score"])[..., 0], alpha=alpha
    )
    mean = jnp.einsum("bn,bnd->bd", weights, parameters["embedding"][kind])
    return mean @ parameters["out"], weights


optimizer = optax.adam(3e-3)


def train(alpha):
    def loss(parameters, key):
        priority, kind, label = draw_sets(key, 64, trained_on)
        logits, _ = classify(parameters, priority, kind, alpha)
        return jsoftmax.cross_entropy(logits, label).mean()

    def step(state, key):
        parameters, moments = state
        value, gradient = jax.value_and_grad(loss)(parameters, key)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(parameters, updates), moments), value

    parameters = initialise(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 600)
    (parameters, _), losses = jax.lax.scan(
        step, (parameters, optimizer.init(parameters)), keys
    )
    return parameters, losses


alphas = jnp.array([1.0, 1.5, 2.0])
names = ["softmax", "entmax 1.5", "sparsemax"]
parameters, losses = jax.jit(jax.vmap(train))(alphas)
for name, each in zip(names, losses, strict=True):
    print(f"{name:>10}: loss of the last 50 steps {each[-50:].mean():.3f}")

# %%
sizes = (16, 128, 1024)
accuracy, largest, number = [], [], []
for size in sizes:
    priority, kind, label = draw_sets(jax.random.key(2), 500, size)
    evaluate = jax.jit(jax.vmap(classify, in_axes=(0, None, None, 0)))
    logits, weights = evaluate(parameters, priority, kind, alphas)
    accuracy.append((logits.argmax(-1) == label).mean(-1))
    largest.append(weights.max(-1).mean(-1))
    number.append((weights > 0).sum(-1).mean(-1))

figure, panels = plt.subplots(1, 3, figsize=(8.4, 2.7), layout="constrained")
for ax, values, title in zip(
    panels,
    (accuracy, largest, number),
    ("accuracy", "largest weight", "items with weight"),
    strict=True,
):
    for name, line, style in zip(
        names, jnp.stack(values, axis=1), ("-", "--", ":"), strict=True
    ):
        ax.plot(sizes, line, style, marker="o", markersize=4, label=name)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, labels=sizes)
    ax.set_xlabel("items in the set")
    ax.set_title(title, loc="left", size=10)
    ax.spines[["top", "right"]].set_visible(False)
panels[0].axhline(1 / classes, color="gray", linewidth=0.8)
panels[0].set_ylim(0, 1.03)
panels[1].set_ylim(0, 1.03)
panels[2].set_yscale("log", base=2)
panels[2].set_yticks(
    [1, 4, 16, 64, 256, 1024], labels=["1", "4", "16", "64", "256", "1024"]
)
panels[0].legend(frameon=False, fontsize=8, loc="upper right")

for size, each in zip(sizes, accuracy, strict=True):
    shares = zip(names, each, strict=True)
    print(
        f"{size:5} items:", *(f"{name} {share:.3f}" for name, share in shares)
    )
for name, weighed in zip(names, number[-1], strict=True):
    print(f"of 1024 items {name} gives weight to {weighed:.0f}")
assert (accuracy[0] > 0.9).all()
assert largest[-1][0] < 0.1
assert 5 < number[-1][2] < 15
for each in accuracy[1:]:
    assert each[2] > each[0] + 0.05

# %% [markdown]
# All three learn the task at its own size. On longer sets all get worse, and softmax most of all:
# at 1024 items its largest weight is near nothing, while sparsemax looks at some ten items. The
# grey line is chance.
#
# That is one task with one seed, made to show the effect. It does not say that a sparse map is the
# better one in a language model.

# %% [markdown]
# ## What to remember
#
# - `softmax(scores, where=top_k_mask(scores, k, where=causal))`: zeros by a rule.
# - `sparsemax` and `entmax`: zeros by the logits, with a gradient among what is kept.
# - $\alpha$ is traced and may differ from row to row; the Python numbers 1, 1.5 and 2 are faster.
# - Softmax disperses over long rows, and sparse maps do so more slowly.

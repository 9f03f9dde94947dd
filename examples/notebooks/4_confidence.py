# %% [markdown]
# # 4. Why models are confident even when they are wrong
#
# A classifier that says "90 %" should be right nine times in ten. Trained on the cross-entropy,
# many are not: they are too sure, and of their mistakes as well. Here we train one, watch its
# confidence leave its accuracy behind, and repair most of it with a single number.

# %%
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import jsoftmax
from jsoftmax import calibration, plot

# %% [markdown]
# ## A task with doubt in it
#
# 1,797 handwritten digits, 8 by 8 pixels, with noise added: some can no longer be told for
# sure. One part is for training, one is held out, and one is new data for the verdict.

# %%
digits = load_digits()
random = np.random.default_rng(0)
order = random.permutation(len(digits.target))
clean = digits.data[order] / 16
x = jnp.asarray(clean + 0.4 * random.normal(size=clean.shape), jnp.float32)
y = jnp.asarray(digits.target[order], jnp.int32)
train, held_out, new = slice(0, 600), slice(600, 1200), slice(1200, None)

figure, panels = plt.subplots(1, 8, figsize=(7.2, 1.2), layout="constrained")
for ax, image, label in zip(panels, x[new], y[new], strict=False):
    ax.imshow(image.reshape(8, 8), cmap="gray_r")
    ax.set_title(int(label))
    ax.axis("off")

# %% [markdown]
# ## A network larger than its data
#
# Two hidden layers of 256 units: 85,000 parameters for 600 images. Plain JAX, with
# `jsoftmax.cross_entropy` as the loss and Adam from optax. We go on long after the training labels
# are right.


# %%
def initialise(key, sizes=(64, 256, 256, 10)):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (
            (2 / inputs) ** 0.5 * jax.random.normal(key, (inputs, outputs)),
            jnp.zeros(outputs),
        )
        for key, (inputs, outputs) in zip(keys, pairwise(sizes), strict=True)
    ]


def network(parameters, x):
    *hidden, (weight, bias) = parameters
    for w, b in hidden:
        x = jax.nn.relu(x @ w + b)
    return x @ weight + bias


def loss(parameters, x, y):
    return jsoftmax.cross_entropy(network(parameters, x), y).mean()


optimizer = optax.adam(1e-3)


def step(state, _):
    """One step on all training images, and a record of the state before it."""
    parameters, moments = state
    of_train, gradient = jax.value_and_grad(loss)(
        parameters, x[train], y[train]
    )
    rows, logits = (network(parameters, x[part]) for part in (train, new))
    record = {
        "train loss": of_train,
        "new loss": jsoftmax.cross_entropy(logits, y[new]).mean(),
        "train accuracy": (rows.argmax(-1) == y[train]).mean(),
        "accuracy": (logits.argmax(-1) == y[new]).mean(),
        "confidence": jsoftmax.softmax(logits).max(-1).mean(),
        "spread of logits": logits.std(-1).mean(),
    }
    updates, moments = optimizer.update(gradient, moments)
    return (optax.apply_updates(parameters, updates), moments), record


start = initialise(jax.random.key(0))
scan = jax.jit(lambda state: jax.lax.scan(step, state, length=500))
(parameters, _), history = scan((start, optimizer.init(start)))
logits = network(parameters, x[new])

for name in history:
    early, late = history[name][50], history[name][-1]
    print(f"{name:>16}: {early:.3f} after 50 steps, {late:.3f} at the end")
number = sum(leaf.size for leaf in jax.tree.leaves(parameters))
print("parameters:", number)
assert round(number, -3) == 85_000
assert history["train accuracy"][50] > 0.98
assert history["train accuracy"][-1] == 1

# %% [markdown]
# ## What happens
#
# After some fifty steps every training label is right, or nearly so. From there on the loss can
# fall in one way only: the logits grow. For two classes at a distance $d$ it is
# $\log(1 + e^{-d})$, which falls for ever as $d$ grows and is never 0. So $d$ grows.
#
# On new images nothing gets better by it. Accuracy stays; confidence does not, and the loss of the
# mistakes rises.

# %%
figure, panels = plt.subplots(1, 3, figsize=(8.4, 2.9), layout="constrained")
for ax, names in zip(
    panels,
    (
        ("train loss", "new loss"),
        ("accuracy", "confidence"),
        ("spread of logits",),
    ),
    strict=True,
):
    for name, color in zip(names, ("#3b5bdb", "#e8590c"), strict=False):
        ax.plot(history[name], color=color, label=name)
    ax.set_xlabel("step")
    ax.set_ylim(0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="best")

assert history["train loss"][-1] < 0.01
assert history["new loss"][-1] > 1.3 * history["new loss"].min()
assert abs(history["accuracy"][-1] - history["accuracy"][50]) < 0.03
assert history["confidence"][-1] > history["accuracy"][-1] + 0.1

# %% [markdown]
# Here are the mistakes that the model is surest of.

# %%
p = jsoftmax.softmax(logits)
predicted, confidence = p.argmax(-1), p.max(-1)
wrong = np.flatnonzero(predicted != y[new])
surest = wrong[np.argsort(-confidence[wrong])[:6]]

figure, panels = plt.subplots(1, 6, figsize=(7.2, 1.7), layout="constrained")
for ax, place in zip(panels, surest, strict=True):
    ax.imshow(x[new][place].reshape(8, 8), cmap="gray_r")
    ax.set_title(
        f"is {y[new][place]}\nsays {predicted[place]}: {confidence[place]:.3f}",
        size=9,
    )
    ax.axis("off")

share = (confidence[wrong] > 0.9).mean()
print(f"more than 90 % sure of {share:.0%} of its {len(wrong)} mistakes")
assert share > 0.25

# %% [markdown]
# ## The reliability diagram
#
# Sort the predictions by confidence into bins. In each, compare the mean confidence with the share
# that was right. On the diagonal a confidence can be believed. The mean gap is the *expected
# calibration error*:
#
# $$\mathrm{ECE} = \sum_b w_b \, |\mathrm{accuracy}_b - \mathrm{confidence}_b|$$
#
# ## One number
#
# The logits are too large. So divide them, by the temperature $T$ at which the held-out labels are
# most likely (Guo et al. 2017). The order of the classes stays, and with it every prediction.

# %%
t = calibration.fit_temperature(network(parameters, x[held_out]), y[held_out])
print(f"T = {t:.2f}")

figure, panels = plt.subplots(1, 2, figsize=(8.4, 4), layout="constrained")
for ax, temperature in zip(panels, (1.0, t), strict=True):
    curve = calibration.reliability_curve(
        logits, y[new], temperature=temperature, bins=10
    )
    plot.reliability_diagram(curve, label=f"T = {temperature:.2f}", ax=ax)

# %%
print(f"{'':>22} {'T = 1':>7} {f'T = {t:.2f}':>9}")
measures = {
    "ECE": partial(calibration.expected_calibration_error, bins=10),
    "Brier score": calibration.brier_score,
    "cross-entropy": lambda logits, labels, temperature: jsoftmax.cross_entropy(
        logits, labels, temperature=temperature
    ).mean(),
}
results = {}
for name, measure in measures.items():
    results[name] = [
        float(measure(logits, y[new], temperature=T)) for T in (1.0, t)
    ]
    print(f"{name:>22} {results[name][0]:7.3f} {results[name][1]:9.3f}")
accuracy = (logits.argmax(-1) == y[new]).mean()
print(f"{'accuracy':>22} {accuracy:7.3f} {accuracy:9.3f}")
print(f"\nlowest cross-entropy in training: {history['new loss'].min():.3f}")

assert t > 1.5
assert results["ECE"][1] < 0.4 * results["ECE"][0]
assert results["cross-entropy"][1] < 1.05 * history["new loss"].min()
assert all(after < before for before, after in results.values())
assert (jsoftmax.softmax(logits, temperature=t).argmax(-1) == predicted).all()

# %% [markdown]
# The cross-entropy is back near the lowest that training passed through, without training again.
#
# Below is the curve behind it, for both parts of the data. The minimum of the held-out one is where
# `fit_temperature` lands, by a few steps of Newton's method.

# %%
sweep = jnp.geomspace(0.5, 10, 100)
figure, ax = plt.subplots(figsize=(7.2, 3), layout="constrained")
for name, part, color in (
    ("held out", held_out, "#3b5bdb"),
    ("new", new, "#e8590c"),
):
    rows = network(parameters, x[part])
    values = [
        jsoftmax.cross_entropy(rows, y[part], temperature=T).mean()
        for T in sweep
    ]
    ax.semilogx(sweep, values, color=color, label=name)
    if name == "held out":
        assert abs(np.log(sweep[np.argmin(values)] / t)) < 0.03
ax.axvline(t, color="gray", linewidth=0.8)
ax.set_xticks([0.5, 1, 2, 5, 10], labels=["0.5", "1", "2", "5", "10"])
ax.minorticks_off()
ax.set(xlabel="temperature", ylabel="cross-entropy")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## What it does not repair
#
# A temperature learns from data like the held-out part. Show the model something else, pure noise
# with no digit in it, and it still has an opinion.

# %%
noise = network(
    parameters, jnp.asarray(random.uniform(size=(500, 64)), jnp.float32)
)
for temperature in (1.0, t):
    mean = jsoftmax.softmax(noise, temperature=temperature).max(-1).mean()
    print(f"T = {temperature:.2f}: mean confidence in pure noise {mean:.2f}")

assert mean > 0.3

# %% [markdown]
# ## What to remember
#
# - The cross-entropy rewards larger logits once the labels are right: confidence outgrows accuracy.
# - `calibration.fit_temperature` on held-out data, then `softmax(logits, temperature=t)`.
# - Predictions stay the same; probabilities become honest, for data of the same kind.

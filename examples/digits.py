"""A Haiku classifier of handwritten digits that is too sure of itself, and what mends it.

    uv run --group models examples/digits.py [--images 300] [--epochs 100] [--picture digits.png]

A small convolutional network learns scikit-learn's digits (8 x 8 pixels) from few images, with
`jsoftmax.cross_entropy`. Half of the others fit a temperature (`calibration.fit_temperature`), and
the other half, which nothing was fitted to, tells what that is worth: the accuracy stays, the
likelihood and the calibration error get better.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jsoftmax
import pictures
from jsoftmax import calibration
from progress import progress

CLASSES, BATCH, LEARNING_RATE, BINS = 10, 50, 2e-3, 10


class Examples(NamedTuple):
    """Images in [0, 1], [n, 8, 8, 1], and the digits that they show, [n]."""

    images: Array
    labels: Array


class Split(NamedTuple):
    """What the network learns from, what fits the temperature, and what nothing has seen."""

    train: Examples
    fit: Examples
    test: Examples


class State(NamedTuple):
    """What training changes."""

    params: hk.Params
    optimizer: optax.OptState


class Measures(NamedTuple):
    """How good the predictions for some examples are."""

    accuracy: Array
    nll: Array
    ece: Array
    brier: Array


def load(train_images: int, seed: int) -> Split:
    """The digits, each class in proportion: `train_images`, and two halves of the others."""
    images, labels = load_digits(return_X_y=True)
    examples = np.float32(images.reshape(-1, 8, 8, 1) / 16), np.int32(labels)

    def part(images: np.ndarray, labels: np.ndarray, first: int) -> tuple[Examples, Examples]:
        parts = train_test_split(
            images, labels, train_size=first, stratify=labels, random_state=seed
        )
        a, b, labels_a, labels_b = map(jnp.asarray, parts)
        return Examples(a, labels_a), Examples(b, labels_b)

    train, others = part(*examples, train_images)
    return Split(train, *part(*map(np.asarray, others), len(others.labels) // 2))


@hk.without_apply_rng
@hk.transform
def network(images: Array) -> Array:
    """The logits of images, [n, 8, 8, 1] to [n, CLASSES]."""
    layers = hk.Sequential(
        [
            hk.Conv2D(16, 3),
            jax.nn.relu,
            hk.Conv2D(32, 3, stride=2),
            jax.nn.relu,
            hk.Flatten(),
            hk.Linear(64),
            jax.nn.relu,
            hk.Linear(CLASSES),
        ]
    )
    return layers(images)


def loss(params: hk.Params, examples: Examples) -> Array:
    logits = network.apply(params, examples.images)
    return jsoftmax.cross_entropy(logits, examples.labels).mean()


def epoch(
    optimizer: optax.GradientTransformation, state: State, examples: Examples, key: Array
) -> State:
    """Trains on all examples once, in an order of its own, but for what is left of a batch."""

    def step(state: State, batch: Examples) -> tuple[State, None]:
        gradient = jax.grad(loss)(state.params, batch)
        change, inner = optimizer.update(gradient, state.optimizer)
        return State(optax.apply_updates(state.params, change), inner), None

    order = jax.random.permutation(key, len(examples.labels))
    order = order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
    return lax.scan(step, state, jax.tree.map(lambda x: x[order], examples))[0]


def measure(logits: Array, labels: Array, temperature: Array | float) -> Measures:
    """The quality of softmax(logits / temperature)."""
    predicted = jnp.argmax(jsoftmax.softmax(logits, temperature=temperature), axis=-1)
    return Measures(
        accuracy=jnp.mean(predicted == labels),
        nll=jsoftmax.cross_entropy(logits, labels, temperature=temperature).mean(),
        ece=calibration.expected_calibration_error(
            logits, labels, temperature=temperature, bins=BINS
        ),
        brier=calibration.brier_score(logits, labels, temperature=temperature),
    )


@jax.jit
def examine(params: hk.Params, split: Split) -> tuple[Array, Measures, Measures]:
    """The temperature that fits, and how good unseen predictions are without it and with it."""
    temperature = calibration.fit_temperature(
        network.apply(params, split.fit.images), split.fit.labels
    )
    logits, labels = network.apply(params, split.test.images), split.test.labels
    return temperature, measure(logits, labels, 1.0), measure(logits, labels, temperature)


class History(NamedTuple):
    """What `examine` says after each epoch; the arrays have one more axis, [epochs, ...]."""

    temperature: Array
    before: Measures
    after: Measures


def train(
    split: Split, *, epochs: int, key: Array, show: Callable[[int, str], None]
) -> tuple[hk.Params, History]:
    """Trains the network; returns its parameters and the history."""
    init_key, epochs_key = jax.random.split(key)
    params = network.init(init_key, split.train.images)
    optimizer = optax.adam(LEARNING_RATE)
    state = State(params, optimizer.init(params))
    # Donated: each epoch overwrites the state of the one before.
    run = jax.jit(partial(epoch, optimizer), donate_argnames="state")
    history = []
    for number, epoch_key in enumerate(jax.random.split(epochs_key, epochs), start=1):
        state = run(state, split.train, epoch_key)
        history.append(History(*examine(state.params, split)))
        before, after = history[-1].before.nll, history[-1].after.nll
        show(number, f"loss {before:.3f}, fitted {after:.3f}")
    return state.params, jax.tree.map(lambda *each: jnp.stack(each), *history)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, default=300, metavar="N", help="to learn from (default: 300)")
    add("--epochs", type=int, default=100, metavar="N", help="passes over them (default: 100)")
    add("--seed", type=int, default=0, metavar="N", help="another seed, other images (default: 0)")
    options = pictures.parse(parser, argv, "digits.png")
    if not 100 <= options.images <= 1500:
        parser.error("--images must be from 100 to 1500, of the 1797 that there are")
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    started = time.perf_counter()
    split = load(options.images, options.seed)
    with progress("training", options.epochs) as show:
        params, history = train(
            split, epochs=options.epochs, key=jax.random.key(options.seed), show=show
        )
    temperature, before, after = jax.tree.map(lambda x: float(x[-1]), history)
    sizes = [len(part.labels) for part in split]
    print(f"{sizes[0]} images to learn from, {sizes[1]} for the temperature, {sizes[2]} unseen")
    print(f"Loss on what it learnt from: {loss(params, split.train):.4f}")
    print(f"Fitted temperature: {temperature:.3f}")
    print(f"{'On unseen images':18}{'T = 1':>10}{'fitted T':>10}")
    names = ("accuracy", "loss", "calibration error", "Brier score")
    for name, one, fitted in zip(names, before, after, strict=True):
        print(f"{name:18}{one:10.4f}{fitted:10.4f}")
    logits = network.apply(params, split.test.images)
    curves = {
        f"T = {t:.3g}": calibration.reliability_curve(
            logits, split.test.labels, temperature=t, bins=BINS
        )
        for t in (1.0, temperature)
    }
    picture = pictures.of_calibration(
        history.before.nll, history.after.nll, history.temperature, curves
    )
    picture.savefig(options.picture, dpi=130)
    print(f"{time.perf_counter() - started:.0f} s. The picture: {options.picture}")


if __name__ == "__main__":
    main()

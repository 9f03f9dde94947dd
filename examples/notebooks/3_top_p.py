# %% [markdown]
# # 3. Top-p and its relatives, on a real model
#
# A language model gives a logit to every token of its vocabulary, and softmax gives each of them
# some mass. Nearly all are nonsense in their place. Truncation cuts them before a token is drawn.
# This notebook looks at what the rules keep of SmolLM2-135M-Instruct, a small chat model that
# `uv sync --group notebooks` brings along: nothing is fetched here.

# %%
import sys
import textwrap

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jsoftmax
from jsoftmax import plot

# The model is in examples/, a folder of scripts that is not installed.
sys.path.append("..")

from checkpoint import Checkpoint
from decoding import next_logits

checkpoint = Checkpoint()
tokenizer = checkpoint.tokenizer
model = checkpoint.load()


def word(index):
    return tokenizer.decode([int(index)])


# %% [markdown]
# ## Three contexts
#
# One leaves little choice, one some, and one a lot. A fourth row holds a longer text for later.

# %%
texts = [
    "The capital of France is",
    "Red, green, yellow and",
    "Once upon a time, in a village by the sea, there lived a",
    (
        "The lighthouse keeper climbed the stairs every evening at six. He lit "
        "the lamp, wound the clock, and wrote the weather into a book with a "
        "blue cover. In winter the storms came from the north, and nobody "
        "could reach the island for weeks. He did not mind. He had three cats, "
        "a shelf of novels and a radio that worked when the wind was low. One "
        "night in January he heard a knock at the door."
    ),
]
tokens = [tokenizer.encode(text).ids for text in texts]
lengths = np.array([len(row) for row in tokens])
padded = np.zeros((4, lengths.max()), np.int32)
for row, ids in zip(padded, tokens, strict=True):
    row[: len(ids)] = ids

# The model looks back only: what stands behind a place does not matter there.
after = jax.jit(lambda model, tokens: model(tokens)[0])(
    model, jnp.asarray(padded)
)
logits = after[jnp.arange(3), lengths[:3] - 1]
print("logits of the next token:", logits.shape)

for text, row in zip(texts, logits, strict=False):
    top, places = jax.lax.top_k(jsoftmax.softmax(row), 5)
    likely = ", ".join(
        f"{word(i)!r} {p:.2f}" for p, i in zip(top, places, strict=True)
    )
    print(f"\n{text} ...\n  {likely}")

# %% [markdown]
# ## Top-k and top-p
#
# **Top-k** keeps the $k$ most probable tokens. **Top-p** keeps the smallest set of most probable
# tokens whose mass reaches $p$, the *nucleus* (Holtzman et al. 2019): few where the model is sure,
# many where it is not.
#
# Every rule of jsoftmax returns a boolean mask, True where a token is kept.

# %%
rules = {
    "top-k 50": jsoftmax.top_k_mask(logits, 50),
    "top-p 0.9": jsoftmax.top_p_mask(logits, 0.9),
    "min-p 0.1": jsoftmax.min_p_mask(logits, 0.1),
    "typical 0.9": jsoftmax.typical_mask(logits, 0.9),
    "top-n-sigma 1": jsoftmax.top_n_sigma_mask(logits, 1.0),
}
p = jsoftmax.softmax(logits)
print(f"{'':>14} {'France':>14} {'colours':>14} {'village':>14}")
for name, kept in rules.items():
    counts, masses = kept.sum(-1), p.sum(-1, where=kept)
    cells = (
        f"{count:5} of {mass:.3f}"
        for count, mass in zip(counts, masses, strict=True)
    )
    print(f"{name:>14}", *(f"{cell:>14}" for cell in cells))

assert (rules["top-k 50"].sum(-1) == 50).all()
assert (p.sum(-1, where=rules["top-p 0.9"]) >= 0.9 - 1e-5).all()

# %% [markdown]
# Each cell has the number of tokens kept, and their mass. Fifty tokens are too many for the capital
# of France, and leave out good names for who lived in the village.
#
# A picture of one row, with $p = 0.7$: bars are filled where a token is kept, and the dots sum them
# up.

# %%
village = logits[2]
figure, ax = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
ax = plot.kept_set(
    village, jsoftmax.top_p_mask(village, 0.7), labels=word, top=20, ax=ax
)

# %% [markdown]
# ## The relatives
#
# - **Min-p** keeps what has at least a share of the largest probability: $p_i \ge m \cdot \max p$.
# - **Typical** keeps what is about as surprising as the distribution leads one to expect:
#   smallest $|-\log p_i - H|$ first, until the mass is reached.
# - **Top-n-sigma** keeps the logits within $n$ standard deviations of the largest.
#
# With a lower mass, typical cuts the *likeliest* tokens first. The others keep a head of the row.

# %%
masks = {
    "top-k 20": jsoftmax.top_k_mask(village, 20),
    "top-p 0.7": jsoftmax.top_p_mask(village, 0.7),
    "min-p 0.1": jsoftmax.min_p_mask(village, 0.1),
    "typical 0.5": jsoftmax.typical_mask(village, 0.5),
    "top-n-sigma 1": jsoftmax.top_n_sigma_mask(village, 1.0),
}
figure, ax = plt.subplots(figsize=(7.2, 3.0), layout="constrained")
ax = plot.compare_truncations(village, masks, labels=word, top=20, ax=ax)

assert not masks["typical 0.5"][jnp.argmax(village)]

# %% [markdown]
# ## The nucleus breathes with the text
#
# Here is the size of the top-p set at every place of the text about the lighthouse. It goes with
# the entropy. A fixed $k$ is a horizontal line.

# %%
story = after[3, : lengths[3] - 1]
sizes = jsoftmax.top_p_mask(story, 0.9).sum(-1)
entropies = jsoftmax.entropy(story)

figure, ax = plt.subplots(figsize=(7.2, 3.0), layout="constrained")
ax.scatter(entropies, sizes, s=18, color="#3b5bdb", alpha=0.7, linewidth=0)
ax.axhline(50, color="#e8590c", linestyle="--", linewidth=1.2)
ax.text(6.3, 40, "top-k 50", color="#e8590c", ha="right", va="top")
ax.set_yscale("log")
ax.set_yticks([1, 10, 100, 1000], labels=["1", "10", "100", "1000"])
ax.set(
    xlabel="entropy of the next token (nats)",
    ylabel="tokens in the top-p 0.9 set",
)
ax.spines[["top", "right"]].set_visible(False)

low, middle, high = np.percentile(np.asarray(sizes), [10, 50, 90])
print(f"at {len(sizes)} places; median {middle:.0f} tokens")
print(f"one in ten below {low:.0f}, one in ten above {high:.0f}")
print(f"from {sizes.min()} to {sizes.max()}, of {story.shape[-1]:,} tokens")
assert sizes.max() > 50 * sizes.min()

# %% [markdown]
# ## Why cut at all
#
# Each token beyond the nucleus is improbable; all of them together are not. If one draw in ten
# leaves the nucleus, a text of 40 tokens without truncation stays in it with probability
# $0.9^{40}$.

# %%
print(f"a text of 40 tokens leaves the nucleus: {1 - 0.9**40:.1%}")
assert 1 - 0.9**40 > 0.98

# %% [markdown]
# Temperature makes it worse. At T = 2 the tokens beyond the first fifty hold most of the mass, and
# a rule that asks for a *mass* lets them in. A rule that asks for a share of the largest
# probability does not; and how far a logit lies below the largest, in standard deviations, no
# temperature changes. `truncation_mask` takes the temperature and the cuts in one call; for the
# other rules, `temperature_scale` divides the logits first.

# %%
for temperature in (1.0, 1.5, 2.0):
    by_mass = jsoftmax.truncation_mask(
        village, temperature=temperature, top_p=0.9
    ).sum()
    by_share = jsoftmax.truncation_mask(
        village, temperature=temperature, min_p=0.1
    ).sum()
    scaled = jsoftmax.temperature_scale(village, temperature)
    by_spread = jsoftmax.top_n_sigma_mask(scaled, 1.0).sum()
    beyond = jsoftmax.softmax(scaled).sum(where=~rules["top-k 50"][2])
    print(f"T = {temperature}: beyond the first fifty a mass of {beyond:.2f}")
    print(f"  top-p 0.9 keeps {by_mass:,}, min-p 0.1 {by_share}", end=", ")
    print(f"top-n-sigma 1 {by_spread}")

assert beyond > 0.5
assert by_mass > 1000 > by_share
assert by_spread == rules["top-n-sigma 1"][2].sum()

# %% [markdown]
# ## Rules compose
#
# The mask of one rule is the `where=` of the next, and of every map. What is not allowed counts as
# absent: top-p after top-k is top-p of the *renormalised* survivors. So the order matters.

# %%
top_20 = jsoftmax.top_k_mask(village, 20)
k_then_p = jsoftmax.top_p_mask(village, 0.9, where=top_20)
p_then_k = jsoftmax.top_k_mask(
    village, 20, where=jsoftmax.top_p_mask(village, 0.9)
)
print("top-k 20, then top-p 0.9:", k_then_p.sum(), "tokens")
print("top-p 0.9, then top-k 20:", p_then_k.sum(), "tokens")
assert k_then_p.sum() < p_then_k.sum()
assert (
    k_then_p == jsoftmax.truncation_mask(village, top_k=20, top_p=0.9)
).all()

# A rule of your own is a mask as well: words of four letters at most.
short = jnp.array([len(word(i).strip()) <= 4 for i in range(len(village))])
p = jsoftmax.softmax(village, where=k_then_p & short)
print("short words only:")
for i in np.flatnonzero(p):
    print(f"  {p[i]:.3f}{word(i)}")
assert ((p > 0) == (k_then_p & short)).all()

# %% [markdown]
# ## Writing
#
# To write one needs no mask: `sample` takes the settings, and draws from what they keep. (For top-p
# it never even looks for the cut.) All settings are traced and may differ from row to row, so that
# four ways of decoding are four rows of *one* batch and one program.

# %%
settings = {
    "greedy": {"temperature": 0.0, "top_p": 1.0, "min_p": 0.0},
    "all tokens": {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0},
    "top-p 0.9": {"temperature": 1.0, "top_p": 0.9, "min_p": 0.0},
    "T = 2, min-p 0.2": {"temperature": 2.0, "top_p": 1.0, "min_p": 0.2},
}
batched = jax.tree.map(lambda *rows: jnp.array(rows), *settings.values())


@jax.jit
def step(model, cache, tokens, place, key, settings):
    """Reads a token per row, and draws the next one."""
    logits, cache = next_logits(model, cache, tokens, place)
    drawn, log_prob = jsoftmax.sample_and_log_prob(key, logits, **settings)
    return drawn, log_prob, logits, cache


prompt = tokens[2]
keys = jax.random.split(jax.random.key(3), len(prompt) + 23)
cache = model.new_cache(len(settings), len(keys))
read = [jnp.full(len(settings), token) for token in prompt]
log_probs, rows = [], []
for place, key in enumerate(keys):
    drawn, log_prob, row, cache = step(
        model, cache, read[place], jnp.int32(place), key, batched
    )
    if place >= len(prompt) - 1:  # The prompt has been read.
        read.append(drawn)
        log_probs.append(log_prob)
        rows.append(row)

written, log_probs, rows = (
    jnp.stack(each, axis=1) for each in (read[len(prompt) :], log_probs, rows)
)
print(texts[2], "...")
for name, row in zip(settings, written, strict=True):
    print(
        f"\n[{name}]", textwrap.fill(tokenizer.decode(row.tolist())), sep="\n"
    )

# %% [markdown]
# Every token that was drawn is one that the mask of the same settings keeps, and its
# log-probability is that of the renormalised distribution. This is the number that a policy
# gradient or a speculative decoder needs.

# %%
# Settings of shape [4, 1]: the same at each step.
column = jax.tree.map(lambda setting: setting[:, None], batched)
kept = jsoftmax.truncation_mask(rows, **column)
assert jnp.take_along_axis(kept, written[..., None], -1).all()

log_p = jsoftmax.log_softmax(
    rows, where=kept, temperature=column["temperature"]
)
expected = jnp.take_along_axis(log_p, written[..., None], -1)[..., 0]
assert jnp.allclose(log_probs[1:], expected[1:], atol=1e-4)
assert jnp.allclose(log_probs[0], 0)  # Greedy decoding is certain.
print("mean log-probability of a token:")
for name, row in zip(settings, log_probs, strict=True):
    print(f"  {name:>16}: {row.mean():6.2f}")

# %% [markdown]
# Where was the text decided? The entropy of the model at each step, and of what top-p left to draw
# from:

# %%
row = list(settings).index("top-p 0.9")
figure, ax = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
labels = [word(token) for token in written[row]]
ax = plot.entropy_trace(rows[row], tokens=labels, mask=kept[row], ax=ax)

# %% [markdown]
# ## What to remember
#
# - A truncation is a mask; masks compose through `where=`.
# - Top-p follows the entropy of the text, top-k does not.
# - At a high temperature a rule of mass lets the tail in; min-p and top-n-sigma do not.
# - `sample` takes all settings, one for all or one per row, and compiles once.

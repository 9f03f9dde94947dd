"""The models learn, decode and act by the rules, and their scripts run from end to end."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("equinox", reason="needs the dependency group models")
pytest.importorskip("flax", reason="needs the dependency group models")
pytest.importorskip("haiku", reason="needs the dependency group models")
pytest.importorskip("matplotlib", reason="needs the dependency group models")
pytest.importorskip("optax", reason="needs the dependency group models")
pytest.importorskip("rich", reason="needs the dependency group models")
pytest.importorskip("sklearn", reason="needs the dependency group models")
sys.path.append(str(Path(__file__).parents[1] / "examples"))

import equinox as eqx
import optax
from flax import nnx
from matplotlib.image import imread

import char_text
import char_transformer
import digits
import four_rooms
import gridworld
import jsoftmax
from char_model import CharTransformer, Config
from four_rooms import ACTIONS, CELLS, DISCOUNT, LEGAL, NEXT, Walk

EXAMPLES = Path(char_transformer.__file__).parent
forward = nnx.jit(lambda model, tokens: model(tokens)[0])
SMALL = Config(vocab_size=11, num_layers=2, width=16, num_heads=2, window=8)


def check_picture(picture: Path) -> None:
    """There is a picture, and something on it."""
    pixels = imread(picture)[..., :3]
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.05
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def run(script: ModuleType, *argv: str, picture: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script prints; it draws its picture."""
    with jax.numpy_dtype_promotion("standard"):  # The schedules of optax mix integers and floats.
        assert not script.main([*argv, "--picture", str(picture)])
    check_picture(picture)
    printed, notes = capsys.readouterr()
    assert f"The picture: {picture}" in printed
    assert not notes, "progress where there is no terminal"
    return printed


def number(line: str, text: str) -> float:
    """The first number behind these words."""
    found = re.search(rf"{re.escape(line)}:? +(-?[\d.]+)", text)
    assert found, text
    return float(found[1])


@pytest.mark.parametrize("script", [char_transformer, digits, gridworld])
def test_a_picture_that_cannot_be_written_is_an_error_at_once(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.main(["--picture", str(tmp_path / "nowhere" / "a.png")])
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("script", [char_transformer, digits, gridworld])
@pytest.mark.parametrize(
    "options",
    [["--picture", "a.foo"], ["--picture", "."], ["--seed", "-1"], ["--seed", str(2**40)]],
    ids=str,
)
def test_options_that_would_fail_at_the_end_are_refused_at_once(
    script: ModuleType, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.parse(options)
    assert options[0] in capsys.readouterr().err


def test_settings_of_the_text_that_are_no_numbers() -> None:
    for options in (["--temperature", "nan"], ["--top-p", "nan"], ["--min-p", "2"]):
        with pytest.raises(SystemExit, match="2"):
            char_transformer.parse(options)


def silent(_done: int, _words: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def model() -> CharTransformer:
    """A small one whose every layer has something to say: at first they are zero."""

    @nnx.jit
    def lively() -> CharTransformer:
        model = CharTransformer(SMALL, rngs=nnx.Rngs(0))
        keys = iter(jax.random.split(jax.random.key(1), 100))
        params = nnx.state(model, nnx.Param)
        nnx.update(
            model, jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params)
        )
        return model

    return lively()


@pytest.fixture
def tokens(key: jax.Array) -> jax.Array:
    return jax.random.randint(key, (2, 24), 0, SMALL.vocab_size)


class TestCharModel:
    def test_a_character_sees_what_came_before_it_alone(
        self, model: CharTransformer, tokens: jax.Array
    ) -> None:
        place, reach = 5, SMALL.window - 1
        changed = tokens.at[:, place].set((tokens[:, place] + 1) % SMALL.vocab_size)
        apart = np.abs(forward(model, tokens) - forward(model, changed)).max(axis=(0, 2))
        assert np.all(apart[:place] == 0)
        assert np.all(apart[place : place + reach + 1] > 1e-4)
        # Two layers, each of which sees a window.
        beyond = apart[place + 2 * reach + 1 :]
        assert len(beyond) == 4
        assert np.all(beyond == 0)

    def test_attention_is_what_it_says(self, model: CharTransformer, key: jax.Array) -> None:
        attention = model.blocks[0].attention
        x = jax.random.normal(key, (1, 12, SMALL.width))
        got, _ = attention(x, jnp.int32(0), None)
        heads = np.asarray(x[0] @ attention.query_key_value.kernel[...]).reshape(12, 3, 2, 8)
        rows = np.zeros((12, 2, 8))
        for head, slope in enumerate((2.0**-1, 2.0**-7)):
            query, key_, value = np.float64(np.moveaxis(heads, 1, 0)[:, :, head])
            query, key_ = (
                each / np.sqrt(np.mean(each**2, -1, keepdims=True)) for each in (query, key_)
            )
            for i in range(12):
                seen = np.arange(max(0, i - SMALL.window + 1), i + 1)
                score = key_[seen] @ query[i] / float(attention.temperature[head, 0])
                weight = np.exp(score - slope * (i - seen))
                rows[i, head] = weight / weight.sum() @ value[seen]
        want = rows.reshape(12, SMALL.width) @ np.float64(attention.output.kernel[...])
        np.testing.assert_allclose(got[0], want, atol=1e-4)

    def test_cached_and_uncached_logits_agree(
        self, model: CharTransformer, tokens: jax.Array
    ) -> None:
        step = nnx.jit(lambda model, tokens, place, cache: model(tokens, place, cache))
        cache = model.new_cache(2, 24)
        logits, cache = step(model, tokens[:, :5], 0, cache)
        rows = [logits]
        for place in range(5, 24):
            logits, cache = step(model, tokens[:, [place]], place, cache)
            rows.append(logits)
        whole = forward(model, tokens)
        chex.assert_trees_all_close(jnp.concatenate(rows, axis=1), whole, atol=1e-4)

    def test_heads_learn_their_temperatures(
        self, model: CharTransformer, tokens: jax.Array
    ) -> None:
        gradient = nnx.jit(nnx.grad(char_transformer.loss))(model, tokens)
        for block in gradient["blocks"].values():
            of_heads = block["attention"]["temperature"][...]
            assert of_heads.shape == (2, 1)
            assert np.all(np.abs(of_heads) > 1e-6)


class TestCharText:
    def test_topics_that_quote_each_other_are_learnt_once(self) -> None:
        corpus = char_text.read()
        assert len(corpus.train) > 300_000
        parts = [set(corpus.decode(ids).split("\n\n")) for ids in (corpus.train, corpus.test)]
        assert not parts[0] & parts[1]
        assert 0.05 < len(corpus.test) / len(corpus.train) < 0.2
        text = "The statement\n"
        assert corpus.decode(corpus.encode(text)) == text
        with pytest.raises(ValueError, match="'日'"):
            corpus.encode("a日")

    def test_a_file_can_be_read(self, tmp_path: Path) -> None:
        file = tmp_path / "text.txt"
        file.write_text("\n\n".join(f"paragraph {i}" for i in range(20)), "utf-8")
        corpus = char_text.read(file)
        assert corpus.decode(corpus.test) == "paragraph 18\n\nparagraph 19"

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_n_gram_loss_counts(self, n: int) -> None:
        corpus = char_text.Corpus("ab", np.array([0, 1, 0, 0, 1, 1, 0]), np.array([0, 1, 1, 0]))
        train, test = corpus.decode(corpus.train), corpus.decode(corpus.test)
        grams = [train[i : i + n] for i in range(len(train) - n + 1)]
        costs = []
        for i in range(len(test) - n + 1):
            context, following = test[i : i + n - 1], test[i + n - 1]
            counts = {each: grams.count(context + each) + char_text.SMOOTHING for each in "ab"}
            costs.append(-np.log(counts[following] / sum(counts.values())))
        assert char_text.n_gram_loss(corpus, n) == pytest.approx(np.mean(costs))


class TestCharTransformer:
    @pytest.mark.slow
    def test_training_is_traced_once_and_repeats_itself(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = np.tile(np.arange(SMALL.vocab_size), 100)
        traced = chex.assert_max_traces(char_transformer.loss, n=2)
        monkeypatch.setattr(char_transformer, "loss", traced)
        runs = []
        for _ in range(2):  # An optimiser each: two traces for 120 steps.
            model = CharTransformer(SMALL._replace(num_layers=1), rngs=nnx.Rngs(0))
            # The schedules of optax mix integers and floats.
            with jax.numpy_dtype_promotion("standard"):
                runs.append(
                    char_transformer.train(
                        model, text, steps=60, key=jax.random.key(0), show=silent
                    )
                )
        assert runs[0] == runs[1]
        assert runs[0][0] == pytest.approx(np.log(SMALL.vocab_size), rel=0.2)
        assert runs[0][-1] < 0.2

    def test_what_is_drawn_is_kept_and_allowed(
        self, model: CharTransformer, key: jax.Array
    ) -> None:
        settings = char_transformer.Settings(
            temperature=jnp.array([0.0, 1.0, 3.0]),
            top_p=jnp.array([1.0, 0.7, 1.0]),
            min_p=jnp.array([0.0, 0.0, 0.2]),
        )
        allowed = jnp.arange(SMALL.vocab_size) % 3 > 0
        prompt = jnp.zeros((3, 2), jnp.int32)
        tokens, logits = char_transformer.write(model, prompt, key, settings, allowed, 40)
        assert tokens.shape == (3, 40)
        assert np.all(tokens % 3 > 0)
        np.testing.assert_array_equal(
            tokens[0], jnp.argmax(jnp.where(allowed, logits[0], -jnp.inf), axis=-1)
        )
        for row in range(3):
            kept = jsoftmax.truncation_mask(
                logits[row], where=allowed, **{n: s[row] for n, s in settings._asdict().items()}
            )
            assert np.all(jnp.take_along_axis(kept, tokens[row][:, None], axis=-1))
        # The logits are those of the text that was written.
        whole = forward(model, jnp.concatenate([prompt, tokens], axis=1))
        chex.assert_trees_all_close(logits, whole[:, 1:-1], atol=1e-4)
        again, _ = char_transformer.write(model, prompt, key, settings, allowed, 40)
        np.testing.assert_array_equal(tokens, again)
        other, _ = char_transformer.write(model, prompt, jax.random.key(5), settings, allowed, 40)
        np.testing.assert_array_equal(tokens[0], other[0])
        assert np.any(tokens[1:] != other[1:])

    @pytest.mark.slow
    def test_script_beats_counting_triples(self, tmp_path: Path) -> None:
        # As a user runs it: another process, with one device and no settings of the tests.
        picture = tmp_path / "text.png"
        options = ["--without", "eZ", "--prompt", "A li", "--length", "150"]
        result = subprocess.run(
            [sys.executable, char_transformer.__file__, "--quick", *options, "--picture", picture],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)},
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "\x1b" not in result.stdout + result.stderr, "progress where there is no terminal"
        assert "Warning" not in result.stderr
        check_picture(picture)
        counted, loss = (
            number(words, result.stderr) for words in ("counting triples", "this model")
        )
        assert 1 < loss < counted - 0.05
        texts = result.stdout
        assert len(texts) == 3 * (len("A li") + 150 + 1)
        assert "e" not in texts
        assert texts.count("A li") == 3

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--prompt", "日"], "'日'"),
            (["--text", "nowhere.txt"], "nowhere.txt"),
            (["--text", __file__, "--prompt", "a"], "too short"),
        ],
    )
    def test_what_cannot_be_learnt_is_an_error(
        self, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert char_transformer.main(argv) == 2
        assert message in capsys.readouterr().err


class TestDigits:
    def test_parts_are_apart_and_balanced(self) -> None:
        split = digits.load(300, 0)
        assert [len(part.labels) for part in split] == [300, 748, 749]
        images = np.concatenate([np.asarray(part.images).reshape(-1, 64) for part in split])
        chex.assert_trees_all_close(np.unique(images, axis=0).shape, (1797, 64))
        assert images.min() == 0
        assert images.max() == 1
        for part in split:
            shares = np.bincount(part.labels, minlength=10) / len(part.labels)
            assert np.all(np.abs(shares - 0.1) < 0.01)
        assert np.any(digits.load(300, 1).train.images != split.train.images)

    def test_an_epoch_reads_every_image_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # With a loss that is a parameter for each image, a step of 1 counts how often it was read.
        examples = digits.Examples(jnp.eye(100), jnp.zeros(100, jnp.int32))

        def loss(params: jax.Array, batch: digits.Examples) -> jax.Array:
            return -(batch.images @ params).sum()

        monkeypatch.setattr(digits, "loss", loss)
        optimizer = optax.sgd(1.0)
        state = digits.State(jnp.zeros(100), optimizer.init(jnp.zeros(100)))
        state = digits.epoch(optimizer, state, examples, jax.random.key(0))
        np.testing.assert_array_equal(state.params, np.ones(100))

    @pytest.mark.slow
    def test_training_repeats_itself(self) -> None:
        split = digits.load(100, 0)
        key = jax.random.key(0)
        with jax.numpy_dtype_promotion("standard"):  # For optax.
            runs = [digits.train(split, epochs=2, key=key, show=silent) for _ in range(2)]
        chex.assert_trees_all_equal(*runs)

    @pytest.mark.slow
    def test_script_learns_and_the_temperature_helps(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = run(digits, "--epochs", "30", picture=tmp_path / "digits.png", capsys=capsys)
        table = {
            name: [
                float(each)
                for each in re.findall(rf"^{name} +([\d.]+) +([\d.]+)$", output, re.MULTILINE)[0]
            ]
            for name in ("accuracy", "loss", "calibration error", "Brier score")
        }
        assert table["accuracy"][0] == table["accuracy"][1] > 0.9
        assert table["loss"][1] < 0.95 * table["loss"][0]
        assert table["Brier score"][1] < table["Brier score"][0]
        assert table["calibration error"][1] < table["calibration error"][0] < 0.1
        assert number("Loss on what it learnt from", output) < 0.02
        assert number("Fitted temperature", output) > 1.3


class TestFourRooms:
    def test_moves_lead_to_neighbours_and_back(self) -> None:
        assert four_rooms.CELLS == 104
        cell, action = np.nonzero(LEGAL)
        there = NEXT[cell, action]
        np.testing.assert_array_equal(
            four_rooms.PLACES[there] - four_rooms.PLACES[cell], four_rooms.MOVES[action]
        )
        np.testing.assert_array_equal(NEXT[there, (action + 2) % 4], cell)
        blocked, action = np.nonzero(~LEGAL)
        np.testing.assert_array_equal(NEXT[blocked, action], blocked)
        ahead = four_rooms.PLACES[blocked] + four_rooms.MOVES[action]
        assert not four_rooms.FREE[tuple(ahead.T)].any()

    def test_a_walk_ends_at_its_goal(self, key: jax.Array) -> None:
        walks = four_rooms.start(key, 2000)
        assert np.all(walks.cell != walks.goal)
        assert len(np.unique(walks.cell)) == len(np.unique(walks.goal)) == CELLS
        action = jnp.argmax(jnp.asarray(LEGAL)[walks.cell], axis=-1)
        moved = NEXT[np.asarray(walks.cell), np.asarray(action)]
        walks = walks._replace(goal=walks.goal.at[:100].set(moved[:100]))
        following, arrived = four_rooms.step(key, walks, action)
        np.testing.assert_array_equal(arrived, moved == np.asarray(walks.goal))
        assert np.all(arrived[:100])
        assert np.all(following.cell != following.goal)
        np.testing.assert_array_equal(following.cell[~arrived], moved[~arrived])
        np.testing.assert_array_equal(following.goal[~arrived], walks.goal[~arrived])
        assert np.any(following.goal[arrived] != walks.goal[arrived])

    def test_values_are_those_of_bellman(self, key: jax.Array) -> None:
        logits = jax.random.normal(key, (CELLS, CELLS, ACTIONS))
        policy = np.asarray(jsoftmax.softmax(logits, where=jnp.asarray(LEGAL)), np.float64)
        goals = np.arange(CELLS)
        worth = np.zeros((CELLS, CELLS))
        for _ in range(400):  # 0.95 ** 400 is 1e-9
            ahead = DISCOUNT * worth[:, NEXT]
            ahead[NEXT[None] == goals[:, None, None]] = 1
            worth = (policy * ahead).sum(axis=-1)
        worth[goals, goals] = np.nan
        # What a solver of float32 rounds is small beside the largest value, not beside each.
        got = four_rooms.values(jnp.float32(policy))
        np.testing.assert_allclose(got, worth, rtol=1e-5, atol=1e-7)

    def test_the_optimum_is_what_shortest_ways_earn(self) -> None:
        fewest = four_rooms.distances()
        np.testing.assert_array_equal(fewest, fewest.T)
        # From one corner to the opposite one: no way leads straight.
        assert fewest[0, -1] == 20
        nearer = (fewest[:, NEXT] < fewest[:, :, None]) & LEGAL
        policy = nearer / np.maximum(nearer.sum(-1, keepdims=True), 1)
        np.testing.assert_allclose(
            four_rooms.values(jnp.float32(policy)), four_rooms.optimum(), rtol=1e-4
        )


class TestGridworld:
    @pytest.fixture
    def agent(self) -> gridworld.Agent:
        return gridworld.Agent(16, key=jax.random.key(0))

    def test_one_update_alone_and_one_more_than_are_made_at_once(self, key: jax.Array) -> None:
        for updates in (1, gridworld.CHUNK + 1):
            with jax.numpy_dtype_promotion("standard"):  # For optax.
                _, curve = gridworld.train(updates=updates, key=key, show=silent)
            assert curve[-1][0] == updates * gridworld.WALKERS * gridworld.LENGTH

    def test_moves_are_legal_and_lead_on(self, agent: gridworld.Agent, key: jax.Array) -> None:
        walks = four_rooms.start(key, 500)
        last, steps = eqx.filter_jit(gridworld.rollout)(agent, walks, key)
        cell, action = np.asarray(steps.walk.cell), np.asarray(steps.action)
        assert LEGAL[cell, action].all()
        assert len(np.unique(action)) == ACTIONS
        moved = NEXT[cell, action]
        after = np.concatenate([cell[1:], np.asarray(last.cell)[None]])
        arrived = np.asarray(steps.arrived)
        assert arrived.any()
        np.testing.assert_array_equal(arrived, moved == np.asarray(steps.walk.goal))
        np.testing.assert_array_equal(after[~arrived], moved[~arrived])

    def test_log_probabilities_and_their_gradient_are_the_policy_s(
        self, agent: gridworld.Agent, key: jax.Array
    ) -> None:
        walks = four_rooms.start(key, 50)
        weights = jax.random.normal(key, (gridworld.LENGTH, 50))
        _, steps = eqx.filter_jit(gridworld.rollout)(agent, walks, key)

        def acted(agent: gridworld.Agent) -> jax.Array:
            return jnp.sum(weights * gridworld.rollout(agent, walks, key)[1].log_prob)

        def scored(agent: gridworld.Agent) -> jax.Array:
            logits, _ = jax.vmap(jax.vmap(agent))(steps.walk)
            log_p = jsoftmax.log_softmax(logits, where=jnp.asarray(LEGAL)[steps.walk.cell])
            taken = jnp.take_along_axis(log_p, steps.action[..., None], axis=-1)
            return jnp.sum(weights * taken[..., 0])

        got, want = (eqx.filter_jit(eqx.filter_value_and_grad(f))(agent) for f in (acted, scored))
        chex.assert_trees_all_close(
            eqx.filter(got, eqx.is_array), eqx.filter(want, eqx.is_array), rtol=1e-3, atol=1e-4
        )

    def test_returns_look_ahead_and_stop_at_a_goal(self, key: jax.Array) -> None:
        shape = (gridworld.LENGTH, 3)
        value_key, arrived_key = jax.random.split(key)
        value = jax.random.uniform(value_key, shape)
        arrived = jax.random.bernoulli(arrived_key, 0.2, shape)
        nothing = jnp.zeros(shape)
        steps = gridworld.Step(Walk(nothing, nothing), nothing, nothing, nothing, value, arrived)
        last = jnp.array([0.1, 0.5, 0.9])
        got, pull = jax.vjp(
            lambda value, last: gridworld.returns(steps._replace(value=value), last), value, last
        )
        # What the critic is to learn is no way to make it easier.
        assert not any(np.any(each) for each in pull(jnp.ones(shape)))
        for walker in range(3):
            earned = ahead = float(last[walker])
            for t in reversed(range(gridworld.LENGTH)):
                mixed = gridworld.TRACE * earned + (1 - gridworld.TRACE) * ahead
                earned = 1.0 if arrived[t, walker] else DISCOUNT * mixed
                ahead = float(value[t, walker])
                assert got[t, walker] == pytest.approx(earned, rel=1e-5)

    def test_policy_is_for_goals_then_cells(self, agent: gridworld.Agent) -> None:
        logits, _ = agent(Walk(cell=jnp.array(3), goal=jnp.array(50)))
        want = jsoftmax.softmax(logits, where=jnp.asarray(LEGAL)[3], temperature=0.5)
        chex.assert_trees_all_close(gridworld.policy(agent, 0.5)[50, 3], want, atol=1e-6)

    @pytest.mark.slow
    def test_script_learns(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = run(gridworld, "--updates", "80", picture=tmp_path / "walks.png", capsys=capsys)
        random, agent, optimum = (
            number(name, text) for name in ("random legal moves", "the agent", "the optimum")
        )
        assert random == pytest.approx(0.0868, abs=2e-4)
        assert optimum == pytest.approx(0.6938, abs=2e-4)
        assert random + 0.1 < agent < optimum

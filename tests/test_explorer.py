"""The explorer shows what jsoftmax computes; its page works in a browser.

With EXPLORER_PICTURE=docs/assets/explorer.png the picture of the documentation is written there.
"""

import html
import itertools
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax

pytest.importorskip("flax", reason="needs the dependency group examples")
pytest.importorskip("gguf", reason="needs the dependency group examples")
pytest.importorskip("tokenizers", reason="needs the dependency group examples")
sys.path.append(str(Path(__file__).parents[1] / "examples"))

import exploration
from checkpoint import find_file
from exploration import RULES, Controls, Exploration, LanguageModel, Reader

try:
    find_file()
except FileNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)

# One worker loads and compiles the model for all of these tests.
pytestmark = pytest.mark.xdist_group("explorer")

ROOT = Path(__file__).parents[1]
EXPLORER = ROOT / "examples" / "explorer.py"
SEA = "The best thing about the sea is"
VOCABULARY = 1000
SETTINGS = [
    Controls(*values)
    for values in itertools.product((0.0, 0.7, 1.6), (0, 40), (0.9, 1.0), (0.0, 0.05), (0.6, 1.0))
]


@pytest.fixture
def logits(key: jax.Array) -> jax.Array:
    return 3 * jax.random.normal(key, (VOCABULARY,))


class TestLook:
    @pytest.mark.parametrize("controls", SETTINGS[::7])
    def test_rules_are_those_of_sample_and_then_typical(
        self, logits: jax.Array, controls: Controls
    ) -> None:
        *left, last = exploration.masks(logits, controls)
        temperature, top_k, top_p, min_p, typical = controls
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        expected = jsoftmax.truncation_mask(logits, **settings)
        np.testing.assert_array_equal(left[-1], expected)
        scaled = jsoftmax.temperature_scale(logits, temperature)
        expected = jsoftmax.typical_mask(scaled, typical, where=expected)
        np.testing.assert_array_equal(last, expected)
        assert len([*left, last]) == len(RULES)

    @pytest.mark.parametrize("controls", SETTINGS[::5])
    def test_view_counts_and_weighs_what_is_kept(
        self, logits: jax.Array, controls: Controls
    ) -> None:
        view, kept = jax.device_get(jax.jit(exploration.look)(logits, controls.traced()))
        seen = view.explanation
        masks = np.stack(exploration.masks(logits, controls))
        np.testing.assert_array_equal(kept, masks[-1])
        np.testing.assert_array_equal(view.counts, masks.sum(-1))
        for token, cut_by in zip(seen.candidates, view.cut_by, strict=True):
            cut = np.flatnonzero(~masks[:, token])
            assert cut_by == (cut[0] if cut.size else len(RULES))

        x = np.asarray(logits, np.float64)
        order = np.argsort(-x)[: exploration.SHOWN]
        np.testing.assert_array_equal(seen.candidates, order)
        p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
        peaked = np.where(x == x.max(), 1.0, 0.0)
        t = controls.temperature
        q = peaked if t == 0 else np.exp((x - x.max()) / t) / np.exp((x - x.max()) / t).sum()
        r = np.where(kept, q, 0) / q[kept].sum()
        np.testing.assert_allclose(seen.model, p[order], rtol=1e-5)
        np.testing.assert_allclose(seen.drawn_from, r[order], rtol=1e-5)
        np.testing.assert_allclose(seen.kept_mass, q[kept].sum(), rtol=1e-5)
        np.testing.assert_allclose(seen.entropy, -np.sum(r[r > 0] * np.log(r[r > 0])), atol=1e-5)
        np.testing.assert_allclose(seen.model_entropy, -np.sum(p * np.log(p)), rtol=1e-5)

    def test_a_slider_compiles_nothing(self, logits: jax.Array) -> None:
        look = jax.jit(chex.assert_max_traces(exploration.look, n=1))
        counts = {
            int(look(logits, controls.traced())[0].explanation.kept_count)
            for controls in (*SETTINGS, Controls(1, 5, 1, 0, 1))
        }
        assert len(counts) > 5

    def test_what_is_drawn_is_kept_and_judged(self, logits: jax.Array, key: jax.Array) -> None:
        controls = Controls(0.8, 50, 0.9, 0.02, 0.8).traced()
        _, kept = exploration.look(logits, controls)
        keys = jax.random.split(key, 500)
        tokens = jax.vmap(lambda key: exploration.draw(key, logits, controls.temperature, kept))(
            keys
        )
        assert kept[tokens].all()
        assert set(np.unique(tokens)) == set(np.flatnonzero(kept))
        of_model, of_draw = exploration.judge(logits, controls.temperature, kept, tokens)
        expected = jnp.where(kept, jnp.exp(logits / 0.8), 0)
        chex.assert_trees_all_close(of_draw, jnp.log(expected / expected.sum())[tokens], rtol=1e-4)
        chex.assert_trees_all_close(of_model, jax.nn.log_softmax(logits)[tokens], rtol=1e-4)


@pytest.fixture(scope="module")
def language_model() -> LanguageModel:
    return exploration.load()


@pytest.mark.slow
class TestExploration:
    def test_loads_once(self, language_model: LanguageModel) -> None:
        assert exploration.load() is language_model

    def test_logits_of_a_text_that_changes(self, language_model: LanguageModel) -> None:
        """Longer and shorter texts, and another: each as if it were read from the start."""
        reader = Reader(language_model)
        long = f"{SEA} wide and deep. " * 20
        texts = [long, f"{long}And", f"{long}But it", SEA, f"{SEA} blue", long, "The"]
        # With tokens after the last, which it does not see: one program for all lengths.
        whole = jax.jit(lambda model, tokens, last: model(tokens)[0][0, last])
        for text in texts:
            explored = Exploration(reader, text)
            size = len(explored.tokens)
            tokens = jnp.array([explored.tokens + [0] * (256 - size)])
            expected = whole(language_model.weights, tokens, size - 1)
            chex.assert_trees_all_close(explored.logits, expected, atol=5e-3)

    def test_reads_what_is_new_and_only_when_the_text_changes(
        self, language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        for name in ("prefill", "next_logits"):
            program = getattr(language_model, name)

            def counted(*arguments: Any, name: str = name, program: Any = program) -> Any:
                calls.append(name)
                return program(*arguments)

            monkeypatch.setattr(language_model, name, counted)
        explored = Exploration(Reader(language_model), "One two three four. " * 20)
        assert calls == ["prefill", "prefill", "next_logits"]
        explored.look(Controls(temperature=0.5))
        explored.look(Controls(top_k=3))
        assert len(calls) == 3
        explored.draw(0)
        explored.undo()
        assert calls[3:] == ["next_logits", "next_logits"]

    def test_an_interrupted_reader_reads_all_again(
        self, language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reader = Reader(language_model)
        expected = reader([1, 2, 3])
        with monkeypatch.context() as patch:
            patch.setattr(language_model, "next_logits", pytest.fail)
            with pytest.raises(TypeError):
                reader([1, 2, 3, 4])
        chex.assert_trees_all_close(reader([1, 2, 3]), expected, rtol=1e-5)

    def test_a_seed_draws_the_same_text(self, language_model: LanguageModel) -> None:
        def text(seed: int) -> str:
            explored = Exploration(Reader(language_model), SEA)
            explored.look(Controls(temperature=1.2, top_p=0.95))
            for _ in range(8):
                explored.draw(seed)
            return "".join(explored.pieces())

        assert text(1) == text(1) != text(2)

    def test_greedy_draws_pick_undo_start_over(self, language_model: LanguageModel) -> None:
        explored = Exploration(Reader(language_model), "What is two and two?", as_question=True)
        assert explored.text.endswith("<|im_start|>assistant\n")
        explored.look(Controls(temperature=0.0))
        explored.draw(0)
        (first,) = explored.choices
        assert first.token == int(jnp.argmax(Exploration(explored.reader, explored.text).logits))
        assert first.drawn
        assert first.log_prob == 0 > first.model_log_prob
        explored.pick(0)
        assert explored.choices[-1].log_prob == -math.inf < explored.choices[-1].model_log_prob
        assert not explored.choices[-1].drawn
        explored.undo()
        assert explored.choices == [first]
        explored.start_over()
        explored.undo()
        assert explored.tokens == explored.prompt

    def test_characters_of_several_tokens_are_whole(self, language_model: LanguageModel) -> None:
        explored = Exploration(Reader(language_model), "A fox:")
        for token in language_model.tokenizer.encode(" 🦊, 東京").ids:
            explored.pick(token)
        assert "".join(explored.pieces()) == " 🦊, 東京"
        assert "" in explored.pieces()

    def test_whitespace_is_seen(self, language_model: LanguageModel) -> None:
        (token,) = language_model.tokenizer.encode(" Paris").ids
        assert language_model.show(token) == "␣Paris"
        (token,) = language_model.tokenizer.encode("\n").ids
        assert language_model.show(token) == "↵"

    @pytest.mark.parametrize(("text", "problem"), [("", "at least one"), ("a " * 2000, "at most")])
    def test_bad_text(self, language_model: LanguageModel, text: str, problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            Exploration(Reader(language_model), text)

    def test_what_the_documentation_says_of_the_first_text(
        self, language_model: LanguageModel
    ) -> None:
        explored = Exploration(Reader(language_model), SEA)

        def kept(**controls: float) -> int:
            return int(explored.look(Controls(**controls)).explanation.kept_count)

        assert kept(top_p=0.9) == 27
        assert (kept(min_p=0.1), kept(min_p=0.1, temperature=2.0)) == (4, 21)
        assert 14_500 < kept(top_p=0.9, temperature=2.0) < 15_500
        flat = explored.look(Controls(temperature=2.0)).explanation
        assert 0.845 < 1 - flat.drawn_from.sum() < 0.855
        typical = explored.look(Controls(typical=0.2))
        assert [RULES[i] for i in typical.cut_by[:2]] == ["typical", "typical"]
        assert typical.cut_by[2] == len(RULES)

    def test_full(self, language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        explored = Exploration(Reader(language_model), SEA)
        monkeypatch.setattr(exploration, "MAX_TOKENS", len(explored.prompt) + 1)
        for _ in range(3):
            explored.draw(0)
        assert explored.full
        assert len(explored.choices) == 1


@pytest.fixture(scope="module")
def explorer() -> Any:
    """The file of the page, as a module."""
    pytest.importorskip("marimo", reason="needs the dependency group explorer")
    pytest.importorskip("altair", reason="needs the dependency group explorer")
    import explorer

    return explorer


class TestApp:
    @pytest.mark.usefixtures("explorer")
    def test_marimo_finds_nothing_wrong(self) -> None:
        command = [sys.executable, "-m", "marimo", "check", "--strict", str(EXPLORER)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr

    def test_meanings(self, explorer: Any) -> None:
        counts = np.array([49152, 40, 12, 7, 5])
        assert explorer.meanings(Controls(0.7, 40, 0.9, 0.1, 0.5), counts) == [
            "<b>0.7</b> · sharper: what is likely gains",
            "<b>40</b> likeliest tokens · 40 left",
            "the smallest set with a mass of <b>0.9</b> · 12 left",
            "at least <b>0.1</b> times as likely as the likeliest · 7 left",
            "about as surprising as expected, a mass of <b>0.5</b> · 5 left",
        ]
        first, *others = explorer.meanings(Controls(0, 49152), np.array([1] * 5))
        assert first == "<b>0</b> · the limit: only the likeliest, 1 left"
        assert others == ["off"] * 4

    def test_rows(self, explorer: Any, logits: jax.Array) -> None:
        view, _ = jax.device_get(exploration.look(logits, Controls(top_p=0.5).traced()))
        rows = explorer.rows_of(view, RULES, lambda token: f"␣{token}")
        assert [row["token"] for row in rows] == view.explanation.candidates.tolist()
        count = int(view.counts[-1])
        assert 0 < count < len(rows)
        for i, row in enumerate(rows):
            assert row["kept"] == (i < count) == (row["drawn from"] > 0)
            assert row["fate"] == ("kept" if row["kept"] else "cut by top-p")
            assert max(row["model"], row["drawn from"]) <= row["end"] <= 1
        assert len({row["name"] for row in rows}) == len({row["numbers"] for row in rows}) == 25

    @pytest.mark.slow
    def test_runs_without_a_page(self, explorer: Any, language_model: LanguageModel) -> None:
        outputs, cells = explorer.app.run()
        logits = Exploration(Reader(language_model), SEA).logits
        kept = jsoftmax.truncation_mask(logits, top_p=0.9)
        assert cells["view"].explanation.kept_count == kept.sum()
        page = html.unescape("".join(getattr(output, "text", "") for output in outputs))
        assert "What comes next?" in page
        assert f"{SEA}</span>" in page
        assert f">{kept.sum()}</div>" in page
        assert "␣that" in page


# Seconds, on a machine that does much else: until the model has loaded, and until a page answers.
LOADING, ANSWERING = 180, 60


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serves the page."""
    pytest.importorskip("marimo", reason="needs the dependency group explorer")
    pytest.importorskip("altair", reason="needs the dependency group explorer")
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "run", "--headless", "--no-token"]
    command += ["--host", "127.0.0.1", "--port", str(port), str(EXPLORER)]
    # Not what the user has set, such as a theme.
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    log = folder / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        answers = False
        deadline = time.monotonic() + LOADING
        while not answers:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with socket.socket() as client:
                client.settimeout(1)
                answers = client.connect_ex(("127.0.0.1", port)) == 0
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs the dependency group browser"
    )
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("needs Chromium or Chrome on the PATH")
    flags = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    flags += " disable-component-update disable-sync"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, args=[f"--{flag}" for flag in flags.split()]
        )
        yield browser
        browser.close()


SLIDERS = ("Temperature", "Top-k", "Top-p", "Min-p", "Typical")


class Visit:
    """A page that has loaded, and what went wrong on it."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.wrong: list[str] = []
        context = browser.new_context(**options)
        context.set_default_timeout(1000 * ANSWERING)
        self.page = page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url}"))
        page.on("request", lambda request: self._request(request.url, address))
        page.on("response", self._response)
        page.goto(address)
        self.number("Kept").wait_for(timeout=1000 * LOADING)
        page.locator("canvas").wait_for()

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.wrong.append(f"console: {message.text}")

    def _request(self, url: str, address: str) -> None:
        own = url.replace("ws://", "http://")
        if not own.startswith((address, "data:", "blob:")):
            self.wrong.append(f"asks elsewhere: {url}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.wrong.append(f"{response.status}: {response.url}")

    def number(self, label: str) -> Any:
        """The number that is written below this label."""
        return self.page.locator(f'div:text-is("{label}") + div')

    def move(self, slider: str, key: str, times: int) -> None:
        # By its place: in marimo 0.25.0 a slider has no accessible name.
        self.page.get_by_role("slider").nth(SLIDERS.index(slider)).focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def pixels(self) -> str:
        return self.page.locator("canvas").evaluate("canvas => canvas.toDataURL()")


@pytest.fixture
def expect() -> Any:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs the dependency group browser"
    )
    playwright.expect.set_options(timeout=1000 * ANSWERING)
    return playwright.expect


@pytest.mark.slow
class TestBrowser:
    def test_page(
        self, browser: Any, address: str, expect: Any, language_model: LanguageModel
    ) -> None:
        """Loads; a slider changes what is kept; a token is drawn, picked and taken back."""
        explored = Exploration(Reader(language_model), SEA)
        kept = {p: jsoftmax.top_p_mask(explored.logits, p).sum() for p in (0.9, 0.85)}
        assert kept[0.9] != kept[0.85]
        visit = Visit(browser, address)
        page = visit.page
        expect(visit.number("Kept")).to_have_text(str(kept[0.9]))
        drawing = visit.pixels()
        visit.move("Top-p", "ArrowLeft", 5)
        expect(visit.number("Kept")).to_have_text(str(kept[0.85]))
        expect(page.get_by_text(f"mass of 0.85 · {kept[0.85]} left")).to_be_visible()
        page.wait_for_function(
            "before => [...document.querySelectorAll('marimo-vega')]"
            ".map(chart => chart.shadowRoot?.querySelector('canvas'))"
            ".some(canvas => canvas && canvas.toDataURL() != before)",
            arg=drawing,
        )

        explored.look(Controls(top_p=0.85))
        text = page.locator("span", has_text=SEA).locator("xpath=..")
        expect(visit.number("Log-probability")).to_have_text("\N{EN DASH}")
        for _ in range(2):
            explored.draw(0)
            page.get_by_role("button", name="Draw a token").click()
            expect(text).to_have_text(f"{SEA}{''.join(explored.pieces())} …")
        log_prob = f"{explored.choices[-1].log_prob:.2f}".replace("-", "\N{MINUS SIGN}")
        expect(visit.number("Log-probability")).to_have_text(log_prob)
        page.get_by_role("button", name="Start over").click()
        expect(text).to_have_text(f"{SEA} …")
        # The first row, anywhere on it.
        page.locator("canvas").click(position={"x": 200, "y": 34})
        expect(text).to_have_text(f"{SEA} that …")
        page.get_by_role("button", name="Undo").click()
        expect(text).to_have_text(f"{SEA} …")

        page.get_by_role("textbox").first.fill("")
        expect(page.get_by_text("needs at least one token")).to_be_visible()
        page.get_by_role("textbox").first.fill("The capital of France is")
        expect(page.get_by_text("The capital of France is …")).to_be_visible()
        assert visit.wrong == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_narrow_page(self, browser: Any, address: str, scheme: str) -> None:
        visit = Visit(browser, address, viewport={"width": 420, "height": 900}, color_scheme=scheme)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 420
        assert visit.page.locator("canvas").bounding_box()["width"] <= 420
        assert visit.wrong == []

    def test_picture(self, browser: Any, address: str, expect: Any, tmp_path: Path) -> None:
        visit = Visit(
            browser, address, viewport={"width": 1200, "height": 1330}, color_scheme="light"
        )
        page = visit.page
        visit.move("Temperature", "ArrowRight", 4)
        visit.move("Top-p", "ArrowLeft", 20)
        page.locator("marimo-number input").fill("3")
        page.locator("marimo-number input").press("Tab")
        expect(page.get_by_text("1.2 · flatter")).to_be_visible()
        expect(page.get_by_text("mass of 0.7")).to_be_visible()
        for piece in (" that", " it", " has"):
            page.get_by_role("button", name="Draw a token").click()
            expect(page.get_by_title("log-probability").last).to_have_text(piece)
        page.mouse.move(0, 0)
        picture = Path(os.environ.get("EXPLORER_PICTURE", tmp_path / "explorer.png"))
        page.screenshot(path=picture)
        assert 30_000 < picture.stat().st_size < 300_000
        assert visit.wrong == []

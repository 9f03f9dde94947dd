"""One table of every public function: how it is called, what it promises. A new function is one
row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

import jsoftmax
from tests import reference
from tests.compare import assert_close, assert_mask, eps, host
from tests.reference import Row

Kind = Literal["map", "reduction", "mask", "token", "fill", "relaxed", "linear"]


@dataclass(frozen=True, eq=False)
class Entry:
    """A public function and its promises."""

    name: str
    kind: Kind
    row: Callable[..., Any]
    """The reference for one row: `row(x, where, *settings)`."""
    settings: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """Each traced setting with three values, all different in effect, the first an ordinary one."""
    off: Mapping[str, float] = field(default_factory=dict)
    """The value at which a setting does nothing."""
    required: bool = False
    """Whether the setting must be given."""
    differentiable: bool = False
    forward: bool = True
    """Whether it has forward-mode derivatives too."""
    ties: bool = False
    keyed: bool = False
    pair: bool = False
    """Whether the result is (token, log-probability)."""
    data: tuple[str, ...] = ("logits",)
    """The names of what is given by position, the key apart."""
    beside: Callable[[Any, int], Any] | None = None
    """What is given beside the logits, from them and the axis: labels, or other logits."""
    labelled: tuple[int, ...] = ()
    """The classes that the labels name: of these the order matters."""
    alike: bool = True
    """Whether all entries of a row meet the same operations, and not those of their block."""

    def __str__(self) -> str:
        """The name, for pytest's ids."""
        return self.name

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        return getattr(jsoftmax, self.name)

    def __call__(self, x: Any, *, key: jax.Array | None = None, **keywords: Any) -> Any:
        """Call it on `x`, with a key if it needs one."""
        if self.keyed:
            return self.function(jax.random.key(0) if key is None else key, x, **keywords)
        if self.beside is not None:
            return self.function(x, self.beside(x, keywords.get("axis", -1)), **keywords)
        return self.function(x, **keywords)

    def setting(self, i: int = 0) -> dict[str, float]:
        """The i-th value of each setting."""
        return {name: values[i] for name, values in self.settings.items()}

    def expected(self, x: Any, settings: Mapping[str, Any] | None = None, where: Any = None) -> Any:
        """The reference's result on a batch of rows."""
        settings = settings or {}
        numbers = [settings.get(name, self.off.get(name)) for name in self.settings]
        return reference.over_rows(self.row, x, *numbers, where=where)

    def check(
        self, got: Any, x: Any, settings: Mapping[str, Any] | None = None, where: Any = None
    ) -> None:
        """Assert that `got` is what the reference says, up to rounding."""
        if self.kind == "mask":
            assert_mask(got, self.expected(x, settings, where))
        elif self.kind == "token":
            self.check_token(got, np.asarray(x), settings, where)
        else:
            want = self.expected(x, settings, where)
            scale = 1.0
            if self.name in UNBOUNDED and np.size(want):
                scale = 1 + float(np.max(np.abs(x), where=np.isfinite(x), initial=0.0))
            rtol = 4 * float(jax.numpy.finfo(got.dtype).eps)
            double = got.dtype == jax.numpy.float64
            atol = 8 * scale * (float(np.finfo(np.float64).eps) if double else reference.EPS)
            assert_close(got, want, rtol=rtol, atol=atol)

    def check_token(self, got: Any, x: Row, settings: Mapping[str, Any] | None, where: Any) -> None:
        """Assert that the tokens lie in the mask (0 where nothing is allowed) and their log-
        probabilities are right."""
        token, log_prob = got if self.pair else (got, None)
        assert token.dtype == jax.numpy.int32
        assert token.shape == x.shape[:-1]
        tokens = np.asarray(token)[..., None]
        assert ((tokens >= 0) & (tokens < x.shape[-1])).all()
        must, may = self.expected(x, settings, where)
        numbers = dict(settings or {})
        allowed = np.broadcast_to(True if where is None else where, x.shape)
        broken = (allowed & ~(x < np.inf)).any(-1)
        some = (allowed & (x != -np.inf)).any(-1)
        for name, number in numbers.items():
            bad = np.isnan(number) | (name == "temperature" and np.asarray(number) < 0)
            broken |= bad & some
        nothing = ~may.any(-1)
        inside = np.take_along_axis(may, tokens, -1)[..., 0]
        assert (inside | nothing | broken).all(), f"token outside the mask: {np.asarray(token)}"
        assert (np.asarray(token)[nothing] == 0).all()
        if log_prob is not None:
            temperature = numbers.get("temperature", 1.0)
            right = False
            for mask in (must, may):
                log_p = reference.over_rows(reference.log_softmax_row, x, temperature, where=mask)
                want = np.where(broken, np.nan, np.take_along_axis(log_p, tokens, -1)[..., 0])
                right |= np.isclose(host(log_prob), want, 4 * eps(log_prob.dtype), 1e-6, True)
            assert np.all(right), (log_prob, want)


def halved(x: Any, axis: int) -> Any:
    """Other logits, entry by entry, whatever is split, moved or masked."""
    del axis
    return x / 2 if hasattr(x, "dtype") and x.dtype != bool else x


def second_class(x: Any, axis: int) -> Any:
    """The label 1 for every row, 0 where there is no other class."""
    shape = np.shape(x)
    if not shape or not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        return 0
    axis %= len(shape)
    batch = shape[:axis] + shape[axis + 1 :]
    return jax.numpy.full(batch, min(1, max(shape[axis] - 1, 0)), jax.numpy.int32)


def cross_entropy_row(x: Row, where: Row, *settings: float) -> float:
    """The loss of `second_class`."""
    return reference.cross_entropy_row(x, where, min(1, x.size - 1), *settings)


def fenchel_young_row(x: Row, where: Row, *settings: float) -> float:
    """The loss of `second_class`."""
    second = np.arange(x.size) == min(1, x.size - 1)
    return reference.fenchel_young_row(x, where, *settings, y=second)


UNBOUNDED = (
    "log_softmax",
    "logsumexp",
    "temperature_scale",
    "cross_entropy",
    "fenchel_young_loss",
)
"""Functions whose results are as large as the logits, and so is their rounding."""
TEMPERATURE = {"temperature": (0.7, 1.0, 2.5)}
LOSS = TEMPERATURE | {"label_smoothing": (0.1, 0.0, 0.5), "z_loss": (0.01, 0.2, 0.0)}
LOSS_OFF = {"temperature": 1.0, "label_smoothing": 0.0, "z_loss": 0.0}
TRUNCATION = {
    "temperature": (0.8, 1.0, 1.5),
    "top_k": (4.0, 2.0, 0.0),
    "top_p": (0.93, 0.5, 1.0),
    "min_p": (0.01, 0.3, 0.0),
}
TRUNCATION_OFF = {"temperature": 1.0, "top_k": 0.0, "top_p": 1.0, "min_p": 0.0}
ONE = {"temperature": 1.0}
ALPHA = TEMPERATURE | {"alpha": (1.7, 1.2, 2.6)}
ALPHA_OFF = ONE | {"alpha": 1.5}
"""What alpha is where it is not given."""


def mask_entry(
    name: str,
    row: Callable[..., Any],
    number: str,
    values: tuple[float, float, float],
    **flags: Any,
) -> Entry:
    """A mask named by one number."""
    return Entry(name, "mask", row, {number: values}, required=True, **flags)


REGISTRY = (
    Entry("softmax", "map", reference.softmax_row, TEMPERATURE, ONE, differentiable=True),
    Entry("log_softmax", "map", reference.log_softmax_row, TEMPERATURE, ONE, differentiable=True),
    Entry("logsumexp", "reduction", reference.logsumexp_row, TEMPERATURE, ONE, differentiable=True),
    Entry("entropy", "reduction", reference.entropy_row, TEMPERATURE, ONE, differentiable=True),
    Entry(
        "kl_divergence",
        "reduction",
        lambda x, where, *settings: reference.kl_row(x, where, x / 2, *settings),
        TEMPERATURE,
        ONE,
        differentiable=True,
        data=("p_logits", "q_logits"),
        beside=halved,
    ),
    Entry(
        "cross_entropy",
        "reduction",
        cross_entropy_row,
        LOSS,
        LOSS_OFF,
        differentiable=True,
        data=("logits", "labels"),
        beside=second_class,
        labelled=(1,),
    ),
    Entry(
        "temperature_scale",
        "map",
        reference.temperature_scale_row,
        TEMPERATURE,
        ONE,
        required=True,
        differentiable=True,
    ),
    Entry("sparsemax", "map", reference.sparsemax_row, TEMPERATURE, ONE, differentiable=True),
    Entry("entmax", "map", reference.entmax_row, ALPHA, ALPHA_OFF, differentiable=True),
    Entry(
        "fenchel_young_loss",
        "reduction",
        fenchel_young_row,
        ALPHA,
        ALPHA_OFF,
        differentiable=True,
        data=("logits", "labels"),
        beside=second_class,
        labelled=(1,),
    ),
    mask_entry("top_k_mask", reference.top_k_row, "k", (2.0, 4.0, 0.0), off={"k": 0.0}, ties=True),
    mask_entry("top_p_mask", reference.top_p_row, "p", (0.9, 0.4, 1.0), off={"p": 1.0}, ties=True),
    mask_entry("min_p_mask", reference.min_p_row, "min_p", (0.1, 0.5, 0.0), off={"min_p": 0.0}),
    mask_entry(
        "typical_mask", reference.typical_row, "mass", (0.9, 0.3, 1.0), off={"mass": 1.0}, ties=True
    ),
    mask_entry(
        "epsilon_mask", reference.epsilon_row, "epsilon", (0.1, 0.3, 0.0), off={"epsilon": 0.0}
    ),
    mask_entry("eta_mask", reference.eta_row, "epsilon", (0.1, 0.5, 0.0), off={"epsilon": 0.0}),
    mask_entry("top_n_sigma_mask", reference.top_n_sigma_row, "n", (1.0, 0.4, 0.0), off={"n": 0.0}),
    Entry("truncation_mask", "mask", reference.truncation_row, TRUNCATION, TRUNCATION_OFF),
    Entry("sample", "token", reference.truncation_row, TRUNCATION, TRUNCATION_OFF, keyed=True),
    Entry(
        "sample_and_log_prob",
        "token",
        reference.truncation_row,
        TRUNCATION,
        TRUNCATION_OFF,
        keyed=True,
        pair=True,
    ),
    Entry("gumbel_softmax", "relaxed", reference.softmax_row, TEMPERATURE, ONE, keyed=True),
    Entry("mask_logits", "fill", lambda x, where: np.where(where, x, -np.inf)),
    Entry("linear_cross_entropy", "linear", reference.cross_entropy_row, forward=False),
    Entry("linear_log_prob", "linear", reference.log_softmax_row, forward=False),
)

FUNCTIONS = tuple(entry for entry in REGISTRY if entry.kind not in ("fill", "relaxed", "linear"))
"""The functions over an axis: all but `mask_logits`, those of hidden states and a weight, which
`test_linear.py` tests, and `gumbel_softmax`, whose values are noise (`test_relaxed.py`)."""
FRONTS = tuple(entry for entry in FUNCTIONS if entry.name != "sample")
"""Without `sample`, for tests that compile much: `sample_and_log_prob` draws the same tokens."""
DIFFERENTIABLE = tuple(entry for entry in FUNCTIONS if entry.differentiable)
MASKS = tuple(entry for entry in FUNCTIONS if entry.kind == "mask")

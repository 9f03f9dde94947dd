"""Which tests could tell a mutant of each module from the module."""

from typing import NamedTuple


class Stage(NamedTuple):
    """One run of pytest; a mutant that outlives it goes on to the next."""

    files: tuple[str, ...]
    thin: int
    keyword: str = ""

    @property
    def arguments(self) -> list[str]:
        """For pytest: stop at the first failure, in one process, without what is slow."""
        names = [f"tests/test_{name}.py" for name in self.files]
        options = ["-q", "-x", "-n0", "-pno:cacheprovider", "-mnot slow", f"--thin={self.thin}"]
        return [*options, *([f"-k{self.keyword}"] if self.keyword else []), *names]


SAMPLING = Stage(("sample", "contracts"), 12, "sampl")
TESTS_OF = {
    "_checks": (Stage(("errors",), 3),),
    "_settings": (Stage(("errors",), 3), Stage(("temperature", "sparse", "losses"), 6)),
    "_dtypes": (Stage(("errors", "softmax", "losses"), 6),),
    "_reduce": (
        Stage(("engine", "softmax", "sharded"), 12),
        Stage(("collectives",), 12),
    ),
    "_loop": (Stage(("engine", "select", "softmax"), 6),),
    "_placement": (Stage(("sharded", "plain_jit"), 12),),
    "_derivative": (Stage(("gradients", "digits"), 6),),
    "_shift": (Stage(("softmax", "gradients", "temperature"), 6),),
    "_normalizer": (Stage(("softmax", "gradients", "entropy", "digits"), 6),),
    "_softmax": (Stage(("softmax", "gradients", "numerics"), 6),),
    "_temperature": (Stage(("temperature", "softmax"), 3),),
    "_divergence": (Stage(("entropy", "losses", "gradients", "digits"), 6),),
    "_sparse_root": (Stage(("sparse",), 3),),
    "_sparse": (Stage(("sparse", "fenchel_young"), 3),),
    "_fenchel_young": (Stage(("fenchel_young",), 2),),
    "_relaxed": (Stage(("relaxed",), 2),),
    "_label": (Stage(("losses",), 3),),
    "_losses": (Stage(("losses", "digits"), 3),),
    "_linear": (Stage(("linear",), 4),),
    "_online": (Stage(("online",), 3),),
    "calibration": (Stage(("calibration",), 3),),
    "_examples": (Stage(("calibration",), 3),),
    "_bins": (Stage(("calibration",), 3),),
    "_groups": (Stage(("calibration",), 3),),
    "_fit": (Stage(("calibration",), 3),),
    "_blocks": (
        Stage(("engine",), 2),
        SAMPLING,
    ),
    "_exp": (Stage(("exact",), 1), Stage(("numerics",), 6)),
    "_exact": (Stage(("exact",), 1),),
    "_mass": (Stage(("engine", "exact", "softmax"), 3), Stage(("numerics",), 6)),
    "_sweep": (Stage(("engine", "exact"), 2), Stage(("numerics",), 6)),
    "_window": (
        Stage(("engine",), 2),
        SAMPLING,
    ),
    "_select": (Stage(("select", "engine", "truncate"), 6),),
    "_kept": (
        Stage(("select", "engine", "truncate"), 6),
        SAMPLING,
    ),
    "_row": (
        Stage(("select", "engine", "truncate"), 6),
        SAMPLING,
    ),
    "_threshold": (Stage(("truncate", "select"), 6),),
    "_truncate": (Stage(("truncate", "select"), 6),),
    "_draw": (Stage(("sample", "engine"), 4),),
    "_sample": (Stage(("sample",), 3),),
    "_explicit": (Stage(("sharded", "plain_jit"), 12),),
    "_picture": (Stage(("plot",), 2),),
    "_plot_series": (Stage(("plot",), 2),),
    "_plot_sweep": (Stage(("plot",), 2),),
    "_plot_truncation": (Stage(("plot",), 2),),
    "_watch": (Stage(("checked",), 3),),
    "_difference": (Stage(("testing",), 3),),
    "testing": (Stage(("testing",), 3),),
}
"""The stages of each module, in the order in which a sample visits the modules."""

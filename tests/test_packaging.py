"""What is shipped, how it is built, what an import costs, and that the README and CI give the same
command."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import jsoftmax

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE_FILES = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "jsoftmax").rglob("*")
    if path.suffix == ".py" or path.name == "py.typed"
}


def build(source: Path, folder: Path, *targets: str, **environment: str) -> None:
    """Build the distributions of a source tree into a folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    for target in targets:
        command += ["-t", target]
    ours = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    subprocess.run(
        command, cwd=source, env=ours | environment, check=True, capture_output=True, umask=0o022
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "wheel", "sdist")
    return folder


def test_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.whl")
    assert path.name == f"jsoftmax-{jsoftmax.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(f"jsoftmax-{jsoftmax.__version__}.dist-info/METADATA").decode()
    information = f"jsoftmax-{jsoftmax.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(information)} == PACKAGE_FILES
    assert f"{information}licenses/LICENSE" in names
    assert "License-Expression: Apache-2.0" in metadata
    assert "jsoftmax/py.typed" in PACKAGE_FILES


def test_source_distribution_holds_the_package_and_its_metadata(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    metadata = {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE", ".gitignore"}
    assert names - metadata == PACKAGE_FILES


@pytest.mark.slow
def test_builds_are_the_same_to_the_byte(built: Path, tmp_path: Path) -> None:
    """From another folder, at another time and place, by a user of other habits, beside files that
    are none of the package's; and the wheel from the source distribution."""
    source, again, unpacked, third = (tmp_path / name for name in ("there", "b", "c", "d"))
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "jsoftmax", source / "jsoftmax")
    for stray in (".env", "tests/test_it.py", "dist/old.whl", "jsoftmax/__pycache__/old.pyc"):
        (source / stray).parent.mkdir(exist_ok=True)
        (source / stray).write_text("TOKEN=1", encoding="utf-8")
    for path in source.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1e9, 1e9))
    build(source, again, "wheel", "sdist", TZ="Pacific/Chatham", PYTHONHASHSEED="7", LC_ALL="C")
    names = sorted(path.name for path in built.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert len(names) == 2
    for name in names:
        assert (built / name).read_bytes() == (again / name).read_bytes(), name

    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(unpacked, filter="data")
    (inside,) = unpacked.iterdir()
    build(inside, third, "wheel")
    (ours,), (theirs,) = built.glob("*.whl"), third.glob("*.whl")
    assert ours.read_bytes() == theirs.read_bytes()


# --- in a clean environment ------------------------------------------------------------------


def required(name: str, extra: str = "") -> set[str]:
    """The distributions that one needs, here, itself included."""
    found, open_names = set[str](), [(name, extra)]
    while open_names:
        name, extra = open_names.pop()
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                extras = sorted(requirement.extras) or [""]
                open_names += [(requirement.name, extra) for extra in extras]
    return found


@pytest.fixture(scope="module")
def clean(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment in which pip has installed the wheel, without any extra.

    Without a network: what jax, jaxlib and chex need is linked from this environment, file by file
    of what is installed here, and nothing else. pip finds it there, and fails where the wheel asks
    for more.
    """
    pytest.importorskip("ensurepip", reason="this Python cannot make an environment with pip")
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    scripts = "Scripts" if os.name == "nt" else "bin"
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    names = set().union(*(required(name) for name in ("jax", "jaxlib", "chex")))
    for name in names:
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
    (wheel,) = built.glob("*.whl")
    python = folder / scripts / "python"
    command = [python, "-I", "-m", "pip", "install", "-q", "--no-index", wheel]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return python


def in_clean(python: Path, code: str) -> str:
    """What code prints in the clean environment, far from this tree."""
    command = [python, "-I", "-W", "error", "-c", code]
    environment = {"PATH": os.defpath, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=python.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(clean: Path) -> None:
    code = """
import importlib.metadata, importlib.util
import jax, jsoftmax
x = jax.numpy.array([0.0, jax.numpy.log(3.0), -jax.numpy.inf])
print(jsoftmax.__file__)
print(importlib.metadata.version("jsoftmax"), *jsoftmax.softmax(x).round(6).tolist())
print(int(jsoftmax.sample(jax.random.key(0), x, top_k=1)))
print(*(name for name in ("matplotlib", "optax", "pytest") if importlib.util.find_spec(name)))
try:
    import jsoftmax.plot
except ImportError as error:
    print(error)
"""
    place, value, token, others, error = in_clean(clean, code).split("\n", 4)
    assert Path(place).resolve().is_relative_to(clean.parent.parent.resolve())
    assert value == f"{PROJECT['version']} 0.25 0.75 0.0"
    assert token == "1"
    assert others == ""
    assert "pip install matplotlib" in error


@pytest.mark.slow
def test_a_clean_environment_holds_what_the_wheel_needs_and_no_more(clean: Path) -> None:
    code = """
import importlib.metadata
for distribution in importlib.metadata.distributions():
    print(distribution.metadata["Name"])
"""
    installed = {name.lower() for name in in_clean(clean, code).split()}
    assert {"jsoftmax", "jax", "jaxlib", "chex"} <= installed
    assert not installed & {"matplotlib", "optax", "scikit-learn", "flax", "jupytext", "pytest"}


def test_version_is_the_project_s() -> None:
    assert jsoftmax.__version__ == PROJECT["version"]


def test_every_public_name_is_there_once() -> None:
    assert all(hasattr(jsoftmax, name) for name in jsoftmax.__all__)
    assert len(set(jsoftmax.__all__)) == len(jsoftmax.__all__)


def python(code: str, cache: Path) -> str:
    """What a new interpreter prints; it keeps byte code, as an installed package has its own."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(cache)
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    return result.stdout


def test_import_brings_nothing_but_itself(tmp_path: Path) -> None:
    code = """
import sys
import jax, chex
before = set(sys.modules)
import jsoftmax
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    added = set(python(code, tmp_path).split())
    assert added - sys.stdlib_module_names <= {"jsoftmax", "jax"}


def test_plot_is_imported_by_its_own_name_only(tmp_path: Path) -> None:
    code = """
import sys
import jsoftmax
print("matplotlib" in sys.modules, "jsoftmax.plot" in sys.modules)
"""
    assert python(code, tmp_path).split() == ["False", "False"]


def test_plot_without_matplotlib_says_what_to_install(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["matplotlib"] = None
try:
    import jsoftmax.plot
except ImportError as error:
    print(error)
"""
    message = python(code, tmp_path)
    assert "pip install matplotlib" in message
    assert [name.partition(">")[0] for name in PROJECT["optional-dependencies"]["plot"]] == [
        "matplotlib"
    ]


def test_import_sets_nothing_up(tmp_path: Path) -> None:
    # No device is started and no setting of jax is changed by an import.
    code = """
import jax
before = dict(jax.config.values)
import jsoftmax
changed = {name for name, value in jax.config.values.items() if before.get(name) != value}
jax.config.update("jax_num_cpu_devices", 3)
print(sorted(changed), jax.device_count("cpu"))
"""
    assert python(code, tmp_path).split() == ["[]", "3"]


def commands(text: str) -> list[str]:
    """The one-line commands of a page that set everything up."""
    return re.findall(r"^(python3 -m pip .*)$", text, re.MULTILINE)


def test_readme_gives_two_commands_and_ci_runs_the_second() -> None:
    generate, run_tests = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert "examples/generate.py" in generate
    assert run_tests.endswith("--group test pytest")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f'    {run_tests} "$@"\n' in ci


def test_workflow_runs_the_same_script() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"^ +- run: (.*)$", workflow, re.MULTILINE) == ["bash .ci/run"]


# --- the workflow ----------------------------------------------------------------------------


def faults_of_workflow(text: str) -> list[str]:
    """What a workflow should not have: actions that a tag names, rights that it does not need."""
    found: list[str] = []
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if not (match := re.match(r"^ *(?:- +)?uses: *(.*)$", line)):
            continue
        if not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+", match[1]):
            found.append(f"not pinned by a commit, with its version beside it: {match[1]}")
        below = [after.strip() for after in lines[i + 1 : i + 3]]
        if "actions/checkout@" in line and below != ["with:", "persist-credentials: false"]:
            found.append("checkout leaves its credentials behind")
    jobs = re.findall(r"^  [\w-]+:\n", text.partition("\njobs:\n")[2], re.MULTILINE)
    if re.findall(r"^permissions:(.*)$", text, re.MULTILINE) != [" {}"]:
        found.append("a job that does not say what it may has rights")
    rights = re.findall(r"^ +permissions:.*\n((?: {6,}.*\n)*)", text, re.MULTILINE)
    if rights != ["      contents: read\n"] * len(jobs):
        found.append("a job may do more than read, or does not say what it may")
    if "pull_request_target" in text or "secrets." in text:
        found.append("the code of a pull request meets what it should not")
    return found


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_every_action_and_may_only_read(path: Path) -> None:
    assert faults_of_workflow(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (r"checkout@[0-9a-f]{40} # v[\d.]+", "checkout@v5"),
        (r"checkout@([0-9a-f]{39})[0-9a-f]", r"checkout@\1"),
        (r"setup-python@([0-9a-f]{40}) # v[\d.]+", r"setup-python@\1"),
        (r"persist-credentials: false", "persist-credentials: true"),
        (r"\npermissions: \{\}\n", "\n"),
        (r"\npermissions: \{\}\n", "\npermissions: write-all\n"),
        (r"contents: read", "contents: write"),
        (r"( +)contents: read\n", r"\1contents: read\n\1id-token: write\n"),
        (r" +permissions:\n +contents: read\n", ""),
        (r"pull_request:", "pull_request_target:"),
    ],
)
def test_a_workflow_with_a_fault_is_found_out(right: str, wrong: str) -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    changed, number = re.subn(right, wrong, text)
    assert number == 1
    assert len(faults_of_workflow(changed)) == 1


def test_hooks_come_from_here_or_from_a_commit() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    repositories = re.findall(r"^ *- repo: (.*)\n(.*)", text, re.MULTILINE)
    assert repositories
    for name, following in repositories:
        assert name == "local" or re.fullmatch(r" *rev: [0-9a-f]{40}( # .*)?", following)

"""What is shipped, what an import costs, and that the README and CI give the same command."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import jsoftmax

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE_FILES = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "jsoftmax").rglob("*")
    if path.suffix == ".py" or path.name == "py.typed"
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-t",
        "wheel",
        "-t",
        "sdist",
        "-d",
        str(folder),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
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
    assert 'pip install "jsoftmax[plot]"' in message
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

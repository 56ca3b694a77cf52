"""Where the rooms stand, what the wheel holds, and that it works from an otherwise empty venv."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ROOMS = ("envs", "agents", "experiments")
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "dist", "site", "runs", "*.egg-info", "*.so", "docs", "tests"
)


def run(*command: object, cwd: Path) -> str:
    """Output of a command that must succeed, started as by a user with a clean environment."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "REWARDZOO"))}
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sources() -> set[str]:
    """Every file of the package, by its installed name."""
    # By name, not through the symlinks: whether a glob follows them depends on Python's version.
    folders = {"rewardzoo": ROOT / "rewardzoo"} | {f"rewardzoo/{r}": ROOT / r for r in ROOMS}
    return {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix not in (".c", ".so")
        and not (name == "rewardzoo" and path.relative_to(folder).parts[0] in ROOMS)
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the sdist builds. A copy is built: old files in build/ would go in too."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=NOT_SOURCES)
    run(sys.executable, "-m", "build", "--no-isolation", "-o", folder, cwd=folder / "tree")
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_a_relative_link(room: str) -> None:
    assert os.readlink(ROOT / "rewardzoo" / room) == f"../{room}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_refused_under_its_bare_name(room: str) -> None:
    code = f"""
try:
    import {room}
except ImportError as error:
    print(error)
"""
    assert (
        run(sys.executable, "-c", code, cwd=ROOT).strip() == f"import rewardzoo.{room}, not {room}"
    )


def test_no_source_file_is_imported_under_two_names() -> None:
    code = """
import collections, importlib, os, pkgutil, sys, rewardzoo
for module in pkgutil.walk_packages(rewardzoo.__path__, "rewardzoo."):
    try:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name.startswith("rewardzoo"):
            raise  # anything else is an extra that is not installed
names = collections.defaultdict(set)
ours = tuple(os.path.join(os.getcwd(), d, "") for d in ("rewardzoo", "envs", "agents", "experiments"))
for name, module in list(sys.modules.items()):
    file = os.path.realpath(getattr(module, "__file__", None) or "")
    if file.startswith(ours):
        names[file].add(name)
for group in names.values():
    (name,) = group
    assert name.split(".")[0] == "rewardzoo", name
    print(name)
"""
    imported = set(run(sys.executable, "-c", code, cwd=ROOT).split())
    assert {"rewardzoo.envs", "rewardzoo.agents.ppo", "rewardzoo.experiments"} <= imported


def test_the_wheel_holds_every_file_and_nothing_outside_rewardzoo(wheel: Path) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    compiled = {n for n in names if n.endswith(".so")}
    assert names - compiled == sources()
    # Without a compiler it is left out, and processes step the games.
    assert compiled == ({"rewardzoo/envs/nethack/_crew.abi3.so"} if shutil.which("gcc") else set())


def closure(requirements: list[str]) -> set[str]:
    """Names of the installed distributions that the requirements bring, with theirs."""
    found: set[str] = set()
    todo = [(Requirement(r), "") for r in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        key = canonicalize_name(requirement.name)
        labels = {key} | {f"{key}[{e}]" for e in requirement.extras}
        if labels <= found:
            continue
        found |= labels
        needs = importlib.metadata.requires(key) or []
        todo += [(Requirement(n), e) for n in needs for e in ("", *requirement.extras)]
    return {label for label in found if "[" not in label}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a venv with the wheel and what it asks for.

    Those are linked from the present environment, not downloaded; what only the tests asked for is
    out of sight, so that an import that no requirement declares fails.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True)
    bin = folder / "venv" / "bin"
    run(bin / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (info,) = site.glob("rewardzoo-*.dist-info")
    requirements = importlib.metadata.PathDistribution(info).requires or []
    links = folder / "links"
    links.mkdir()
    for name in closure(requirements):
        distribution = importlib.metadata.distribution(name)
        for top in {f.parts[0] for f in distribution.files or [] if f.parts[0] != ".."}:
            target, link = Path(str(distribution.locate_file(top))), links / top
            if target.exists() and top != "__pycache__" and not link.exists():
                link.symlink_to(target)
    (site / "links.pth").write_text(f"{links}\n")
    return bin


def test_the_wheel_makes_an_environment_from_another_folder(
    installed: Path, tmp_path: Path
) -> None:
    code = """
import rewardzoo, gymnasium
env = gymnasium.make("rewardzoo/GridWorld-v0")
env.reset(seed=0)
print(rewardzoo.__file__)
"""
    file = run(installed / "python", "-c", code, cwd=tmp_path).split()[-1]
    assert Path(file).is_relative_to(installed.parent)


def test_the_wheel_runs_an_experiment_from_another_folder(installed: Path, tmp_path: Path) -> None:
    run(installed / "rewardzoo", "run", "quickstart", "--budget", "smoke", cwd=tmp_path)
    (page,) = tmp_path.glob("runs/**/report.html")
    assert "<svg" in page.read_text()

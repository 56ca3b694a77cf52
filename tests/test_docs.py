"""Every code block of the README and the tutorials runs, and every environment has a card."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from rewardzoo.registration import AGENTS, EXPERIMENTS, REWARDS, env_ids

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(REWARDS, "_entries", dict(REWARDS._entries))
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    namespace: dict[str, Any] = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)


def test_a_reward_function_takes_under_25_lines_of_the_readme() -> None:
    section = PAGES[0].read_text().split("## Write a reward function")[1].split("\n## ")[0]
    assert len(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1].splitlines()) < 25


def test_every_environment_has_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    monkeypatch.setattr(generate, "OUT", tmp_path / "generated")
    generate.main()
    for id in env_ids():
        text = (tmp_path / "generated" / f"{generate.page_of(id)}.md").read_text()
        assert id in text and "## Objective" in text and "## Paper" in text
    index = (tmp_path / "generated" / "environments.md").read_text()
    assert "NetHack and MiniHack: sparse rewards" in index and "|  |" not in index
    rewards = (tmp_path / "generated" / "rewards.md").read_text()
    assert "falling_sofa" in rewards and "- `high`: greatest reward." in rewards
    assert "`delay(inner: RewardFunction, k: int)`" in rewards


def test_the_guide_names_what_exists() -> None:
    rows = re.findall(
        r"^\|(.*?)\|(.*?)\|(.*?)\|$", (ROOT / "docs" / "choosing.md").read_text(), re.M
    )
    used = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row[1])}
    assert used <= {*REWARDS, *AGENTS, "orpo"}
    watched = {name for row in rows for name in re.findall(r"`([a-z]+_[a-z_]+)`", row[2])}
    assert watched <= set(EXPERIMENTS) and len(watched) >= 3
    assert len(rows) > 12

"""The folder of ``rewardzoo train``: whose training it holds, and what of it is taken away.

Beside the checkpoints lies ``training.json``, what was asked for; on that alone depends whether a
second start is told to go on or to go elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import write_atomic
from .zoo.policies import CONFIG

CHECKPOINT, BEST, RECORD = "checkpoint.pt", "best.pt", "training.json"
_LEFT = ("checkpoint*.pt", BEST, RECORD, "events.out.tfevents.*", "videos/step-*.gif")


def check_unused(folder: Path, save: Path | None, asked: Mapping[str, Any]) -> None:
    """Raise where a new training would replace another one's checkpoint or policy.

    Args:
        folder: ``--out``.
        save: ``--save``.
        asked: ``env``, ``reward``, ``agent`` and whatever else tells trainings apart.

    Raises:
        ValueError: naming the option, what the folder holds and how to go on.
    """
    if (folder / CHECKPOINT).is_file():
        held = _read(folder / RECORD)
        if held == _plain(asked):
            raise ValueError(
                f"--out {folder}: it holds this very training; go on with --resume, or begin anew "
                "with --fresh, which deletes it"
            )
        raise ValueError(
            f"--out {folder}: it holds another training{_named(held)}; use another --out, or "
            "--fresh to delete it"
        )
    if save is not None and (save / CONFIG).is_file():
        raise ValueError(
            f"--save {save}: it holds a policy{_named(_read(save / CONFIG))}; use another --save, "
            "or --fresh to replace it"
        )


def record_training(folder: Path, asked: Mapping[str, Any]) -> None:
    """Write what was asked for."""
    write_atomic(folder / RECORD, json.dumps(asked, indent=1) + "\n")


def remove_training(folder: Path) -> None:
    """Delete what an earlier training left in ``folder``, and nothing else."""
    for pattern in _LEFT:
        for file in folder.glob(pattern):
            file.unlink()


def _read(path: Path) -> dict[str, Any]:
    """An object of a JSON file; empty where there is none, or another one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _plain(asked: Mapping[str, Any]) -> Any:
    """As it is read again."""
    return json.loads(json.dumps(asked))


def _named(held: Mapping[str, Any]) -> str:
    if not {"agent", "env", "reward"} <= set(held):
        return ""
    return f", of {held['agent']} on {held['reward']} in {held['env']}"

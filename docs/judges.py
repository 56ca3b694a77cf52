"""How well the embedded language model judges: stored in ``judges.json``, on the page of speed.

``python docs/judges.py`` runs the command of ``COMMAND`` and stores what it prints.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rewardzoo.experiments.benchmarks.timing import setting
from rewardzoo.files import write_atomic

STORED = Path(__file__).parent / "judges.json"
COMMAND = ("rewardzoo", "llm", "check")


def measure() -> dict[str, Any]:
    """What the command prints, line by line, and where, when and with what it was run.

    Raises:
        RuntimeError: if it comes to no verdict.
    """
    where = setting()  # before anything is measured: the load is that of others
    done = subprocess.run(
        [sys.executable, "-m", *COMMAND], capture_output=True, text=True, check=False
    )
    printed = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())
    if "verdict" not in printed:  # the exit code says only whether the model is good enough
        raise RuntimeError(f"{' '.join(COMMAND)}: {done.stderr.strip() or done.stdout.strip()}")
    return {**where, "printed": printed}


def chapter() -> str:
    """The table of what is stored."""
    found = json.loads(STORED.read_text(encoding="utf-8"))
    hardware = found["hardware"]
    load = "" if hardware["load"] is None else f" at a load of {hardware['load']:.1f}"
    rows = "\n".join(f"| {name} | {value} |" for name, value in found["printed"].items())
    return (
        "## The embedded language model\n\n"
        "It comes with `rewardzoo[llm]` so that everything can be tried out without a server. "
        "Whether it judges well enough to shape rewards, on the labelled messages that are "
        f"shipped:\n\n```bash\n{' '.join(COMMAND)}\n```\n\n| | |\n|---|---|\n{rows}\n\n"
        f"{found['date']}, {hardware['processor']}, {hardware['cores']} cores{load}, "
        f"rewardzoo {found['versions']['rewardzoo']}.\n"
    )


if __name__ == "__main__":
    write_atomic(STORED, json.dumps(measure(), indent=1) + "\n")

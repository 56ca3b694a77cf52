"""The experiments: one file a paper's claim."""

from __future__ import annotations

if __name__ == "experiments":
    raise ImportError("import rewardzoo.experiments, not experiments")

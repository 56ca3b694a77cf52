"""The environments: one folder each; importing it registers them with Gymnasium."""

from __future__ import annotations

if __name__ == "envs":
    raise ImportError("import rewardzoo.envs, not envs")

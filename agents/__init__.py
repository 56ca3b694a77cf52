"""The agents: one file an algorithm; what they share is in common."""

from __future__ import annotations

if __name__ == "agents":
    raise ImportError("import rewardzoo.agents, not agents")

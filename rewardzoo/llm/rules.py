"""The rule-based judge: regular expressions for messages of NetHack that report what helps.

Deterministic and editable: the reference that language models are measured against. A message is
helpful if it reports an event that has just happened and that serves the goal; descriptions,
questions, failures and damage are not helpful, whatever they are about.
"""

from __future__ import annotations

RULES: tuple[tuple[str, str], ...] = (
    ("combat", r"\bYou (?:kill|destroy) \w"),
    ("combat", r"\b(?:is|are) (?:killed|destroyed)(?: by your|!)"),
    ("gold", r"\$ - \d+ gold piece"),
    ("gold", r"\b\d+ gold pieces? \(in total\)"),
    ("level", r"\bWelcome (?:back )?to experience level \d"),
    ("level", r"\bYou feel more (?:experienced|confident in your)"),
    ("stairs", r"\bYou (?:descend|climb down) (?:the|a) "),
    ("stairs", r"\b(?:You fall through|A trap ?door opens up under you)"),
    ("passage", r"\bYou find a hidden (?:door|passage)"),
    ("passage", r"\b(?:the|this) door (?:crashes open|shatters|opens\.)"),
    ("passage", r"\bThe door opens\."),
    ("passage", r"\bYou (?:succeed in (?:picking|unlocking|forcing)|unlock the door)"),
    ("key", r"\b[a-zA-Z] - (?:a|the) (?:skeleton )?key\b"),
    ("key", r"\b[a-zA-Z] - a key named"),
)
"""(kind of event, pattern)."""

GOALS: dict[str, frozenset[str]] = {
    "score": frozenset({"combat", "gold", "level", "stairs", "passage"}),
    "combat": frozenset({"combat", "level"}),
    "gold": frozenset({"gold"}),
    "stairs": frozenset({"stairs"}),
    "key": frozenset({"key"}),
}
"""Which kinds of events serve a goal."""

"""Reward functions: one file each; ``base`` says what one is, ``wrappers`` puts it on an env."""

from __future__ import annotations

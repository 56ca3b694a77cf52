"""PassesOn: a vector wrapper outside of a VectorRewardWrapper, which has what that has."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch

from .base import RewardFunction


class PassesOn(gymnasium.vector.VectorWrapper):
    """Gives the reward function, the device and the state of the wrapper inside.

    Gymnasium's vector wrappers hide them, and agents ask for them: to save and to go on.

    Args:
        envs: a VectorRewardWrapper, or another of this kind around one.
    """

    @property
    def reward_function(self) -> RewardFunction:
        """What is paid."""
        return self.env.reward_function  # type: ignore[attr-defined,no-any-return]

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.env.device  # type: ignore[attr-defined,no-any-return]

    def raise_if_unpayable(self) -> None:
        """See ``VectorRewardWrapper``."""
        self.env.raise_if_unpayable()  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return self.env.state_dict()  # type: ignore[attr-defined,no-any-return]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        self.env.load_state_dict(state_dict)  # type: ignore[attr-defined]

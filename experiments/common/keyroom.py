"""What the key-room experiments share: the policy's view of the room, and training.

MiniHack's KeyRoom-S5: a key, a locked door, stairs behind it; 1 for the stairs, -.01 for a step in
which the game's clock stands still. PPO sees the 9 x 9 window around the hero in one-hot code, and
two flags (key in hand, door opened), in every arm alike; the message goes to the reward functions
only.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.autoreset import StepTracker
from rewardzoo.rewards.base import RewardFunction, Spaces
from rewardzoo.rewards.calm_detectors import KeyRoomOracle
from rewardzoo.rewards.wrappers import VectorRewardWrapper

from .successes import train_and_count

ENV = "rewardzoo/MiniHackKeyRoomS5-v0"
KEYS = ("chars_crop", "message")
SIGNS = ".|-+(>@# "
"""What is told apart in the window; all else is one more kind."""

PPO_SETTINGS: dict[str, Any] = {
    "num_steps": 128,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 5e-4,
    "ent_coef": 0.01,
    "gamma": 0.99,
    "hidden": (128, 128),
}
"""Fixed before the reporting seeds were run. The number of environments is a setting too: with 32
and rollouts of 32 steps the sparse reward was learned in the one seed looked at (seed 200, success
.80 by the end), with 8 and 128 steps not in seed 0."""


class View(gymnasium.vector.VectorWrapper):
    """The window in one-hot code and two flags, (N, 812) float32."""

    def __init__(self, envs: VectorRewardWrapper) -> None:
        super().__init__(envs)
        self.device = envs.device
        self._tracker = StepTracker(envs, self.device)
        self.oracle = KeyRoomOracle()
        found = Spaces(envs.single_observation_space, envs.single_action_space, envs)
        self.oracle.bind(envs.num_envs, self.device, found)
        code = torch.full((256,), len(SIGNS), dtype=torch.int64)
        code[torch.tensor(list(SIGNS.encode()))] = torch.arange(len(SIGNS))
        self._code = torch.eye(len(SIGNS) + 1)[code].to(self.device)
        self.flags = torch.zeros(envs.num_envs, 2, device=self.device)
        self.width = 81 * (len(SIGNS) + 1) + 2
        self.single_observation_space = spaces.Box(0.0, 1.0, (self.width,), np.float32)
        self.observation_space = spaces.Box(0.0, 1.0, (envs.num_envs, self.width), np.float32)

    def reset(self, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """No key, no open door."""
        obs, _ = self.env.reset(**kwargs)
        self.flags = torch.zeros_like(self.flags)
        self._tracker.reset(obs)
        return self._view(self._tracker.obs, self.flags), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step; the flags follow what happened."""
        out = self.env.step(actions)
        t, info = self._tracker.step(actions, *out), out[4]
        flags = torch.maximum(self.flags, self.oracle.detect(t))
        final = self._view(t.next_obs, flags)
        self.flags = torch.where(t.done.unsqueeze(1), 0.0, flags)
        begun = self._view(self._tracker.obs, self.flags) if self._tracker.some_began else final
        kept = {"objective": info["objective"], "episode": info["episode"], "_episode": t.done}
        kept = {**kept, "final_obs": final, "_final_obs": t.done}
        return begun, t.reward, t.terminated, t.truncated, kept

    def _view(self, obs: Any, flags: Tensor) -> Tensor:
        crop = self._code[obs["chars_crop"].flatten(1).to(torch.int64)]
        return torch.cat([crop.flatten(1), flags], 1)


def make_key_rooms(num_envs: int, fn: RewardFunction, **arguments: Any) -> View:
    """Key rooms that pay ``fn``, as the policy sees them.

    All in this process: with so small a policy, and jobs side by side, what a worker process would
    save goes into waiting for it.
    """
    made: Any = gymnasium.make_vec(
        ENV, num_envs, observation_keys=KEYS, actions="calm", num_workers=0, **arguments
    )
    return View(VectorRewardWrapper(made, fn))


def train_in_key_room(trial: Any, fn: RewardFunction, **arguments: Any) -> dict[str, float]:
    """Train PPO on ``fn`` and count how often the stairs were reached: see ``train_and_count``.

    ``arguments`` are the environment's.
    """
    envs = make_key_rooms(trial.budget.num_envs, fn, **arguments)
    return train_and_count(trial, envs, **PPO_SETTINGS)

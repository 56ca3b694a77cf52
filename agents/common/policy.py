"""PolicyAgent: an agent that draws its actions from a policy network, with a critic beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rewardzoo.transition import Obs

from .agent import Agent, Env
from .collector import EpisodeSums, Rollout
from .distributions import distribution
from .networks import ActorCritic


class PolicyAgent(Agent):
    """Builds the network and acts by it; a subclass adds optimiser, collector and the learning.

    ``parameters`` is all of the network's parameters as one flat tensor.
    """

    network: ActorCritic

    def __init__(
        self,
        env: Env,
        seed: int,
        device: torch.device | str | None,
        hyperparameters: dict[str, Any],
    ) -> None:
        super().__init__(env, seed, device, hyperparameters)
        hp = self.hp
        self.distribution = distribution(self.envs.single_action_space, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = ActorCritic(
                self.envs.single_observation_space,
                self.distribution.num_outputs,
                hp.hidden,
                hp.activation,
                hp.recurrent,
                hp.recurrent_size,
                self.distribution.learned_std,
                hp.normalize_observations,
                self.num_values,
            )
        self.network.to(self.device)
        self.parameters = self.network.flatten()

    @property
    def num_values(self) -> int:
        """How many value heads the network has."""
        return 1

    def collect(self) -> tuple[Rollout, EpisodeSums]:
        """Play ``num_steps`` steps in every environment."""
        return self.play(self._sample)

    @torch.no_grad()
    def outputs(self, obs: Obs) -> Tensor:
        """What actions are drawn by, (N, num_outputs), of a policy without memory."""
        return self.network.actor(obs)

    @torch.no_grad()
    def act(
        self, obs: Obs, memory: Tensor, began: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Actions for the environment and the new memory; without noise, the most likely ones."""
        if noise is not None:
            return self._sample(obs, memory, began, noise)[1:]
        out, memory = self._outputs(obs, memory, began)
        action = self.distribution.mode(out, self.network.log_std)
        return self.distribution.to_env(action), memory

    def _sample(
        self, obs: Obs, memory: Tensor, began: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The policy's action, the environment's and the new memory."""
        out, memory = self._outputs(obs, memory, began)
        action = self.distribution.sample(out, self.network.log_std, noise)
        return action, self.distribution.to_env(action), memory

    def _outputs(self, obs: Obs, memory: Tensor, began: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        if network.core is None:
            return network.actor(obs), memory
        memory = network.remember(network.encode(obs)[0], memory, began)
        return network.policy(memory[:, : network.width], obs), memory

    def _memories(self, obs: Obs, began: Tensor, memory: Tensor) -> Tensor:
        """The memory after each of T * N steps, (T * N, M), from that before the first, (N, M)."""
        num_envs = memory.shape[0]
        features = self.network.encode(obs)[0]
        features = features.reshape(-1, num_envs, features.shape[-1])
        memories = []
        for x, begins in zip(features, began.reshape(-1, num_envs), strict=True):
            memory = self.network.remember(x, memory, begins)
            memories.append(memory)
        return torch.cat(memories)

    def _after(self, next_obs: Obs, memories: Tensor) -> Tensor:
        """What the critic reads of successors: each continues the memory of its own step."""
        network = self.network
        none = torch.zeros(memories.shape[0], dtype=torch.bool, device=memories.device)
        return network.remember(network.encode(next_obs)[0], memories, none)[:, : network.width]

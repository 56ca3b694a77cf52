"""PPO as a single file in the manner of CleanRL (Huang et al. 2022), on Gymnasium's SyncVectorEnv.

Written for this comparison after the well-known structure: one agent module with two separate
networks, storage tensors filled step by step, autograd, ``torch.optim.Adam``, clipping by
``clip_grad_norm_``; truncation counts as termination.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical


def layer(inputs: int, outputs: int, gain: float = 2.0**0.5) -> nn.Linear:
    """A linear layer with orthogonal weights and no bias to start with."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """Separate 2 x 64 tanh networks for actor and critic."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.critic = nn.Sequential(
            layer(observations, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, 1.0)
        )
        self.actor = nn.Sequential(
            layer(observations, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, actions, 0.01)
        )

    def get_value(self, x: Tensor) -> Tensor:
        """(B, 1)."""
        return self.critic(x)

    def get_action_and_value(
        self, x: Tensor, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Action, its log-probability, entropy, value."""
        policy = Categorical(logits=self.actor(x))
        if action is None:
            action = policy.sample()
        return action, policy.log_prob(action), policy.entropy(), self.critic(x)


class CleanRLStyle:
    """The training loop, cut so that it can be continued.

    Args:
        num_envs: N.
        seed: of networks, actions and environments.
    """

    num_steps, num_epochs, num_minibatches = 128, 4, 4
    learning_rate, gamma, gae_lambda = 2.5e-4, 0.99, 0.95
    clip, ent_coef, vf_coef, max_grad_norm = 0.2, 0.0, 0.5, 0.5

    def __init__(self, num_envs: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.shuffle = np.random.default_rng(seed)
        self.envs = SyncVectorEnv(
            [
                lambda: gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("CartPole-v1"))
                for _ in range(num_envs)
            ],
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        self.agent = Agent(4, 2)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=self.learning_rate, eps=1e-5)
        shape = (self.num_steps, num_envs)
        self.obs = torch.zeros(*shape, 4)
        self.actions, self.logprobs, self.rewards, self.dones, self.values = (
            torch.zeros(shape) for _ in range(5)
        )
        first, _ = self.envs.reset(seed=seed)
        self.next_obs, self.next_done = torch.Tensor(first), torch.zeros(num_envs)

    def train(self, iterations: int) -> list[list[float]]:
        """Go on for so many iterations; the returns of the episodes that ended in each."""
        out = []
        for _ in range(iterations):
            out.append(self.rollout())
            self.update(*self.advantages())
        return out

    def rollout(self) -> list[float]:
        """Fill the storage."""
        returns: list[float] = []
        for step in range(self.num_steps):
            self.obs[step], self.dones[step] = self.next_obs, self.next_done
            with torch.no_grad():
                action, logprob, _, value = self.agent.get_action_and_value(self.next_obs)
                self.values[step] = value.flatten()
            self.actions[step], self.logprobs[step] = action, logprob
            obs, reward, terminated, truncated, info = self.envs.step(action.numpy())
            done = np.logical_or(terminated, truncated)
            self.rewards[step] = torch.as_tensor(reward)
            self.next_obs, self.next_done = torch.Tensor(obs), torch.Tensor(done)
            if "final_info" in info:
                returns += info["final_info"]["episode"]["r"][done].tolist()
        return returns

    def advantages(self) -> tuple[Tensor, Tensor]:
        """Generalised advantages and returns."""
        with torch.no_grad():
            next_value = self.agent.get_value(self.next_obs).flatten()
            advantages = torch.zeros_like(self.rewards)
            last = torch.zeros_like(next_value)
            for t in reversed(range(self.num_steps)):
                final = t == self.num_steps - 1
                alive = 1.0 - (self.next_done if final else self.dones[t + 1])
                following = next_value if final else self.values[t + 1]
                delta = self.rewards[t] + self.gamma * following * alive - self.values[t]
                last = delta + self.gamma * self.gae_lambda * alive * last
                advantages[t] = last
        return advantages, advantages + self.values

    def update(self, advantages: Tensor, returns: Tensor) -> None:
        """Epochs of minibatches."""
        b_obs, b_actions = self.obs.reshape(-1, 4), self.actions.reshape(-1)
        b_logprobs, b_advantages = self.logprobs.reshape(-1), advantages.reshape(-1)
        b_returns = returns.reshape(-1)
        order = np.arange(len(b_actions))
        size = len(order) // self.num_minibatches
        for _ in range(self.num_epochs):
            self.shuffle.shuffle(order)
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                _, logprob, entropy, value = self.agent.get_action_and_value(
                    b_obs[rows], b_actions.long()[rows]
                )
                ratio = (logprob - b_logprobs[rows]).exp()
                adv = b_advantages[rows]
                adv = (adv - adv.mean()) / (adv.std() + 1e-8)
                clipped = torch.clamp(ratio, 1.0 - self.clip, 1.0 + self.clip)
                policy_loss = torch.max(-adv * ratio, -adv * clipped).mean()
                value_loss = 0.5 * ((value.view(-1) - b_returns[rows]) ** 2).mean()
                loss = policy_loss - self.ent_coef * entropy.mean() + 2 * self.vf_coef * value_loss
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.agent.parameters(), self.max_grad_norm)
                self.optimizer.step()

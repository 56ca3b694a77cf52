"""Submodular policy optimisation (Prajapat, Mutný, Zeilinger, Krause 2024).

Policy gradient for returns that are set functions of what was visited. One iteration: ``collect``
plays whole episodes; ``credits`` gives every action the gains that came after it (those before
are functions of the past: they add noise and nothing else); ``update`` takes one gradient step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor

from rewardzoo.registration import register_agent

from .common import trees
from .common.advantages import gae
from .common.agent import Env
from .common.collector import Collector, Rollout
from .common.hyperparameters import hyper
from .common.layers import ACTIVATIONS
from .common.policy import PolicyAgent

CREDITS = ("togo", "prefix")
BASELINES = ("batch", "critic", "none")


@dataclass(frozen=True)
class SubPOHyperparameters:
    """The paper's settings for grids, but for the credit, which is the theorem's."""

    num_steps: int | None = hyper(
        None, "steps between two updates: whole episodes; None asks the environment for one's", 1
    )
    credit: str = hyper(
        "togo",
        "what an action is credited with: 'togo', the gains from it on (the policy gradient), or "
        "'prefix', those up to it (the reference implementation: a myopic gradient, and noisier)",
    )
    baseline: str = hyper(
        "batch",
        "what is taken off: 'batch', the mean of the other rows at the same step; 'critic', a "
        "learned value, with generalised advantages; 'none'",
    )
    learning_rate: float = hyper(1e-2, "step size of Adam", low=0.0)
    anneal_lr: bool = hyper(False, "let the step size fall linearly to 0 over learn()")
    gamma: float = hyper(1.0, "discount; below 1 the return is no set function", 0.0, 1.0)
    gae_lambda: float = hyper(0.95, "bias against variance of a critic's advantages", 0.0, 1.0)
    normalize_advantage: bool = hyper(True, "divide advantages by their standard deviation")
    ent_coef: float = hyper(0.0, "weight of the entropy bonus at first", low=0.0)
    ent_decay: bool = hyper(True, "divide that weight by the number of updates")
    vf_coef: float = hyper(0.5, "weight of the critic's loss", low=0.0)
    max_grad_norm: float | None = hyper(None, "gradients are scaled down to this norm; None: never")
    hidden: tuple[int, ...] = hyper((64, 32), "widths of the hidden layers")
    activation: str = hyper("tanh", f"one of {', '.join(ACTIVATIONS)}")
    recurrent: str | None = hyper(None, "None, 'gru' or 'lstm': a policy with memory")
    recurrent_size: int = hyper(128, "width of the recurrent core", low=1)
    normalize_observations: bool = hyper(False, "standardise Box observations")

    def __post_init__(self) -> None:
        """Check what bounds alone cannot."""
        for name, known in (
            ("credit", CREDITS),
            ("baseline", BASELINES),
            ("activation", ACTIVATIONS),
            ("recurrent", (None, "gru", "lstm")),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(str, known))}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm={self.max_grad_norm}: expected None or a number > 0")


def credits(reward: Tensor, done: Tensor, gamma: float, credit: str) -> Tensor:
    """What each action is credited with, (T, N), before a baseline.

    ``togo``: ``sum_{j >= h} gamma^(j - h) gain_j``, up to the end of the episode. ``prefix``:
    ``sum_{j <= h} gain_j`` from its beginning. The sums before ``h`` depend on the past alone, so
    their product with the score has mean 0: ``prefix`` has the mean of ``gain_h`` alone, the
    gradient at ``gamma=0``.

    Args:
        reward: (T, N) gains.
        done: (T, N) bool, the episode ended with the step.
        gamma: discount, of ``togo``.
        credit: "togo" or "prefix".

    Paper: Prajapat et al. (2024), theorem 2 (``togo``).
    """
    if credit == "togo":
        zero = torch.zeros_like(reward)
        return gae(reward, zero, zero, done, done, gamma, 1.0)
    total, out = torch.zeros_like(reward[0]), []
    for t in range(reward.shape[0]):
        total = total + reward[t]
        out.append(total)
        total = torch.where(done[t], 0.0, total)
    return torch.stack(out)


def leave_one_out(credit: Tensor) -> Tensor:
    """``credit`` (T, N) less the mean of the other rows at the same step: a baseline without bias.

    With one row there is no other, and nothing is taken off.
    """
    rows = credit.shape[1]
    if rows == 1:
        return credit
    return (credit - credit.mean(1, keepdim=True)) * (rows / (rows - 1))


def policy_gradient_loss(
    logp: Tensor, entropy: Tensor, advantage: Tensor, weight: Tensor | None, ent_coef: float
) -> tuple[Tensor, Tensor]:
    """``-mean(logp * advantage) - ent_coef * mean(entropy)``, and the mean entropy.

    Args:
        logp: (B,) of the actions taken.
        entropy: (B,) of the policy.
        advantage: (B,), constant.
        weight: (B,) float32, 0 on dead steps; None where all count.
        ent_coef: weight of the entropy bonus.
    """

    def mean(x: Tensor) -> Tensor:
        return x.mean() if weight is None else (x * weight).sum() / weight.sum()

    mean_entropy = mean(entropy)
    return -mean(logp * advantage) - ent_coef * mean_entropy, mean_entropy


@register_agent("subpo")
class SubPO(PolicyAgent):
    """Submodular policy optimisation: policy gradient with marginal gains.

    For environments whose reward is what a step adds to a set function, by themselves or with the
    reward function ``submodular``. What the policy sees is the environment's choice: place and
    time (SubPO-M), the whole history (SubPO-NM, or ``recurrent="gru"``), or the memory of the set
    function. On the reward ``modular_surrogate`` it is the paper's baseline MODPO.

    Args:
        env: a Gymnasium vector environment, a single one, or an id.
        seed: of parameters, actions and environments.
        device: where it computes; default: the environments' device.
        **hyperparameters: see ``SubPOHyperparameters``.

    Raises:
        ValueError: for a bad hyperparameter, a reward function with another discount, or an
            environment that does not say how long its episodes are.

    Example:
        >>> import gymnasium, rewardzoo
        >>> envs = gymnasium.make_vec("rewardzoo/SubmodularGraph-v0", num_envs=256, obs="index")
        >>> agent = SubPO(envs, hidden=(), learning_rate=0.2).learn(100_000)
        >>> float(agent.evaluate(envs, 256, deterministic=True)["return"].mean())
        10.0

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    Hyperparameters = SubPOHyperparameters
    default_num_envs = 256

    def __init__(
        self,
        env: Env,
        seed: int = 0,
        device: torch.device | str | None = None,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(env, seed, device, hyperparameters)
        self.num_steps = self.num_steps or _episode_steps(self.envs)
        self.optimizer = torch.optim.Adam([self.parameters], lr=self.hp.learning_rate)
        self.collector = Collector(self.envs, self.device, self.network.memory_size)

    # ---- one iteration -----------------------------------------------------------------------

    def iterate(self) -> dict[str, float]:
        """Collect, update."""
        rollout, sums = self.collect()
        return self.read(self.update(rollout), sums)

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """One gradient step; returns the parts of the loss."""
        hp = self.hp
        shape = rollout.reward.shape
        logp, entropy, features = self._evaluate(rollout)
        value_loss = torch.zeros((), device=self.device)
        if hp.baseline == "critic":
            value = self.network.value(features).reshape(shape)
            with torch.no_grad():
                # With the critic in ``prefix``, its own bootstrap has no place: it is to-go only.
                advantage = gae(
                    rollout.reward,
                    value,
                    self._next_value(rollout),
                    rollout.terminated,
                    rollout.done,
                    hp.gamma,
                    hp.gae_lambda,
                )
                target = advantage + value
            error = (target - value).square()
            value_loss = error.mean() if rollout.valid is None else error[rollout.valid].mean()
        else:
            advantage = credits(rollout.reward, rollout.done, hp.gamma, hp.credit)
            if hp.baseline == "batch":
                advantage = leave_one_out(advantage)
        if hp.normalize_advantage:
            advantage = advantage / (advantage.std() + 1e-8)
        weight = None if rollout.valid is None else rollout.valid.reshape(-1).to(torch.float32)
        ent_coef = hp.ent_coef / (self.iteration + 1 if hp.ent_decay else 1)
        policy_loss, mean_entropy = policy_gradient_loss(
            logp, entropy, advantage.reshape(-1), weight, ent_coef
        )
        self.parameters.grad.zero_()
        (policy_loss + hp.vf_coef * value_loss).backward()
        norm = torch.linalg.vector_norm(self.parameters.grad)
        if hp.max_grad_norm is not None:
            self.parameters.grad.mul_((hp.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        if self.network.moments is not None:
            self.network.moments.update(trees.flat(rollout.obs).to(torch.float32))
        return {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": mean_entropy.detach(),
            "grad_norm": norm,
        }

    def _evaluate(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities and entropies (T * N,), and what the critic reads (T * N, F)."""
        network, obs = self.network, trees.flat(rollout.obs)
        if network.core is None:
            for_actor, features = network.encode(obs)
        else:
            memories = self._memories(obs, trees.flat(rollout.began), rollout.memory)
            for_actor = features = memories[:, : network.width]
        logp, entropy = self.distribution.logp_entropy(
            network.policy(for_actor, obs), network.log_std, trees.flat(rollout.action)
        )
        return logp, entropy, features

    def _next_value(self, rollout: Rollout) -> Tensor:
        """(T, N) values of the true successors."""
        network, next_obs = self.network, trees.flat(rollout.next_obs)
        if network.core is None:
            features = network.encode(next_obs)[1]
        else:
            began = trees.flat(rollout.began)
            memories = self._memories(trees.flat(rollout.obs), began, rollout.memory)
            features = self._after(next_obs, memories)
        return network.value(features).reshape(rollout.reward.shape)

    def evaluate(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        num_episodes: int = 100,
        deterministic: bool = False,
        seed: int = 1_000_000,
    ) -> dict[str, Tensor]:
        """Play ``num_episodes`` fresh episodes; see ``agents.common.evaluation.evaluate``.

        Actions are drawn by default: what is optimised is the stochastic policy, and a Markov one
        may need its chances.
        """
        return super().evaluate(env, num_episodes, deterministic, seed)


def _episode_steps(envs: Any) -> int:
    """How long the environment says that its episodes are."""
    inner = envs.unwrapped
    if isinstance(inner, gymnasium.vector.SyncVectorEnv):
        inner = inner.envs[0].unwrapped
    for owner in (inner, getattr(inner, "func", None)):
        steps = getattr(owner, "episode_steps", None)
        if isinstance(steps, int) and steps >= 1:
            return steps
    raise ValueError(
        "num_steps=None: this environment does not say how long its episodes are (episode_steps); "
        "give num_steps, a multiple of their length"
    )

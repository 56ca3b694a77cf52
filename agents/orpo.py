"""ORPO: PPO that is kept near a base policy by its occupancy (Laidlaw, Singhal, Dragan 2024).

``maximise J - coef D(occupancy, base)``. Before an iteration's steps are paid, a discriminator
learns the log-ratio of the occupancies from them; the penalty it gives enters the reward, and so
what an action leads to counts. For comparison, the divergence of action distributions enters the
reward in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor

from rewardzoo.base_policy import BasePolicy, base_actions, check_actions, probabilities
from rewardzoo.demonstrations import Demonstrations
from rewardzoo.metrics.occupancy import theory_coefficient
from rewardzoo.random import SEEDS_APART, Rng, first_row
from rewardzoo.registration import register_agent
from rewardzoo.rewards.base import Spaces, number
from rewardzoo.rewards.occupancy import DIVERGENCES, LEAST, ON, OccupancyPenalty

from .common import trees
from .common.agent import Env
from .common.base_policy import base_of
from .common.collector import Collector, Rollout
from .common.divergences import ACTION_DIVERGENCES, action_cost
from .common.hyperparameters import hyper
from .ppo import PPO, Batch, PPOHyperparameters

_BASE_STREAM = 7


@dataclass(frozen=True)
class ORPOHyperparameters(PPOHyperparameters):
    """PPO's settings, and how it is kept near the base policy."""

    base: str | None = hyper(
        None, "saved agent (.pt, or a policy's folder), or demonstrations (name, file, folder)"
    )
    divergence: str | None = hyper(
        "sqrt_chi2", f"one of {', '.join((*DIVERGENCES, *ACTION_DIVERGENCES))}, or None"
    )
    on: str = hyper("state_action", f"occupancies of what: one of {', '.join(ON)}")
    coef: float | str = hyper(
        "theory", "of the divergence, in a step's reward; 'theory': sigma sqrt(1 - r^2)"
    )
    r: float | None = hyper(
        None, "the reward's correlation with the objective under the base", low=0.0, high=1.0
    )
    base_steps: int = hyper(400, "steps of every environment that the base plays at first", low=1)
    centre: bool | None = hyper(
        None, "subtract an occupancy penalty's mean; None: once an episode has terminated"
    )
    clip: float | None = hyper(1000.0, "bound of a step's occupancy penalty; None: none", low=0.0)

    def __post_init__(self) -> None:
        """Check what bounds alone cannot."""
        super().__post_init__()
        known = (*DIVERGENCES, *ACTION_DIVERGENCES, None)
        if self.divergence not in known:
            raise ValueError(f"divergence={self.divergence!r}: expected one of {known}")
        if self.on not in ON:
            raise ValueError(f"on={self.on!r}: expected one of {', '.join(ON)}")
        if self.coef != "theory":
            number("coef", self.coef, 0.0)
        elif self.divergence is not None:
            if self.divergence != "sqrt_chi2":
                raise ValueError(
                    f"coef='theory', divergence={self.divergence!r}: there is a theory of "
                    "sqrt_chi2 only; give coef a number"
                )
            if not self.r:
                raise ValueError(
                    f"coef='theory', r={self.r}: expected r in (0, 1], the reward's correlation "
                    "with the objective under the base; or give coef a number"
                )
        if self.recurrent and self.divergence in ACTION_DIVERGENCES:
            raise ValueError(
                f"divergence={self.divergence!r}, recurrent={self.recurrent!r}: expected a policy "
                "without memory, or a divergence of occupancies"
            )


@register_agent("orpo")
class ORPO(PPO):
    """PPO with a penalty on the divergence from a base policy.

    The divergence of occupancies, of states and actions or of states alone, for Discrete and Box
    actions; that of action distributions, for Discrete actions and a base whose probabilities are
    known. Without a base it only plays: so are saved agents read. It logs, besides what PPO does,
    ``orpo/penalty``, a step's mean penalty, and what ``OccupancyPenalty`` tells.

    Args:
        env: as for PPO.
        base_policy: a function from observations to action probabilities, or to actions in a Box
            (see ``rewardzoo.base_policy``); an agent; the name of a saved one; or demonstrations,
            with which only occupancies can be compared.
        divergence: of occupancies, "sqrt_chi2", "chi2", "kl" or "tv"; of action distributions,
            "action_kl", "action_chi2" or "action_sqrt_chi2"; None is plain PPO.
        coef: of the divergence, in units of the reward of a step, or "theory": ``sigma sqrt(1 -
            r^2)``, with sigma the reward's standard deviation under the base.
        seed: as for PPO.
        device: as for PPO.
        compile: as for PPO.
        **hyperparameters: see ``ORPOHyperparameters``.

    Raises:
        ValueError: for a bad hyperparameter, a base of another environment, less than 100 steps of
            the base or between two updates.

    Example:
        >>> import torch, rewardzoo
        >>> agent = ORPO(
        ...     "rewardzoo/CartPole-v0", lambda obs: torch.full((len(obs), 2), 0.5),
        ...     coef=0.1, base_steps=4, num_steps=4,
        ... ).learn(256)
        >>> agent.num_timesteps
        256

    Paper: Laidlaw, Singhal, Dragan (2024), "Correlated proxies: a new definition and improved
    mitigation for reward hacking".
    """

    Hyperparameters = ORPOHyperparameters
    parts = (*PPO.parts, "regularisation")

    def __init__(
        self,
        env: Env,
        base_policy: Any = None,
        divergence: str | None = "sqrt_chi2",
        coef: float | str = "theory",
        seed: int = 0,
        device: torch.device | str | None = None,
        compile: bool = False,
        **hyperparameters: Any,
    ) -> None:
        if isinstance(base_policy, (str, Path)):
            hyperparameters["base"], base_policy = str(base_policy), None
        given = {"divergence": divergence, "coef": coef, **hyperparameters}
        super().__init__(env, seed, device, compile, **given)
        hp = self.hp
        self.learned: dict[str, float] = {}
        self.penalty: OccupancyPenalty | None = None
        self.base: BasePolicy | None = None
        self.coef = math.nan if hp.coef == "theory" else float(hp.coef)
        source = hp.base if base_policy is None else base_policy
        if hp.divergence is not None and source is not None:
            self._prepare_base(base_of(source, self.envs, self.device))

    def _prepare_base(self, base: BasePolicy | Demonstrations) -> None:
        """What the divergence needs of the base: its policy, or steps of it."""
        hp, envs = self.hp, self.envs
        space = Spaces(envs.single_observation_space, envs.single_action_space)
        occupancies = hp.divergence in DIVERGENCES
        if occupancies and self._rows_played < LEAST:
            raise ValueError(
                f"num_steps={hp.num_steps}: {self._rows_played} steps between two updates, "
                f"expected {LEAST} or more for a divergence of occupancies"
            )
        if isinstance(base, Demonstrations):
            if not occupancies:
                raise ValueError(
                    f"divergence={hp.divergence!r}: {base.source} tells no action probabilities; "
                    f"expected a base policy, or one of {', '.join(DIVERGENCES)}"
                )
            if hp.coef == "theory":
                raise ValueError(
                    f"coef='theory': {base.source} does not tell what the reward pays the base; "
                    "give coef a number"
                )
            obs, action = (torch.from_numpy(x).to(self.device) for x in (base.obs, base.action))
        else:
            check_actions(space.action)
            self.base = base
            if not occupancies:
                if not isinstance(space.action, gym_spaces.Discrete):
                    raise ValueError(
                        f"divergence={hp.divergence!r}: expected Discrete actions, and the "
                        f"environment's action_space is {space.action}; compare occupancies"
                    )
                return
            rollout = play_base(envs, base, hp.base_steps, self.seed, self.device)
            obs, action = trees.flat(rollout.obs), trees.flat(rollout.action)
            if hp.coef == "theory":
                self.coef = theory_coefficient(float(rollout.reward.std()), hp.r)
        self.penalty = OccupancyPenalty(
            obs, action, hp.divergence, centre=hp.centre, on=hp.on, clip=hp.clip
        )
        self.penalty.bind(envs.num_envs, self.device, space)

    @property
    def _rows_played(self) -> int:
        return self.num_steps * self.envs.num_envs

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Batch:
        """Advantages of the penalised rewards."""
        if self.hp.divergence is not None:
            cost = self._cost(rollout)
            self.learned["penalty"] = mean = float(cost.mean())
            if not math.isfinite(mean):
                raise ValueError(
                    f"divergence={self.hp.divergence!r}: its penalty is {mean}; expected a base "
                    "under which every action is possible, and a finite policy"
                )
            paid = rollout.reward - self.coef * cost.reshape(rollout.reward.shape)
            rollout = rollout._replace(reward=paid)
        return super().prepare(rollout)

    def _cost(self, rollout: Rollout) -> Tensor:
        """The penalty of every step, (T * N,)."""
        obs, action = trees.flat(rollout.obs), trees.flat(rollout.action)
        if self.penalty is not None:
            done = self.distribution.to_env(action)
            told = self.penalty.fit(obs, done, rollout.terminated)
            self.learned = {k: float(v) for k, v in told.items()}
            return self.penalty.penalty(obs, done)
        if self.base is None:
            raise ValueError(
                "base_policy=None: without one it only plays; give the one to be kept near, after "
                "load too: ORPO.load(path, env, base_policy=...)"
            )
        network = self.network
        log_pi = network.policy(network.encode(obs)[0], obs).log_softmax(1)
        base = probabilities(self.base, obs, self.envs.single_action_space)
        return action_cost(self.hp.divergence, log_pi, base, action)

    def _metrics(self, parts: Tensor, sums: Any, batch: Batch) -> dict[str, float]:
        """PPO's, and what the discriminator learned."""
        found = super()._metrics(parts, sums, batch)
        return {**found, **{f"orpo/{k}": v for k, v in self.learned.items()}}

    @property
    def regularisation(self) -> _Regularisation:
        """What a checkpoint holds besides PPO's."""
        return _Regularisation(self)


class _Regularisation:
    """The coefficient that "theory" gave, and the discriminator with the base's steps."""

    def __init__(self, agent: ORPO) -> None:
        self.agent = agent

    def state_dict(self) -> dict[str, Any]:
        penalty = self.agent.penalty
        return {
            "coef": self.agent.coef,
            "penalty": None if penalty is None else penalty.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.agent.coef = state["coef"]
        if self.agent.penalty is not None:
            self.agent.penalty.load_state_dict(state["penalty"])


@torch.no_grad()
def play_base(
    envs: Any, base: BasePolicy, num_steps: int, seed: int, device: torch.device
) -> Rollout:
    """Steps of a base policy from fresh episodes; the environments are left to be reset.

    Args:
        envs: any vector environment.
        base: the policy.
        num_steps: of every environment.
        seed: of its actions and of the episodes, which are none of an agent's of that seed.
        device: where they live.
    """
    space = envs.single_action_space
    check_actions(space)
    collector = Collector(envs, device)
    collector.reset(first_row(seed) + SEEDS_APART // 2)  # other rows than an agent's of that seed
    rows = torch.arange(envs.num_envs, device=device) + first_row(seed)
    count = [0]

    def act(obs: Any, memory: Tensor, began: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        count[0] += 1
        action = base_actions(base, obs, space, Rng(rows, 0 * rows, count[0], _BASE_STREAM))
        return action, action, memory

    # What a base draws by itself moves nothing else.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(first_row(seed))
        return collector.collect(num_steps, act)[0]


def imitate(agent: PPO, rollout: Rollout, base: BasePolicy, epochs: int = 20) -> float:
    """Start an agent's policy at the base: fit its logits; returns the last mean KL divergence.

    For Discrete actions, all of them possible under the base.
    """
    obs = trees.flat(rollout.obs)
    target = probabilities(base, obs, agent.envs.single_action_space)
    rows = len(target)
    optimizer = torch.optim.Adam([agent.parameters], lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    memory = torch.zeros(rows, 0, device=agent.device)
    began = torch.zeros(rows, dtype=torch.bool, device=agent.device)
    loss = torch.zeros(())
    for _ in range(epochs):
        for part in torch.randperm(rows, generator=generator).split(512):
            seen = trees.rows(obs, part)
            logits = agent._outputs(seen, memory[part], began[part])[0].log_softmax(1)
            loss = (target[part] * (target[part].log() - logits)).sum(1).mean()
            agent.parameters.grad.zero_()
            loss.backward()
            optimizer.step()
    agent.parameters.grad.zero_()
    return float(loss.detach())

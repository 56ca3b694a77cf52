"""OffPolicyAgent: what agents have in common that learn continuous control from a replay buffer.

One iteration: ``collect`` plays ``num_steps`` steps of every environment into the replay;
``batches`` draws all minibatches of the iteration at once and pays them, anew where the reward
function learns; ``update`` makes the gradient steps, on request as one compiled program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from rewardzoo.compiled import Program, Tensors
from rewardzoo.random import Rng
from rewardzoo.rewards.base import RewardFunction
from rewardzoo.transition import Obs

from .adam import adam
from .agent import Agent, Env, _reward_wrappers
from .collector import Collector, EpisodeSums
from .continuous import INITIALISATIONS, ActorTwinCritic, BoxActions, uniform
from .hyperparameters import hyper
from .n_step import NStep, NStepReplay

_REPLAY_STREAM = 2  # environments draw from stream 0, actions from 1


@dataclass(frozen=True)
class OffPolicyHyperparameters:
    """What TD3 and SAC share."""

    num_steps: int = hyper(16, "steps of every environment between two updates", low=1)
    updates_per_step: float = hyper(1.0, "gradient steps for each environment step", low=0.0)
    batch_size: int = hyper(256, "transitions of a gradient step", low=1)
    buffer_size: int = hyper(1_000_000, "transitions kept", low=2)
    learning_starts: int = hyper(
        1000, "environment steps before the first update, with uniformly random actions", low=0
    )
    learning_rate: float = hyper(3e-4, "step size of the actor's Adam", low=0.0)
    critic_learning_rate: float | None = hyper(None, "of the critics' Adam; None: the actor's")
    anneal_lr: bool = hyper(False, "let the actor's step size fall linearly to 0 over learn()")
    gamma: float = hyper(0.99, "discount", low=0.0, high=1.0)
    n_step: int = hyper(1, "rewards summed before a value stands for the rest", low=1)
    tau: float = hyper(0.005, "how far targets follow at each critic step", low=0.0, high=1.0)
    soft_min: float = hyper(
        1.0, "weight of the smaller of two values, the larger has the rest; 1: TD3's minimum, "
        ".75: BCQ's soft one", low=0.0, high=1.0,
    )  # fmt: skip
    loss: str = hyper("mse", "of the critics: 'mse' or 'huber'")
    max_grad_norm: float | None = hyper(None, "the actor's gradient is scaled down to this norm")
    actor_hidden: tuple[int, ...] = hyper((256, 256), "widths of the actor's hidden layers")
    critic_hidden: tuple[int, ...] = hyper((256, 256), "widths of the critics' hidden layers")
    layer_norm: bool = hyper(False, "normalise every hidden layer before its ReLU")
    initialisation: str = hyper("uniform", f"one of {', '.join(INITIALISATIONS)}")
    clip_observations: float | None = hyper(
        None, "standardise observations by running moments and clip them to this; None: neither"
    )
    absorbing: bool = hyper(
        False, "terminated episodes go on in an absorbing state, whose reward is learned"
    )

    def __post_init__(self) -> None:
        """Check what bounds alone cannot."""
        for name, allowed in {"loss": ("mse", "huber"), "initialisation": INITIALISATIONS}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {allowed}")
        for name in ("critic_learning_rate", "max_grad_norm", "clip_observations"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value}: expected None or a finite number > 0")


def q_target(batch: NStep, next_q: Tensor, soft_min: float) -> Tensor:
    """``returns + discount * (soft_min * min(Q1', Q2') + (1 - soft_min) * max(Q1', Q2'))``.

    Args:
        batch: B windows.
        next_q: (2, B), of the target critics at the windows' ends.
        soft_min: 1 for the minimum.

    Returns:
        (B,).

    Paper: Fujimoto, van Hoof, Meger (2018), "Addressing function approximation error in
    actor-critic methods", eq. 10; Fujimoto, Meger, Precup (2019), "Off-policy deep reinforcement
    learning without exploration", eq. 13.
    """
    low, high = torch.minimum(*next_q), torch.maximum(*next_q)
    value = low if soft_min == 1.0 else soft_min * low + (1.0 - soft_min) * high
    return batch.returns + batch.discount * value


def critic_loss(q: Tensor, target: Tensor, kind: str) -> Tensor:
    """Sum over the critics of the mean loss of ``q`` (2, B) from ``target`` (B,)."""
    fn = torch.nn.functional.smooth_l1_loss if kind == "huber" else torch.nn.functional.mse_loss
    return fn(q, target.expand_as(q)) * q.shape[0]


class OffPolicyAgent(Agent):
    """Plays, stores, samples; a subclass writes ``explore``, ``critic_terms`` and ``actor_terms``.

    Takes flat Box observations. Where the reward function learns, stored transitions are paid anew
    whenever they are sampled. ``network`` holds actor and critics, ``target`` what slowly follows
    them; ``flats`` the parameters as four tensors: actor, critics, and their targets.

    Args:
        env: a Gymnasium vector environment, a single one, or an id.
        seed: of parameters, actions and environments.
        device: where it computes; default: the environments' device.
        compile: make an iteration's gradient steps as one compiled program (needs a C++ compiler
            on CPU, and half a minute at first). Results agree up to rounding.
        **hyperparameters: by name.

    Raises:
        ValueError: for a bad hyperparameter or space, or a reward function with another discount.
    """

    parts = ("network", "target", "optimizer", "critic_optimizer", "replay")
    default_num_envs = 1
    outputs_per_action = 1
    """Numbers that the actor gives for each component of an action."""
    learns_scale = False
    """Whether the actor has a ``scale``."""
    noises = 1
    """Normal numbers that a gradient step needs for each component of an action."""
    names: tuple[str, ...] = ("critic_loss", "q", "actor_loss", "batch_reward")
    """Of what a turn of the update reports."""

    network: ActorTwinCritic
    distribution: BoxActions

    def __init__(
        self,
        env: Env,
        seed: int = 0,
        device: torch.device | str | None = None,
        compile: bool = False,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(env, seed, device, hyperparameters)
        hp, space = self.hp, self.envs.single_observation_space
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
            raise ValueError(f"observation_space={space}: expected a flat Box")
        self.distribution = BoxActions(self.envs.single_action_space, self.device)
        played = self.num_steps * self.envs.num_envs
        self.turns = round(played * hp.updates_per_step / self.delay)
        if self.turns * self.delay != played * hp.updates_per_step or self.turns == 0:
            raise ValueError(
                f"updates_per_step={hp.updates_per_step}: {played} steps between two updates make "
                f"{played * hp.updates_per_step:g} gradient steps, expected a multiple of "
                f"{self.delay}, the actor's delay"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = self._network(space.shape[0])
            self.target = self._network(space.shape[0]).requires_grad_(False)
        self.target.load_state_dict(self.network.state_dict())
        nets = (self.network.actor, self.network.critic, self.target.actor, self.target.critic)
        self.flats = [net.flatten() for net in nets]
        fused = {"fused": True} if self.device.type in ("cpu", "cuda") else {}
        self.optimizer = torch.optim.Adam(self.flats[:1], lr=hp.learning_rate, **fused)
        rate = hp.critic_learning_rate or hp.learning_rate
        self.critic_optimizer = torch.optim.Adam(self.flats[1:2], lr=rate, **fused)
        self.replay = NStepReplay(hp.buffer_size, self.envs.num_envs, self.device, hp.absorbing)
        self.collector = Collector(self.envs, self.device)
        self._compile = compile
        self._program: Program | None = None
        self.learned_reward = _learned(self.envs)

    def _network(self, num_obs: int) -> ActorTwinCritic:
        hp, num_actions = self.hp, self.distribution.num_outputs
        network = ActorTwinCritic(
            num_obs,
            num_actions,
            num_actions * self.outputs_per_action,
            hp.actor_hidden,
            hp.critic_hidden,
            hp.layer_norm,
            hp.initialisation,
            hp.clip_observations,
            hp.absorbing,
            self.learns_scale,
        )
        return network.to(self.device)

    # ---- what an algorithm writes ------------------------------------------------------------

    @property
    def delay(self) -> int:
        """Critic steps for each step of the actor."""
        return 1

    def explore(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Actions in [-1, 1] to play, from normal noise (N, A)."""
        raise NotImplementedError

    def critic_terms(self, batch: NStep, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The critics' loss on a batch, and their mean value."""
        raise NotImplementedError

    def actor_terms(self, batch: NStep, noise: Tensor) -> list[Tensor]:
        """The actor's loss on a batch, and further numbers to report."""
        raise NotImplementedError

    # ---- one iteration -----------------------------------------------------------------------

    def iterate(self) -> dict[str, float]:
        """Collect, and update once enough was played."""
        sums = self.collect()
        played = self.num_timesteps + self.num_steps * self.envs.num_envs
        parts = torch.full((len(self.names),), torch.nan, device=self.device)
        if played > self.hp.learning_starts:
            parts = self.update(*self.batches())
        return self.read(dict(zip(self.names, parts, strict=True)), sums)

    def collect(self) -> EpisodeSums:
        """Play ``num_steps`` steps in every environment, into the replay."""
        random = self.num_timesteps < self.hp.learning_starts

        def act(
            obs: Obs, memory: Tensor, began: Tensor, noise: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            action = uniform(noise) if random else self.explore(self.seen(obs), noise)
            return action, self.distribution.to_env(action), memory

        rollout, sums = self.play(act)
        # A function that learns pays stored steps anew: of them it needs what it was paid itself.
        reward = rollout.reward if self.learned_reward is None else rollout.objective
        self.replay.add_rollout(rollout, reward)
        if self.network.moments is not None:
            flat = rollout.obs.reshape(-1, rollout.obs.shape[-1]).to(torch.float32)
            for moments in (self.network.moments, self.target.moments):
                moments.update(flat)
        return sums

    def batches(self) -> tuple[NStep, Tensor]:
        """The minibatches of an iteration and their noise, (turns, delay, B, ...) each."""
        hp = self.hp
        shape = (self.turns, self.delay, hp.batch_size)
        one = self._seeds[:1]
        rng = Rng(one, torch.full_like(one, self.iteration), 0, _REPLAY_STREAM)
        start = rng.integers(0, max(len(self.replay), 1), math.prod(shape))[0].reshape(shape)
        width = self.noises * self.distribution.num_outputs
        noise = rng.normal(math.prod(shape), width)[0]
        windows = self.replay.windows(start, hp.n_step)
        with torch.no_grad():
            batch = self.replay.batch(windows, hp.gamma, self.reward_of(), self.to_env)
        return batch, noise.reshape(*shape, -1)

    def reward_of(self) -> Any:
        """What pays stored steps anew, or None where their reward stands."""
        return None if self.learned_reward is None else self.learned_reward.relabel

    def to_env(self, action: Tensor) -> Tensor:
        """Stored actions as reward functions see them; the flag of absorbing states is kept."""
        if not self.hp.absorbing:
            return self.distribution.to_env(action)
        plain = self.distribution.to_env(action[..., :-1]).flatten(action.ndim - 1)
        return torch.cat([plain * (1.0 - action[..., -1:]), action[..., -1:]], -1)

    def update(self, batch: NStep, noise: Tensor) -> Tensor:
        """The gradient steps of an iteration; returns the means of what is reported (``names``)."""
        if self._compile:
            return self._compiled_update(batch, noise)
        reports = []
        for turn in range(self.turns):
            for i in range(self.delay):
                reports.append(self._critic_step(_at(batch, turn, i), noise[turn, i]))
            last = self.delay - 1
            reports[-1] += self._actor_step(_at(batch, turn, last), noise[turn, last])
        return self._reported(reports, batch)

    def _critic_step(self, batch: NStep, noise: Tensor) -> list[Tensor]:
        actor, critic, slow_actor, slow_critic = self.flats
        critic.grad.zero_()
        loss, q = self.critic_terms(batch, noise)
        loss.backward()
        self.critic_optimizer.step()
        with torch.no_grad():
            slow_critic.lerp_(critic, self.hp.tau)
            slow_actor.lerp_(actor, self.hp.tau)
        return [loss.detach(), q]

    def _actor_step(self, batch: NStep, noise: Tensor) -> list[Tensor]:
        actor = self.flats[0]
        actor.grad.zero_()
        self.network.critic.requires_grad_(False)
        loss, *others = self.actor_terms(batch, noise)
        loss.backward()
        self.network.critic.requires_grad_(True)
        if self.hp.max_grad_norm is not None:
            norm = torch.linalg.vector_norm(actor.grad)
            actor.grad.mul_((self.hp.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        return [loss.detach(), *others]

    def _reported(self, reports: list[list[Tensor]], batch: NStep) -> Tensor:
        """Means over critic steps, and over the actor's, which are reported with every last one."""
        critics = torch.stack([torch.stack(report[:2]) for report in reports]).mean(0)
        actors = torch.stack([torch.stack(r[2:]) for r in reports if len(r) > 2]).mean(0)
        return torch.cat([critics, actors, batch.returns.mean().unsqueeze(0)])

    # ---- the same as one program -------------------------------------------------------------

    def _compiled_update(self, batch: NStep, noise: Tensor) -> Tensor:
        leaves, spec = tree_flatten((batch, noise))
        given = len(leaves)

        def turn(*tensors: Tensor) -> tuple[Tensors, Tensors]:
            x, carry, fixed = tensors[:given], list(tensors[given:-2]), tensors[-2:]
            return self._pure_turn(carry, *tree_unflatten(x, spec), *fixed)

        # A turn, not the loop over turns: that would take ten times as long to compile.
        if self._program is None:
            self._program = Program(turn)
        own = [flat.detach() for flat in self.flats]
        for optimizer in (self.optimizer, self.critic_optimizer):
            state = _adam_state(optimizer)
            own += [state["exp_avg"], state["exp_avg_sq"], state["step"]]
        rates = [self.optimizer.param_groups[0]["lr"], self.critic_optimizer.param_groups[0]["lr"]]
        fixed = [torch.full((), r, dtype=torch.float64, device=self.device) for r in rates]
        carry, reports = own, []
        with torch.no_grad():
            for i in range(self.turns):
                carry, report = self._program(*(x[i] for x in leaves), *carry, *fixed)
                reports += report
            for kept, new in zip(own, carry, strict=True):
                kept.copy_(new)
            return torch.cat([torch.stack(reports).mean(0), batch.returns.mean().unsqueeze(0)])

    def _pure_turn(
        self, carry: Tensors, batch: NStep, noise: Tensor, lr: Tensor, critic_lr: Tensor
    ) -> tuple[Tensors, Tensors]:
        """``delay`` critic steps and one of the actor, without changing anything in place."""
        network, target, tau = self.network, self.target, self.hp.tau
        actor, critic, slow_actor, slow_critic = carry[:4]
        of_actor, of_critic = carry[4:7], carry[7:]
        reports = []
        for i in range(self.delay):
            critic = critic.detach().requires_grad_()
            with (
                torch.enable_grad(),
                network.actor.using(actor),
                network.critic.using(critic),
                target.actor.using(slow_actor),
                target.critic.using(slow_critic),
            ):
                loss, q = self.critic_terms(_at(batch, i), noise[i])
                (grad,) = torch.autograd.grad(loss, critic)
            reports.append(torch.stack([loss.detach(), q.detach()]))
            critic, *of_critic = adam(critic.detach(), grad, *of_critic, critic_lr, 1e-8)
            slow_critic = slow_critic + tau * (critic - slow_critic)
            slow_actor = slow_actor + tau * (actor - slow_actor)
        actor = actor.detach().requires_grad_()
        with torch.enable_grad(), network.actor.using(actor), network.critic.using(critic):
            loss, *others = self.actor_terms(_at(batch, self.delay - 1), noise[self.delay - 1])
            (grad,) = torch.autograd.grad(loss, actor)
        if self.hp.max_grad_norm is not None:
            norm = torch.linalg.vector_norm(grad)
            grad = grad * (self.hp.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        actor, *of_actor = adam(actor.detach(), grad, *of_actor, lr, 1e-8)
        report = torch.cat([torch.stack(reports).mean(0), torch.stack([loss, *others]).detach()])
        return [actor, critic, slow_actor, slow_critic, *of_actor, *of_critic], [report]

    # ---- acting ------------------------------------------------------------------------------

    def seen(self, obs: Tensor) -> Tensor:
        """The environment's observations (N, D) as the networks take them."""
        obs = obs.to(torch.float32)
        if self.hp.absorbing:
            obs = torch.nn.functional.pad(obs, (0, 1))
        return self.network.see(obs)

    def preferred(self, seen: Tensor) -> Tensor:
        """Actions in [-1, 1] without noise."""
        raise NotImplementedError

    @torch.no_grad()
    def act(
        self, obs: Obs, memory: Tensor, began: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Actions for the environment and the (empty) memory; with noise, those of training."""
        seen = self.seen(obs)
        action = self.preferred(seen) if noise is None else self.explore(seen, noise)
        return self.distribution.to_env(action), memory


def _at(batch: NStep, *index: int) -> NStep:
    return NStep(*(x[index] for x in batch))


def _adam_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments of the one parameter, created as Adam creates them."""
    (parameter,) = optimizer.param_groups[0]["params"]
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter.data)
        state["exp_avg_sq"] = torch.zeros_like(parameter.data)
    return state


def _learned(envs: Any) -> RewardFunction | None:
    """The reward function that learns, if the environments are paid by one.

    Raises:
        ValueError: if its reward of stored transitions cannot be told.
    """
    wrappers = _reward_wrappers(envs)
    learned = [w.reward_function for w in wrappers if w.reward_function.overrides("update")]
    if not learned:
        return None
    (fn,) = learned[:1]
    if len(wrappers) > 1:
        raise ValueError(
            f"env: it is paid by {len(wrappers)} reward functions, one of which learns; stored "
            "transitions are paid anew by one alone. Compose them: env_reward + fn"
        )
    if not fn.markov:
        raise ValueError(
            f"env: the reward of {fn.name} depends on memory, so stored transitions cannot be "
            "paid anew; use an on-policy agent"
        )
    return fn

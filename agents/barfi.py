"""BARFI: learn the reward with which a learner does what was meant (Gupta et al. 2023).

    outer:  max over phi, c of  J(theta(phi, c)) - reward_penalty |phi|^2 - gamma_penalty gamma_phi
    inner:  theta(phi, c):  Delta(theta, phi, c) = 0

J is the return of the primary reward, Delta the update direction of REINFORCE from old episodes
(``reinforce.py``) on the alignment reward (``rewardzoo.rewards.alignment``) with the discount
``gamma_phi = sigmoid(c)``. So phi also learns to undo what is wrong with the learner itself.

With ``inner="actor_critic"`` theta holds the weights w of a critic too, ``V(s) = w^T x(s)`` over
the policy's features, and Delta has two parts, of the policy and of w:

    delta_t = r_phi,t + gamma_phi V(S_{t+1}) - V(S_t)
    Delta   = E[ sum_t (grad log pi(A_t | S_t)) delta_t ] + ent_coef * grad (mean entropy),
              E[ sum_t delta_t x(S_t) ]

Both are semi-gradients, and V is 0 after an episode's last step, as returns are there.

Every round plays one episode in every environment; then phi and c take one step along the
hypergradient (``common/implicit.py``), of which dJ/dtheta is estimated from the round's episodes
and the rest from older ones, and then theta takes ``updates`` steps.

With a ``baseline``, a running mean is subtracted from the returns in dJ/dtheta as well as in Delta;
the hypergradient takes both as constants.

Beside the paper: weights start at the plain sum of both rewards; the penalty is the squared norm,
whose gradient exists at 0 (``regulariser="norm"`` is the paper's, of gradient 0 there).

The series with a step far below 1 / |eigenvalues of H| has the direction of the hypergradient and a
small part of its length. To such a gradient penalties are added as they are, as the authors' code
does (``scale="reference"``): 0.25 acts as some 80 would where the series has 6 terms of step 5e-4.
With ``scale="true"`` a penalty is in units of J: it shrinks by as much as the gradient did,
``|H^T v| / |dJ/dtheta|``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rewardzoo.registration import register_agent
from rewardzoo.rewards.alignment import AlignmentReward
from rewardzoo.rewards.wrappers import VectorRewardWrapper

from .common.agent import Env
from .common.collector import Rollout
from .common.episodes import Episodes, discounted_returns
from .common.hyperparameters import hyper
from .common.implicit import Hypergradient, Parameters, hypergradient, unrolled
from .reinforce import Reinforce, ReinforceHyperparameters, followed

_OUTER = 1 << 20  # draws of the outer step, apart from those of the updates
_OUTER_KEEP = 0.99  # of the running mean of the primary reward's returns
_PATIENCE = 20
_UNSOLVED = 1e-2  # of the linear system, that a solver which should solve it may leave


@dataclass(frozen=True)
class BARFIHyperparameters(ReinforceHyperparameters):
    """Defaults: those of Gupta et al. (2023) for their maze."""

    off_policy: bool = hyper(True, "learn from old episodes, without correcting for their age")
    reward_learning_rate: float = hyper(5e-3, "of RMSprop on phi; 0 leaves it as it is", 0.0)
    gamma_learning_rate: float = hyper(5e-3, "of RMSprop on c; 0 leaves it as it is", 0.0)
    reward_penalty: float = hyper(0.0, "on phi, by regulariser", 0.0)
    regulariser: str = hyper("squared", "of phi: its squared norm, or norm")
    gamma_penalty: float = hyper(0.0, "on gamma_phi", 0.0)
    scale: str = hyper("reference", "of penalties: reference, as the series' length is, or true")
    inner: str = hyper("reinforce", "the learner: reinforce or actor_critic")
    critic_learning_rate: float = hyper(5e-2, "of RMSprop on the critic of actor_critic", 0.0)
    solver: str = hyper("neumann", "of the hypergradient: neumann, cg or unrolled")
    terms: int = hyper(5, "of the series, or steps of cg", 0)
    step: float | None = hyper(5e-4, "of the series; None: the best, by power_iterations", 0.0)
    power_iterations: int = hyper(0, "to check or estimate that step", 0)
    damping: float = hyper(0.0, "of the solver", 0.0)
    max_norm: float | None = hyper(None, "of an unrolled step's direction, as the authors' 1", 0.0)
    outer_episodes: int = hyper(15, "old episodes of a run from which Delta is estimated", 1)
    auxiliary: str = hyper("reward", "or baseline: what r_aux is, subtracted from its return")


@register_agent("barfi")
class BARFI(Reinforce):
    """Learns an ``AlignmentReward`` and, from it, a policy.

    The environment must pay one: ``VectorRewardWrapper(envs, AlignmentReward(auxiliary))``.

    Args:
        env: as for ``Reinforce``.
        seed: of a single run.
        device: as for ``Reinforce``.
        seeds: one a run, as for ``Reinforce``; the reward function's ``runs`` are as many.
        learns: whether a run learns its reward, one a run; the others keep it, to be compared
            with in the same batch. Default: all.
        **hyperparameters: by name.

    Raises:
        ValueError: if the environment pays no alignment reward.

    Paper: Gupta, Chandak, Jordan, Thomas, Castro da Silva (2023), "Behavior Alignment via Reward
    Function Optimization", NeurIPS.
    """

    Hyperparameters: type[Any] = BARFIHyperparameters
    parts = (*Reinforce.parts, "weights", "outer_optimizer")

    def __init__(
        self,
        env: Env,
        seed: int = 0,
        device: torch.device | str | None = None,
        seeds: Sequence[int] | None = None,
        learns: Sequence[bool] | None = None,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(env, seed, device, seeds, **hyperparameters)
        hp = self.hp
        if hp.solver not in ("neumann", "cg", "unrolled"):
            raise ValueError(f"solver={hp.solver!r}: expected neumann, cg or unrolled")
        if hp.auxiliary not in ("reward", "baseline"):
            raise ValueError(f"auxiliary={hp.auxiliary!r}: expected reward or baseline")
        if hp.regulariser not in ("squared", "norm"):
            raise ValueError(f"regulariser={hp.regulariser!r}: expected squared or norm")
        if hp.scale not in ("reference", "true"):
            raise ValueError(f"scale={hp.scale!r}: expected reference or true")
        if hp.scale == "true" and hp.solver == "unrolled":
            raise ValueError(
                "scale='true': solver='unrolled' solves no equation that tells how short its "
                "gradient is; take scale='reference'"
            )
        if hp.inner not in ("reinforce", "actor_critic"):
            raise ValueError(f"inner={hp.inner!r}: expected reinforce or actor_critic")
        if hp.inner == "actor_critic":
            if hp.auxiliary == "baseline":
                raise ValueError(
                    "auxiliary='baseline': it is subtracted from whole returns, which "
                    "inner='actor_critic' has none of; take inner='reinforce'"
                )
            if hp.baseline:
                raise ValueError(
                    f"baseline={hp.baseline}: inner='actor_critic' has a critic instead; take 0"
                )
            theta = self.network.theta.detach()
            value = torch.zeros_like(theta[:, :1]).repeat(1, self.network.features.size)
            self.network.value = nn.Parameter(value)
            self.optimizer.add_param_group(
                {"params": [self.network.value], "lr": hp.critic_learning_rate}
            )
        self.reward = _alignment_reward(self.envs)
        if self.reward.runs != len(self.seeds):
            raise ValueError(f"runs={self.reward.runs} of the reward: expected {len(self.seeds)}")
        learns = [True] * len(self.seeds) if learns is None else list(learns)
        if len(learns) != len(self.seeds):
            raise ValueError(f"learns: {len(learns)} flags for {len(self.seeds)} runs")
        self._learns = torch.tensor(learns, device=self.device)
        self._learners = self._learns.nonzero().flatten()
        unknown = torch.full((len(self.seeds),), torch.nan, device=self.device)
        self.network.register_buffer("outer_baseline", unknown)
        self.reward.collecting = True
        self.weights = self.reward.weights
        self.outer_optimizer = torch.optim.RMSprop(
            [
                {"params": [self.weights.phi], "lr": hp.reward_learning_rate},
                {"params": [self.weights.c], "lr": self._gamma_learning_rate},
            ],
            alpha=0.99,
            maximize=True,
        )
        self._trail: tuple[Tensor, list[Episodes]] | None = None
        self._failures = torch.zeros(len(self.seeds), device=self.device)
        self._warned = False

    @property
    def _gamma_learning_rate(self) -> float:
        return float(self.hp.gamma_learning_rate) if self.reward.learn_gamma else 0.0

    # ---- the inner problem -------------------------------------------------------------------

    def rewards(self, rollouts: list[Rollout]) -> Tensor:
        """The primary and the auxiliary reward, (T, N, 2)."""
        return self.reward.collected()

    def returns(self, episodes: Episodes) -> Tensor:
        """Of the alignment reward, (R, E, T); to an actor-critic, whose critic moves, rewards."""
        phi, c = self.weights.phi.detach(), self.weights.c.detach()
        if self.hp.inner == "actor_critic":
            return self._paid(episodes, phi)
        return self._returns(episodes, (phi, c))

    def _returns(self, episodes: Episodes, outer: Parameters) -> Tensor:
        phi, c = outer
        if self.hp.auxiliary == "baseline":
            primary, auxiliary = episodes.rewards.unbind(-1)
            return discounted_returns(primary, self.hp.gamma) - auxiliary
        return discounted_returns(self._paid(episodes, phi), self.reward.discount(c)[:, None, None])

    def _paid(self, episodes: Episodes, phi: Tensor) -> Tensor:
        """The alignment reward, (R, E, T)."""
        runs, count, steps = episodes.live.shape
        x = self.reward.features(episodes.obs).reshape(runs, count * steps, -1)
        paid = self.reward.combine(phi, x, episodes.rewards.reshape(runs, count * steps, 2))
        # The weights are not 0 on the padding.
        return paid.reshape(runs, count, steps) * episodes.live

    def _surprise(
        self, episodes: Episodes, paid: Tensor, value: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        """delta_t, (R, E, T), and the critic's part of Delta, (R, F)."""
        live = episodes.live
        runs, count, steps = live.shape
        x = self.network.features(
            episodes.obs.reshape(runs, count * steps, *episodes.obs.shape[3:])
        )
        now = (x @ value.unsqueeze(-1)).reshape(live.shape) * live
        after = torch.cat([now[..., 1:], torch.zeros_like(now[..., :1])], -1)
        surprise = paid + self.reward.discount(c)[:, None, None] * after - now
        part = (surprise.reshape(runs, 1, -1) @ x).squeeze(1) / (count * self.horizon)
        return surprise, part

    @property
    def theta(self) -> Tensor:
        """What the learner moves, (R, P): the policy's parameters, then a critic's."""
        return torch.cat([p.detach() for p in self._moved], -1)

    @property
    def _moved(self) -> list[Tensor]:
        return [group["params"][0] for group in self.optimizer.param_groups]

    def direction(self, episodes: Episodes, theta: Tensor, outer: Parameters) -> Tensor:
        """Delta, (R, P), with a graph to theta, phi and c."""
        policy, *critic = theta.split([p.shape[-1] for p in self._moved], -1)
        if critic:
            phi, c = outer
            paid = self._paid(episodes, phi)
            weight, *critic = self._surprise(episodes, paid, *critic, c)
        else:
            weight = self._returns(episodes, outer)
            if self.hp.baseline:  # as it is: no part of what is differentiated
                weight = weight - self.network.baseline[self._learners, None, None]
        total = self.surrogate(policy, episodes, weight, self.hp.ent_coef).sum()
        (actor,) = torch.autograd.grad(total, policy, create_graph=True)
        return torch.cat([actor, *critic], -1)

    def learn_from(self, newest: Episodes) -> dict[str, Tensor]:
        """The outer step, from the second round of old episodes on, then the inner ones."""
        hp, learned = self.hp, {}
        moves = hp.reward_learning_rate or self._gamma_learning_rate
        if self.rounds_of_old > 0 and moves and len(self._learners):
            learned = self.improve(newest)
        if hp.solver == "unrolled":
            self._trail = (self.theta, [])
        return {**learned, **super().learn_from(newest)}

    def ascend(self, episodes: Episodes, weight: Tensor) -> Tensor:
        """One update, remembered where it is to be unrolled."""
        if self._trail is not None:
            self._trail[1].append(episodes)
        if self.hp.inner == "actor_critic":
            value, c = self.network.value, self.weights.c.detach()
            weight, value.grad = self._surprise(episodes, weight, value.detach(), c)
        return super().ascend(episodes, weight)

    # ---- the outer problem -------------------------------------------------------------------

    def improve(self, newest: Episodes) -> dict[str, Tensor]:
        """One step of phi and c; returns metrics."""
        found = self.hypergradient(newest)
        phi, c = self.weights.phi, self.weights.c
        gamma = self.reward.discount(c.detach())
        penalties = [
            self._reward_slope(phi.detach()),
            self.hp.gamma_penalty * gamma * (1.0 - gamma),
        ]
        if self.hp.scale == "true":
            penalties = [found.solved.unsqueeze(-1) * penalties[0], found.solved * penalties[1]]
        gradients = (found.gradient[0] - penalties[0], found.gradient[1] - penalties[1])
        finite = torch.isfinite(gradients[0]).all(-1) & torch.isfinite(gradients[1])
        self._count_failures(finite)
        moves = finite & self._learns
        phi.grad = torch.where(moves.unsqueeze(-1), gradients[0], 0.0)
        c.grad = torch.where(moves, gradients[1], 0.0)
        self.outer_optimizer.step()
        self.reward.version += 1
        return {
            "outer_distance": found.distance.mean(),
            "outer_error": found.error.mean(),
            "outer_skipped": finite.logical_not().float().mean(),
            "gamma_phi": self.reward.discount(c.detach()).mean(),
        }

    def _reward_slope(self, phi: Tensor) -> Tensor:
        """The gradient of the penalty on phi, (R, P)."""
        if self.hp.regulariser == "squared":
            return 2.0 * self.hp.reward_penalty * phi
        length = phi.norm(dim=-1, keepdim=True)
        return self.hp.reward_penalty * phi / torch.where(length > 0, length, 1.0)

    def _metrics(self, learned: dict[str, Tensor]) -> dict[str, float]:
        """Read from the device, which is when a system that was left unsolved is seen."""
        metrics = super()._metrics(learned)
        hp, error = self.hp, metrics.get("train/outer_error", 0.0)
        # A step that was given is the caller's: the authors' leaves nearly all of the system.
        solves = hp.solver == "cg" or (hp.solver == "neumann" and hp.step is None)
        if solves and not self._warned and not error <= _UNSOLVED:
            self._warned = True
            warnings.warn(
                f"barfi: {hp.solver} leaves the hypergradient's linear system with a relative "
                f"error of {error:.3g} (train/outer_error; warned of once): H is nearly singular "
                "or the terms are too few; raise ent_coef, terms or damping",
                stacklevel=2,
            )
        return metrics

    def hypergradient(self, newest: Episodes) -> Hypergradient:
        """dJ/dphi and dJ/dc where the learner stands, before penalties."""
        hp, rows = self.hp, self._learners  # the other runs need none
        theta, policies = self.theta[rows], self.network.theta.shape[-1]
        outer = (self.weights.phi.detach()[rows], self.weights.c.detach()[rows])
        newest = Episodes(*(x[rows] for x in newest))
        goal = discounted_returns(newest.rewards[..., 0], hp.gamma)
        if hp.baseline:
            mean = followed(self.network.outer_baseline[rows], goal, newest.live, _OUTER_KEEP)
            self.network.outer_baseline[rows] = mean
            goal = goal - mean[:, None, None]

        def outer_gradient(theta: Tensor) -> Tensor:
            with torch.enable_grad():
                theta = theta.detach().requires_grad_()
                total = self.surrogate(theta[:, :policies], newest, goal, 0.0).sum()
                return torch.autograd.grad(total, theta)[0]  # 0 for a critic

        if hp.solver == "unrolled":
            return self._spread(self._unrolled(outer_gradient, outer))
        old = self.buffer.draw(self._batch_rng(_OUTER), hp.outer_episodes, newest=self.episodes)
        old = Episodes(*(x[rows] for x in old))
        found = hypergradient(
            lambda theta, outer: self.direction(old, theta, outer),
            outer_gradient(theta),
            theta,
            outer,
            hp.solver,
            hp.terms,
            hp.step,
            hp.power_iterations,
            hp.damping,
            tolerance=None,
        )
        return self._spread(found)

    def _spread(self, found: Hypergradient) -> Hypergradient:
        """To all runs: those that do not learn their reward get 0."""
        whole = (self.weights.phi.detach(), self.weights.c.detach())
        gradient = tuple(
            torch.zeros_like(p).index_copy(0, self._learners, g)
            for p, g in zip(whole, found.gradient, strict=True)
        )
        solved = torch.ones_like(whole[1]).index_copy(0, self._learners, found.solved)
        return found._replace(gradient=gradient, solved=solved)

    def _unrolled(self, outer_gradient: Any, outer: Parameters) -> Hypergradient:
        """Through the updates of the last round, with RMSprop's scale as it is now."""
        assert self._trail is not None
        rows = self._learners
        start, batches = self._trail
        rate = torch.cat(
            [
                group["lr"] / (self.optimizer.state[p]["square_avg"][rows].sqrt() + 1e-8)
                for p, group in zip(self._moved, self.optimizer.param_groups, strict=True)
            ],
            -1,
        )
        steps = [
            functools.partial(self.direction, Episodes(*(x[rows] for x in batch)))
            for batch in batches
        ]
        gradient = unrolled(steps, outer_gradient, start[rows], outer, rate, self.hp.max_norm)
        nothing = torch.full((len(rows),), torch.nan, device=self.device)
        return Hypergradient(gradient, nothing, nothing, nothing, nothing)

    def _count_failures(self, finite: Tensor) -> None:
        """Stop where skipping does not help.

        Raises:
            FloatingPointError: when a run's hypergradient was not finite for the 20th time on end.
        """
        self._failures = torch.where(finite, 0.0, self._failures + 1.0)
        if bool((self._failures >= _PATIENCE).any()):
            run = int(self._failures.argmax())
            raise FloatingPointError(
                f"barfi: the hypergradient of run {run} (seed {self.seeds[run]}) was not finite "
                f"{_PATIENCE} times on end: lower step, learning_rate or reward_learning_rate, or "
                "raise reward_penalty"
            )


def _alignment_reward(env: Any) -> AlignmentReward:
    while not isinstance(env, VectorRewardWrapper) and hasattr(env, "env"):
        env = env.env
    fn = getattr(env, "reward_function", None)
    if not isinstance(fn, AlignmentReward):
        raise ValueError(
            "env: barfi learns an alignment reward, and this environment pays none; wrap it with "
            "VectorRewardWrapper(envs, AlignmentReward(auxiliary)), or on the command line "
            "--reward 'alignment(maze_lure())'"
        )
    return fn

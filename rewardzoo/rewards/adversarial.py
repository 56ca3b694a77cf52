"""AdversarialReward: pays for looking like the demonstrations (Blondé et al. 2022; Ho, Ermon 2016).

A discriminator learns to tell the expert's rows from the agent's; its score pays the agent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..compiled import Program
from ..demonstrations import check_steps, load_demonstrations
from ..random import Rng
from ..registration import register_reward
from ..transition import Transition
from .adversarial_score import FORMS, LossWeights, Minibatch, ScoreNetwork, discriminator_loss
from .base import RewardFunction, Spaces, integer, number
from .lipschitz import PENALTIES, excess, gradient_norm, penalty_points
from .row_memory import Encoding, Moments, RowMemory

_CLAMP = 5.0  # standard deviations
_STREAM = 5
_MONITORED = 256  # rows a side

Metrics = dict[str, float | Tensor]


@register_reward("adversarial")
class AdversarialReward(RewardFunction):
    """Pays ``form(f)`` for a score f that tells the expert's rows from the agent's.

    ``L = BCE(f(x), 0) + BCE(f(x_E), y_E) - entropy * H + coef * E max(0, ||grad f|| - k)^2``, one
    Adam step on ``batch_size`` rows of each side an environment step; ``x`` is drawn from the last
    ``memory`` steps of the agent. ``relabel`` pays by the score as it is now. Rows are standardised
    by the moments of the demonstrations, clamped to ±5 standard deviations, and only then are the
    penalty's points made of them, so that the penalty sees no flat places that are the clamp's.
    Moments of the agent's rows too, as the authors take, would be those of its failures at first:
    beside them the expert's rows are as good as one point, and a held slope cannot tell them apart.

    A reward of one sign alone pays for living long, or for dying early. With ``absorbing``, every
    row has a column more in state and action, and a *terminated* episode goes on for ever in the
    state (0, ..., 0, 5) under the action (0, ..., 0, 5), whose reward ``r_abs`` is learned (5: as
    far from the demonstrations as a number can be; at 1 it would lie among them). Its value is
    ``r_abs / (1 - gamma)`` in closed form, and the terminated step is paid
    ``r + gamma r_abs / (1 - gamma)``: what a critic would learn of the loop, with any agent.

    With an off-policy agent this is Blondé et al.'s method, with PPO it is plain GAIL (then
    ``memory`` should be of a rollout or a few).

    Args:
        demos: demonstrations: a name or path for ``load_demonstrations``, or what it returns; at
            least a batch of steps.
        form: ``minimax`` (>= 0), ``nonsaturating`` (<= 0) or ``airl`` (their sum).
        penalty: where the gradient is penalised: ``wgan`` (between agent and expert), ``dragan``
            (around the expert), ``nagard`` (around the agent), ``bare`` (agent), ``expert`` (with
            ``k=0``: R1) or ``none``.
        k: slope that is not penalised.
        coef: lambda, weight of the penalty.
        one_sided: smaller slopes are not penalised.
        spectral_norm: divide the hidden layers by their largest singular value.
        label_smoothing: the expert's labels are uniform between these.
        entropy: weight of the discriminator's entropy.
        positive_share: of the agent's rows, the share that counts as the expert's own
            (positive-unlabelled learning; Blondé et al. try .25); None: none is.
        state_only: score (state, next state), so that the expert's actions are not needed.
        absorbing: see above.
        normalise: standardise observations by the demonstrations' moments.
        noise: standard deviation of ``dragan``'s and ``nagard``'s noise, in those of the data.
        shared_eps: ``wgan``: one place between agent and expert for both parts of a row, not one
            each.
        clip: a step is paid within ±``clip``; None: whatever the form gives.
        hidden: widths of the score's hidden layers.
        learning_rate: step size of Adam.
        batch_size: rows of each side a gradient step.
        updates_per_step: gradient steps an environment step.
        memory: steps of the agent that are remembered.
        gamma: the agent's discount, with ``absorbing``.
        time_limit: of files whose single flag says only that an episode is done; see
            ``load_demonstrations``.
        seed: of the network and the minibatches.
        compile: compile the gradient step (needs a C++ compiler on CPU, and half a minute at
            first).

    Paper: Blondé, Strasser, Kalousis (2022), "Lipschitzness is all you need to tame off-policy
    generative adversarial imitation learning"; absorbing states: Kostrikov et al. (2019),
    "Discriminator-actor-critic"; positive and unlabelled: Xu, Denil (2019), "Positive-unlabeled
    reward learning".
    """

    def __init__(
        self,
        demos: Any,
        form: str = "minimax",
        penalty: str = "wgan",
        k: float = 1.0,
        coef: float = 10.0,
        one_sided: bool = True,
        spectral_norm: bool = True,
        label_smoothing: tuple[float, float] = (0.7, 1.2),
        entropy: float = 1e-3,
        positive_share: float | None = None,
        state_only: bool = False,
        absorbing: bool = True,
        normalise: bool = True,
        noise: float = 0.5,
        shared_eps: bool = False,
        clip: float | None = None,
        hidden: tuple[int, ...] = (100, 100),
        learning_rate: float = 5e-4,
        batch_size: int = 64,
        updates_per_step: float = 1.0,
        memory: int = 100_000,
        gamma: float | str = "agent",
        seed: int = 0,
        compile: bool = False,
        time_limit: int | None = None,
    ) -> None:
        for name, value, known in (("form", form, FORMS), ("penalty", penalty, PENALTIES)):
            if value not in known:
                raise ValueError(f"{name}={value!r}: expected {', '.join(known)}")
        low, high = label_smoothing
        if not 0.0 <= low <= high:
            raise ValueError(f"label_smoothing={label_smoothing}: expected 0 <= low <= high")
        self.demos, self.form, self.penalty = demos, form, penalty
        self.time_limit = time_limit
        k, coef = number("k", k, 0.0), number("coef", coef, 0.0)
        if positive_share is not None and not 0.0 < positive_share < 1.0:
            raise ValueError(f"positive_share={positive_share}: expected None or 0 < share < 1")
        self.weights = LossWeights(
            0.0 if penalty == "none" else coef,
            k,
            bool(one_sided),
            number("entropy", entropy, 0.0),
            positive_share,
        )
        self.labels = (low, high)
        self.spectral_norm, self.state_only = bool(spectral_norm), bool(state_only)
        self.absorbing, self.normalise = bool(absorbing), bool(normalise)
        self.noise, self.shared_eps = number("noise", noise, 0.0), bool(shared_eps)
        self.clip = None if clip is None else number("clip", clip, 0.0)
        self.hidden = tuple(integer("hidden", width, 1) for width in hidden)
        self.learning_rate = number("learning_rate", learning_rate, 0.0)
        self.batch_size = integer("batch_size", batch_size, 1)
        self.updates_per_step = number("updates_per_step", updates_per_step, 0.0)
        self.capacity = integer("memory", memory, 1)
        self.seed, self.compile = seed, bool(compile)
        self.gamma = gamma if self.absorbing else None

    # ---- rows --------------------------------------------------------------------------------

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Read the demonstrations for these spaces, and make network and memory."""
        if self.capacity < num_envs:
            raise ValueError(f"memory={self.capacity}: expected at least {num_envs}, one step's")
        self._observe = Encoding(spaces.observation, "observation_space")
        self._act = Encoding(spaces.action, "action_space", bounded=True)
        self._flag = int(self.absorbing)
        first = self._observe.width + self._flag
        second = (self._observe if self.state_only else self._act).width + self._flag
        self._split = (first, second)
        demos = expert_rows(self.demos, spaces, self.batch_size, self.time_limit)
        self._expert = self._rows(demos)
        self._absorbed = torch.zeros(first + second)
        if self.absorbing:
            self._absorbed[[first - 1, first + second - 1]] = _CLAMP
        self._memory = RowMemory(self.capacity, first + second + 1)
        self.network = ScoreNetwork(first + second, self.hidden, self.spectral_norm, self.seed)
        if self.normalise:
            self._standardise(self._observe(demos.obs))
        for part in (self._observe, self._act):
            part.to(device)
        super().bind(num_envs, device, spaces)
        flat = self.network.flat
        flat.grad = torch.zeros_like(flat)
        fused = device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam([flat], lr=self.learning_rate, fused=fused)
        self._step: Any = Program(self._gradient) if self.compile else self._gradient
        self._fresh = 0

    def _rows(self, t: Transition) -> Tensor:
        """(B, D + 1) numbers of a transition: the network's input, and whether it terminated."""
        terminated = t.terminated.to(torch.float32).unsqueeze(1)
        none = torch.zeros_like(terminated)
        parts = [self._observe(t.obs)]
        parts += [none] * self._flag
        if self.state_only:
            after = self._observe(t.next_obs)
            parts += [after, terminated] if self._flag else [after]
        else:
            parts += [self._act(t.action), *([none] * self._flag)]
        return torch.cat([*parts, terminated], 1)

    def _standard(self, rows: Tensor) -> Tensor:
        """(..., D) as the network reads them, of raw rows (..., D + 1)."""
        network = self.network
        x = ((rows[..., :-1] - network.shift) * network.scale).clamp(-_CLAMP, _CLAMP)
        if self.state_only and self.absorbing:  # the next state is the absorbing one
            second = torch.arange(x.shape[-1], device=x.device) >= self._split[0]
            x = torch.where(second & (rows[..., -1:] > 0.0), self._absorbed, x)
        return x

    def _standardise(self, obs: Tensor) -> None:
        """Standardise by the moments of demonstrated observations (M, D)."""
        moments = Moments(self._observe.width)
        moments.add(obs, torch.ones(len(obs), dtype=torch.bool))
        mean, scale = moments.standard()
        starts = (0, self._split[0]) if self.state_only else (0,)
        for start in starts:
            self.network.shift[start : start + len(mean)] = mean
            self.network.scale[start : start + len(mean)] = scale

    def standard(self) -> tuple[Tensor, Tensor]:
        """What observations are standardised by: mean, and one over the deviation."""
        size = self._observe.width
        return self.network.shift[:size], self.network.scale[:size]

    # ---- paying ------------------------------------------------------------------------------

    def __call__(self, t: Transition) -> Tensor:
        """The reward of each row; of a terminated one, with all that comes after it."""
        reward = self.reward(self.network(self._standard(self._rows(t))))
        if not self.absorbing:
            return reward
        gamma = self.check_gamma()
        after = self.reward(self.network(self._absorbed.unsqueeze(0))) * (gamma / (1.0 - gamma))
        return reward + torch.where(t.terminated, after, 0.0)

    def reward(self, score: Tensor) -> Tensor:
        """What a score pays."""
        paid = FORMS[self.form](score)
        return paid if self.clip is None else paid.clamp(-self.clip, self.clip)

    def check_gamma(self) -> float:
        """The discount, below 1: absorbed for ever, an undiscounted reward has no value."""
        gamma = super().check_gamma()
        if not gamma < 1.0:
            raise ValueError(f"gamma={gamma}: expected gamma < 1 with absorbing=True")
        return gamma

    # ---- learning ----------------------------------------------------------------------------

    def observe(self, t: Transition) -> None:
        """Remember the agent's rows."""
        self._memory.add(self._rows(t), t.valid)
        self._fresh += t.valid.shape[0]

    def update(self) -> Metrics:
        """Gradient steps for the environment steps since the last update."""
        steps = round(self._fresh * self.updates_per_step)
        if steps < 1 or not self._fresh:
            return {}
        self._fresh = 0
        network, total = self.network, torch.zeros(6, device=self._expert.device)
        with torch.no_grad():
            batches = self.minibatches(steps, self.batch_size)
            for batch in zip(*batches, strict=True):
                grad, directions, parts = self._step(network.flat.data, network.directions, *batch)
                network.flat.grad.copy_(grad)  # type: ignore[union-attr]
                network.directions.copy_(directions)
                self.optimizer.step()
                total += parts
            network.freeze()
        self.version += 1
        names = ("loss", "penalty", "accuracy_agent", "accuracy_expert", "score_agent")
        found: Metrics = dict(zip((*names, "score_expert"), total / steps, strict=True))
        return {**found, **self.monitor()}

    def minibatches(self, steps: int, size: int) -> Minibatch:
        """``steps`` minibatches, stacked: (steps, size, D), labels (steps, size)."""
        device = self._expert.device
        seed = torch.full((1,), self.seed, dtype=torch.int64, device=device)
        rng = Rng(seed, torch.full_like(seed, self.version), 0, _STREAM)
        shape = (steps, size)
        agent = self._draw(rng, self._memory.at(rng.uniform(*shape)[0]), self._memory.share())
        index = rng.integers(0, len(self._expert), *shape)[0]
        ended = self._expert[:, -1].sum()
        expert = self._draw(rng, self._expert[index], ended / (len(self._expert) + ended))
        low, high = self.labels
        labels = rng.uniform(*shape, low=low, high=high)[0]
        eps = noise = torch.zeros((), device=device)
        if self.penalty == "wgan":
            eps = rng.uniform(*shape, 1 if self.shared_eps else 2)[0]
            if not self.shared_eps:
                second = torch.arange(sum(self._split), device=device) >= self._split[0]
                eps = torch.where(second, eps[..., 1:], eps[..., :1])
        elif self.penalty in ("dragan", "nagard"):
            noise = self.noise * rng.normal(*shape, sum(self._split))[0]
        points = penalty_points(self.penalty, agent, expert, eps, noise)
        return Minibatch(agent, expert, labels, points)

    def _draw(self, rng: Rng, rows: Tensor, absorbed: Tensor) -> Tensor:
        """Rows as the network reads them, that share of them in the absorbing state.

        Every terminated row is followed by one absorbing row; all of those are alike, so none is
        stored.
        """
        x = self._standard(rows)
        if not self.absorbing:
            return x
        chosen = rng.uniform(*rows.shape[:-1])[0] < absorbed
        return torch.where(chosen.unsqueeze(-1), self._absorbed, x)

    def _gradient(
        self, flat: Tensor, directions: Tensor, *batch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss's gradient (P,), improved directions, the loss's parts (6,); a pure function."""
        flat = flat.detach().requires_grad_()
        with torch.enable_grad():
            parts, directions = self.network.weights(flat, directions)
            loss, numbers = discriminator_loss(
                lambda x: self.network.score(parts, x), Minibatch(*batch), self.weights
            )
            (grad,) = torch.autograd.grad(loss, flat)
        return grad, directions, numbers

    @torch.no_grad()
    def monitor(self) -> Metrics:
        """Slopes of the score, rewards and the share of clamped numbers, on fresh rows."""
        batch = self.minibatches(1, _MONITORED)
        found: Metrics = {}
        violation = []
        for side, x in (("replay", batch.agent[0]), ("expert", batch.expert[0])):
            norm = gradient_norm(self.network, x)
            found[f"grad_norm_{side}"] = norm.mean()
            found[f"grad_norm_{side}_high"] = norm.quantile(0.95)
            violation.append(excess(norm, self.weights.k).mean())
            found[f"reward_{side}"] = self.reward(self.network(x)).mean()
        found["violation"] = torch.stack(violation).mean()
        found["clamped"] = (batch.agent.abs() == _CLAMP).to(torch.float32).mean()
        return found


def expert_rows(
    demos: Any, spaces: Spaces, batch_size: int, time_limit: int | None = None
) -> Transition:
    """Demonstrations as transitions of these spaces.

    Args:
        demos: see ``AdversarialReward``.
        spaces: what they must fit.
        batch_size: steps, at least.
        time_limit: see ``AdversarialReward``.

    Raises:
        ValueError: where they are of something else, too few or not finite.
    """
    if isinstance(demos, str):
        demos = load_demonstrations(demos, time_limit)
    rows: dict[str, Any] = {
        name: torch.as_tensor(getattr(demos, name))
        for name in ("obs", "action", "next_obs", "terminated", "truncated")
    }
    seen, done = rows["obs"].numpy(), rows["action"].numpy()
    source = getattr(demos, "source", "demos")
    check_steps(source, seen, done, spaces.observation, spaces.action, batch_size)
    count = len(rows["terminated"])
    return Transition(
        **rows,
        reward=torch.zeros(count),
        valid=torch.ones(count, dtype=torch.bool),
        episode_step=torch.zeros(count, dtype=torch.int64),
    )

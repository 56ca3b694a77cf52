"""check_reward: the conformance suite for reward functions."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from ..rewards.base import RewardFunction
from ..rewards.wrappers import RewardWrapper, VectorRewardWrapper
from ..transition import Transition
from .recording import (
    CPU,
    LIMIT,
    MODES,
    Actions,
    EnvMaker,
    Log,
    clone,
    make_envs,
    play,
    record,
    same,
    take,
    through_file,
    to,
)


@dataclasses.dataclass(frozen=True)
class RewardReport:
    """What ``check_reward`` found.

    Args:
        name: of the reward function.
        memory: its state changes when it is called.
        truncation_matters: it pays a truncated step otherwise than a terminated one.
        relabels: it can score stored transitions.
        skipped: checks that do not apply, with the reason.
    """

    name: str
    memory: bool
    truncation_matters: bool
    relabels: bool
    skipped: tuple[str, ...]


def check_reward(
    fn: RewardFunction | Callable[[], RewardFunction],
    env: str | EnvMaker = "rewardzoo/CartPole-v0",
    num_envs: int = 6,
    steps: int = 40,
    seed: int = 0,
    meta: bool = True,
) -> RewardReport:
    """Check that a reward function keeps the contract of ``RewardFunction``.

    Args:
        fn: the function (it is copied, never changed), or what makes one.
        env: what to try it on: an id, or ``make(num_envs, autoreset_mode)`` of a vector env.
        num_envs: rows.
        steps: steps a row.
        seed: of environments and random actions.
        meta: try it on torch's ``meta`` device, where copying to the host raises; False for a
            function that must (one that asks a server, say).

    Raises:
        AssertionError: naming the function, what is wrong and what to do.

    Example:
        >>> from rewardzoo.rewards import Potential
        >>> check_reward(Potential(lambda obs: obs[:, 2], gamma=0.99)).truncation_matters
        True
    """
    log = record(env, AutoresetMode.SAME_STEP, num_envs, steps, seed)
    suite = _RewardSuite(fn, env, log, seed)
    suite.check_output()
    suite.check_inputs()
    suite.check_rows()
    suite.check_dead_rows()
    suite.check_reset()
    suite.check_saving()
    relabels = suite.check_relabel()
    suite.check_gradient()
    suite.check_autoreset(steps)
    if meta:
        suite.check_meta()
    memory = not same(suite.state_before, suite.state_after)
    return RewardReport(
        suite.name, memory, suite.truncation_matters(), relabels, tuple(suite.skipped)
    )


class _Sealed(dict[str, Any]):
    """An info whose objective may not be read."""

    def __getitem__(self, key: str) -> Any:
        assert key != "objective", _SEALED
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        assert key != "objective", _SEALED
        return super().get(key, default)


_SEALED = (
    "it reads info['objective']: that is for measuring only, a reward function never sees it; what "
    "the environment pays is transition.reward"
)


def _maker(fn: RewardFunction | Callable[[], RewardFunction]) -> Callable[[], RewardFunction]:
    return functools.partial(copy.deepcopy, fn) if isinstance(fn, RewardFunction) else fn


class _RewardSuite:
    """The checks, each on fresh copies of the function."""

    def __init__(
        self,
        fn: RewardFunction | Callable[[], RewardFunction],
        env: str | EnvMaker,
        log: Log,
        seed: int,
    ) -> None:
        self.make = _maker(fn)
        self.env, self.log, self.seed = env, log, seed
        self.skipped: list[str] = []
        made = self.make()
        assert isinstance(made, RewardFunction), (
            f"{made!r} is no RewardFunction: give an instance, or a function that makes one"
        )
        self.name = made.name
        # What "agent" is taken for; where the function has a number, that.
        gammas = [f.gamma for f in made.functions() if isinstance(f.gamma, (int, float))]
        self.gamma = float(gammas[0]) if gammas else 0.99
        self.every = torch.ones(log.num_envs, dtype=torch.bool)

    def fail(self, message: str) -> str:
        return f"reward function {self.name}: {message}"

    def fresh(self, num_envs: int, device: torch.device = CPU) -> RewardFunction:
        fn = self.make()
        if any(f.gamma == "agent" for f in fn.functions()):
            fn.match_gamma(self.gamma)
        fn.bind(num_envs, device, self.log.spaces)
        return fn

    def started(self, index: Tensor | None = None) -> RewardFunction:
        """A fresh function, at the start of the log."""
        n = self.log.num_envs if index is None else len(index)
        fn = self.fresh(n)
        with torch.no_grad():
            fn.reset(torch.ones(n, dtype=torch.bool), take(self.log.first_obs, index))
        return fn

    def drive(
        self,
        fn: RewardFunction,
        start: int = 0,
        stop: int | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """Pay the log's steps, (T, N) float32."""
        paid = []
        with torch.no_grad():
            for t, began, obs in self.log.steps[start:stop]:
                t, began, obs = (take(x, index) for x in (t, began, obs))
                paid.append(self.pay(fn, t))
                fn.observe(t)
                if bool(began.any()):
                    fn.reset(began, obs)
        return torch.stack(paid)

    def pay(self, fn: RewardFunction, t: Transition) -> Tensor:
        reward = fn(t)
        n = len(t.valid)
        assert isinstance(reward, Tensor), self.fail(
            f"returned {type(reward).__name__}: expected a tensor of one number a row"
        )
        assert tuple(reward.shape) == (n,), self.fail(
            f"returned shape {tuple(reward.shape)}: expected ({n},), one number a row"
        )
        assert reward.dtype is torch.float32, self.fail(
            f"returned {reward.dtype}: expected float32; use reward.to(torch.float32)"
        )
        paid = torch.where(t.valid, reward, 0.0).detach()
        assert bool(torch.isfinite(paid).all()), self.fail(
            f"paid {paid.tolist()}: expected finite numbers"
        )
        return paid

    def check_output(self) -> None:
        """Shape, dtype and finiteness; two runs agree."""
        fn = self.started()
        self.state_before = fn.state_dict()
        self.paid = self.drive(fn)
        self.state_after = fn.state_dict()
        self.agree(
            self.drive(self.started()),
            self.paid,
            "two runs over the same steps differ: start memory in bind() and reset(), and draw "
            "random numbers from rewardzoo.random.Rng",
        )

    def check_inputs(self) -> None:
        """The transition is left as it was, and its objective unread."""
        fn = self.started()
        for t, began, obs in self.log.steps:
            before = clone(t)
            sealed = dataclasses.replace(t, info=_Sealed(t.info))
            try:
                with torch.no_grad():
                    fn(sealed)
                    fn.observe(sealed)
                    fn.reset(began, obs)
            except AssertionError as error:
                raise AssertionError(self.fail(str(error))) from None
            assert same(t, before), self.fail(
                "it wrote into the transition: return new tensors, and copy before changing one"
            )

    def check_rows(self) -> None:
        """Rows are treated alike, and apart where they should be."""
        order = torch.randperm(self.log.num_envs, generator=torch.Generator().manual_seed(0))
        self.agree(
            self.drive(self.started(order), index=order),
            self.paid[:, order],
            "permuting the rows does not permute the rewards: treat every row alike",
        )
        if not self.probe().rowwise:
            self.skipped.append("a row alone: rows share statistics (rowwise is False)")
            return
        for i in range(self.log.num_envs):
            index = torch.tensor([i])
            self.agree(
                self.drive(self.started(index), index=index),
                self.paid[:, index],
                f"row {i} alone is paid otherwise than in the batch: keep rows apart, or set "
                "rowwise = False where they share statistics",
            )

    def check_dead_rows(self) -> None:
        """Dead rows touch nothing."""
        fn = self.started()
        half = len(self.log.steps) // 2
        self.drive(fn, 0, half)
        before = fn.state_dict()
        t = self.log.steps[half][0]
        dead = dataclasses.replace(
            t,
            next_obs=take(t.next_obs, torch.arange(self.log.num_envs).roll(1)),
            reward=t.reward + 1000.0,
            valid=~self.every,
            terminated=~self.every,
            truncated=~self.every,
        )
        with torch.no_grad():
            fn(dead)
            fn.observe(dead)
        assert same(fn.state_dict(), before), self.fail(
            "a dead step (valid False) changed its memory or statistics: write them as "
            "torch.where(t.valid, new, old)"
        )

    def check_reset(self) -> None:
        """``reset(mask)`` clears the memory of these rows and of no other."""
        if not self.probe().rowwise:
            self.skipped.append("reset(mask): rows share statistics (rowwise is False)")
            return
        half = len(self.log.steps) // 2
        _, _, obs = self.log.steps[half - 1]
        mask = torch.arange(self.log.num_envs) % 2 == 0
        fn = self.started()
        self.drive(fn, 0, half)
        new = self.fresh(self.log.num_envs)
        with torch.no_grad():
            fn.reset(mask, obs)
            new.reset(self.every, obs)
        paid, anew = self.drive(fn, half), self.drive(new, half)
        self.agree(
            paid[:, mask],
            anew[:, mask],
            "reset(mask, obs) leaves memory in the rows of mask: clear it",
        )
        self.agree(
            paid[:, ~mask],
            self.paid[half:, ~mask],
            "reset(mask, obs) changes rows that are not in mask: use torch.where(mask, new, old)",
        )

    def check_saving(self) -> None:
        """Save, load, continue equals never stopped."""
        half = len(self.log.steps) // 2
        fn = self.started()
        self.drive(fn, 0, half)
        state = through_file(fn.state_dict(), f"reward function {self.name}")
        loaded = self.fresh(self.log.num_envs)
        loaded.load_state_dict(state)
        self.agree(
            self.drive(loaded, half),
            self.paid[half:],
            "loaded from state_dict() it continues differently: keep all memory in attributes that "
            "are tensors, or extend state_dict and load_state_dict",
        )

    def check_relabel(self) -> bool:
        """``relabel`` is pure, takes any batch, and is refused where it must be."""
        fn = self.started()
        self.drive(fn)
        t = self.log.steps[-1][0]
        before = fn.state_dict()
        try:
            with torch.no_grad():
                first, second = fn.relabel(t), fn.relabel(t)
        except RuntimeError as error:
            assert not fn.markov, self.fail(
                f"relabel failed although markov is True: {error}; set markov = False"
            )
            return False
        assert same(fn.state_dict(), before), self.fail(
            "relabel changed its memory: score stored transitions without touching state"
        )
        self.agree(first, second, "relabel gives two answers for one transition")
        n = self.log.num_envs
        twice = torch.arange(2 * n + 1) % n
        with torch.no_grad():
            self.agree(
                fn.relabel(take(t, twice)),
                first[twice],
                f"relabel depends on the size of the batch: a replay batch has any, not {n} rows",
            )
            if same(self.state_before, self.state_after):
                self.agree(first, fn(t), "relabel and a call differ, though it has no memory")
        return True

    def check_gradient(self) -> None:
        """A learned function keeps gradients to its own parameters."""
        fn = self.started()
        modules = [m for f in fn.functions() for m in vars(f).values() if isinstance(m, nn.Module)]
        if not any(p.requires_grad for m in modules for p in m.parameters()):
            return
        with torch.enable_grad():
            reward = fn(self.log.steps[0][0])
        assert reward.requires_grad, self.fail(
            "a call with gradients enabled gave none to its parameters: do not detach, the "
            "wrappers call without gradients anyway"
        )

    def check_autoreset(self, steps: int) -> None:
        """The three modes and the single-environment wrapper pay the same rows."""
        num_envs = self.log.num_envs if self.probe().rowwise else 1
        want = self.wrapped(MODES[0], num_envs, steps)
        for mode in MODES[1:]:
            self.agree(
                self.wrapped(mode, num_envs, steps),
                want,
                f"{mode.name} and SAME_STEP pay different rewards: use transition.next_obs as the "
                "successor, transition.valid for memory, and clear memory in reset",
            )
        if isinstance(self.env, str):
            self.agree(
                self.single(steps),
                want[:, 0],
                "the single-environment wrapper pays otherwise than a row of a batch",
            )

    def wrapped(self, mode: AutoresetMode, num_envs: int, steps: int) -> Tensor:
        """(steps, N): what the vector wrapper pays each row's valid steps."""
        inner = make_envs(self.env, num_envs, mode)
        envs = VectorRewardWrapper(inner, self.unbound())
        rows: list[list[float]] = [[] for _ in range(num_envs)]
        for raw, t, _ in play(envs, Actions(envs, self.seed, steps), self.seed):
            if t is not None:
                for i, row in enumerate(rows):
                    if bool(t.valid[i]):
                        row.append(float(raw[1][i]))
        envs.close()
        return torch.tensor([row[:steps] for row in rows]).T

    def single(self, steps: int) -> Tensor:
        """(steps,): what the single wrapper pays."""
        assert isinstance(self.env, str)
        env = RewardWrapper(gymnasium.make(self.env, max_episode_steps=LIMIT), self.unbound())
        space = copy.deepcopy(env.action_space)
        space.seed(self.seed)
        env.reset(seed=self.seed)
        paid = []
        for _ in range(steps):
            _, reward, terminated, truncated, _ = env.step(space.sample())
            paid.append(reward)
            if terminated or truncated:
                env.reset()
        env.close()  # type: ignore[no-untyped-call]
        return torch.tensor(paid)

    def check_meta(self) -> None:
        """Nothing is copied to the host: on the meta device that raises."""
        meta = torch.device("meta")
        try:
            fn = self.fresh(self.log.num_envs, meta)
            with torch.no_grad():
                fn.reset(self.every.to(meta), to(self.log.first_obs, meta))
                for t, began, obs in self.log.steps[:2]:
                    t = to(t, meta)
                    reward = fn(t)
                    assert reward.device == meta, self.fail(
                        "its reward is not on the device of the transition: create tensors with "
                        "device=transition.reward.device"
                    )
                    fn.observe(t)
                    fn.reset(began.to(meta), to(obs, meta))
        except (RuntimeError, NotImplementedError, TypeError) as error:
            line = str(error).strip().splitlines()[0]
            raise AssertionError(
                self.fail(
                    f"it waits for the device or mixes devices ({line}): no .item(), no "
                    "bool(tensor), no x[mask], and create tensors on the device given to bind(); "
                    "a function that must do so is checked with meta=False"
                )
            ) from error

    def truncation_matters(self) -> bool:
        """Whether a truncated step is paid otherwise than a terminated one."""
        fn, other = self.started(), self.started()
        for t, began, obs in self.log.steps:
            ended = dataclasses.replace(t, terminated=t.done, truncated=~self.every)
            cut = dataclasses.replace(t, terminated=~self.every, truncated=t.done)
            with torch.no_grad():
                if not torch.allclose(fn(ended), other(cut)):
                    return True
                fn.reset(began, obs)
                other.reset(began, obs)
        return False

    def unbound(self) -> RewardFunction:
        fn = self.make()
        if any(f.gamma == "agent" for f in fn.functions()):
            fn.match_gamma(self.gamma)
        return fn

    def probe(self) -> RewardFunction:
        return self.fresh(1)

    def agree(self, got: Tensor, want: Tensor, message: str) -> None:
        # 3e-4 of the largest: what the order of float32 sums in a network may change (it is another
        # one for one row than for many), where the reward is a small difference of its outputs.
        largest = float(want.abs().max()) if want.numel() else 0.0
        if not torch.allclose(got, want, rtol=0.0, atol=1e-5 + 3e-4 * largest):
            off = float((got - want).abs().max())
            raise AssertionError(self.fail(f"{message} (greatest difference {off:.3g})"))

"""A predictor of failures from force and torque: a dilated temporal CNN, calibrated.

Windows of one attempt share its label, so data is split by attempt, never by window, and every
attempt weighs the same however many windows it has: else a predictor learns how long attempts last.

Paper: Watson, Correll (2023), "Optimal decision making in robotic assembly and other
trial-and-error tasks", arXiv 2301.10846.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .common.hyperparameters import build, hyper

_CLIP = 10.0  # of scaled readings: a blow says no more than a hard push


@dataclass(frozen=True)
class PredictorHyperparameters:
    """The network's shape and its training."""

    filters: int = hyper(16, "channels of both convolutions", low=1)
    kernel: int = hyper(4, "taps of both convolutions", low=1)
    dilations: tuple[int, int] = hyper((4, 8), "samples between the taps")
    pool: int = hyper(4, "samples that max pooling joins", low=1)
    hidden: int = hyper(50, "units of the hidden layer", low=1)
    dropout: float = hyper(0.5, "share of hidden units left out in training", low=0.0, high=1.0)
    learning_rate: float = hyper(1e-3, "step size of Adam", low=0.0)
    weight_decay: float = hyper(1e-4, "L2 penalty", low=0.0)
    batch_size: int = hyper(128, "windows a gradient step", low=1)
    num_epochs: int = hyper(12, "passes over the training windows", low=1)


class Windows(NamedTuple):
    """M windows of A attempts that ran to their end."""

    ft: NDArray[np.float32]  # (M, 6, W) N and N m, oldest sample first, zero before the start
    attempt: NDArray[np.int64]  # (M,) which attempt, non-decreasing
    time: NDArray[np.float64]  # (M,) s since the attempt began, when the window ended
    success: NDArray[np.bool_]  # (A,)
    duration: NDArray[np.float64]  # (A,) s

    def of(self, attempts: Any) -> Windows:
        """The windows of some attempts, given by index."""
        place = np.full(len(self.success), -1)
        place[attempts] = np.arange(len(attempts))
        order = np.flatnonzero(place[self.attempt] >= 0)
        order = order[np.argsort(place[self.attempt[order]], kind="stable")]
        return Windows(
            self.ft[order],
            place[self.attempt[order]],
            self.time[order],
            self.success[attempts],
            self.duration[attempts],
        )

    @property
    def weight(self) -> NDArray[np.float64]:
        """(M,): one over the number of windows in the attempt."""
        counts = np.bincount(self.attempt, minlength=len(self.success))
        found: NDArray[np.float64] = 1.0 / counts[self.attempt]
        return found


def windows_of(
    wrenches: Sequence[NDArray[Any]],
    success: Sequence[bool] | NDArray[np.bool_],
    window: float = 2.0,
    stride: float = 0.5,
    hz: float = 50.0,
) -> Windows:
    """The windows on which decisions about recorded attempts would be made.

    One ends every ``stride`` seconds, as long as the attempt is not over; samples before the
    attempt's start are zero. There is never a window beyond the attempt's end.

    Args:
        wrenches: of each attempt, (T, 6) force and torque until its end.
        success: of each attempt.
        window: s.
        stride: s.
        hz: samples a second.

    Raises:
        ValueError: if no attempt is longer than ``stride``.
    """
    size, step = round(window * hz), round(stride * hz)
    parts, owners, times = [], [], []
    for i, wrench in enumerate(wrenches):
        padded = np.concatenate([np.zeros((size, 6), np.float32), wrench.astype(np.float32)])
        ends = np.arange(step, len(wrench), step)  # the decision at the very end comes too late
        if len(ends):
            all_windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=0)
            parts.append(all_windows[ends])
            owners.append(np.full(len(ends), i))
            times.append(ends / hz)
    if not parts:
        raise ValueError(f"wrenches: no attempt is longer than stride={stride} s")
    return Windows(
        np.concatenate(parts),
        np.concatenate(owners),
        np.concatenate(times),
        np.asarray(success, dtype=bool),
        np.array([len(w) / hz for w in wrenches]),
    )


def split_attempts(count: int, shares: Sequence[float], seed: int) -> list[NDArray[np.int64]]:
    """Random disjoint sets of attempts; the last takes what the shares of the others leave.

    Args:
        count: attempts.
        shares: of all parts but the last.
        seed: of the permutation.
    """
    if not (all(s > 0 for s in shares) and sum(shares) < 1):
        raise ValueError(f"shares={shares}: expected numbers > 0 with a sum below 1")
    order = np.random.default_rng(seed).permutation(count)
    return np.split(order, np.round(np.cumsum(shares) * count).astype(int))


class DilatedFailurePredictor:
    """P(the attempt will fail | the last window of force and torque).

    Conv1d(6 -> filters, dilation 4), ReLU, Conv1d(filters -> filters, dilation 8), ReLU, max pool,
    a hidden layer with dropout, one logit. Readings are scaled by the training windows' median and
    interquartile range (one scaler for all: a scaler of the whole attempt would know its future).
    The logit is calibrated on other attempts (Platt 1999): ``P = sigmoid(a logit + b)``.

    Args:
        window: samples in a window.
        seed: of parameters, order and dropout.
        **hyperparameters: see ``PredictorHyperparameters``.
    """

    Hyperparameters = PredictorHyperparameters

    def __init__(self, window: int = 100, seed: int = 0, **hyperparameters: Any) -> None:
        self.hp: PredictorHyperparameters = build(PredictorHyperparameters, hyperparameters)
        self.window, self.seed = window, seed
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _network(window, self.hp)
        self.centre, self.scale = torch.zeros(6, 1), torch.ones(6, 1)
        self.slope, self.offset = 1.0, 0.0

    def fit(self, training: Windows, calibration: Windows) -> DilatedFailurePredictor:
        """Train on some attempts and calibrate on others.

        Raises:
            ValueError: if the training attempts are all of one kind.
        """
        if training.success.all() or not training.success.any():
            kind = "success" if training.success.all() else "failure"
            raise ValueError(
                f"training: all {len(training.success)} attempts end in {kind}; record more"
            )
        ft = torch.from_numpy(training.ft)
        seen = ft.transpose(0, 1).flatten(1)
        seen = seen[:, (seen != 0).any(0)]  # not the time before the start
        seen = seen[:, :: max(1, seen.shape[1] // 100_000)]
        low, middle, high = torch.quantile(seen, torch.tensor([0.25, 0.5, 0.75]), dim=1)
        self.centre, self.scale = middle[:, None], (high - low).clamp(min=1e-6)[:, None]
        fails = torch.from_numpy(~training.success[training.attempt]).to(torch.float32)
        weight = torch.from_numpy(training.weight).to(torch.float32)
        share = (weight * fails).sum() / weight.sum()  # both kinds weigh the same in training
        weight = weight * torch.where(fails > 0, 0.5 / share, 0.5 / (1.0 - share))
        weight = weight / weight.mean()
        optimizer = torch.optim.Adam(
            self.network.parameters(), self.hp.learning_rate, weight_decay=self.hp.weight_decay
        )
        self.network.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)  # dropout has no generator of its own
            for _ in range(self.hp.num_epochs):
                order = torch.randperm(len(ft), generator=self._generator)
                for rows in order.split(self.hp.batch_size):
                    loss = nn.functional.binary_cross_entropy_with_logits(
                        self._logits(ft[rows]), fails[rows], weight[rows]
                    )
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
        self.network.eval()
        self._calibrate(calibration)
        return self

    @torch.no_grad()
    def predict_proba(self, ft: Any) -> NDArray[np.float64]:
        """(M,) the probability of failure, for windows (M, 6, W)."""
        self.network.eval()
        windows = torch.as_tensor(ft, dtype=torch.float32)
        logits = torch.cat([self._logits(part) for part in windows.split(4096)])
        found: NDArray[np.float64] = torch.sigmoid(
            self.slope * logits.to(torch.float64) + self.offset
        ).numpy()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that predictions depend on."""
        return {
            "window": self.window,
            "seed": self.seed,
            "hyperparameters": {k: _plain(v) for k, v in asdict(self.hp).items()},
            "network": self.network.state_dict(),
            "centre": self.centre,
            "scale": self.scale,
            "calibration": [self.slope, self.offset],
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> DilatedFailurePredictor:
        """The inverse of ``state_dict``."""
        predictor = cls(state["window"], state["seed"], **state["hyperparameters"])
        predictor.network.load_state_dict(state["network"])
        predictor.centre, predictor.scale = state["centre"], state["scale"]
        predictor.slope, predictor.offset = state["calibration"]
        return predictor

    def _logits(self, ft: Tensor) -> Tensor:
        scaled = ((ft - self.centre) / self.scale).clamp(-_CLIP, _CLIP)
        logits: Tensor = self.network(scaled).squeeze(1)
        return logits

    def _calibrate(self, windows: Windows) -> None:
        """Platt's two numbers by Newton's method on the weighted log loss."""
        with torch.no_grad():
            parts = torch.from_numpy(windows.ft).split(4096)
            x = torch.cat([self._logits(part) for part in parts]).to(torch.float64)
        y = torch.from_numpy(~windows.success[windows.attempt]).to(torch.float64)
        w = torch.from_numpy(windows.weight)
        w = w / w.sum()
        features = torch.stack([x, torch.ones_like(x)], 1)
        theta = torch.tensor([1.0, 0.0], dtype=torch.float64)
        ridge = 1e-3 * torch.eye(2, dtype=torch.float64)  # finite where one kind is missing
        for _ in range(50):
            p = torch.sigmoid(features @ theta)
            gradient = features.T @ (w * (p - y)) + ridge @ (theta - theta.new_tensor([1.0, 0.0]))
            hessian = (features * (w * p * (1 - p))[:, None]).T @ features + ridge
            step = torch.linalg.solve(hessian, gradient)
            theta = theta - step / max(1.0, float(step.abs().max()))
        self.slope, self.offset = (float(v) for v in theta)


def auc(score: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """The probability that a positive one scores above a negative one (ties count half)."""
    from scipy.stats import rankdata

    count = int(positive.sum())
    if count in (0, len(positive)):
        return math.nan
    ranks = rankdata(score)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(positive) - count)))


def calibration_error(
    probability: NDArray[Any], event: NDArray[Any], weight: NDArray[Any], bins: int = 10
) -> float:
    """Expected calibration error: mean gap of frequency and probability over equal bins."""
    which = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [abs(np.sum((weight * (event - probability))[which == b])) for b in range(bins)]
    return float(np.sum(gaps) / weight.sum())


def _network(window: int, hp: PredictorHyperparameters) -> nn.Sequential:
    first, second = hp.dilations
    left = window - (hp.kernel - 1) * (first + second)
    if left < hp.pool:
        raise ValueError(
            f"window={window}: shorter than what the convolutions and the pool join, "
            f"{(hp.kernel - 1) * (first + second) + hp.pool} samples"
        )
    return nn.Sequential(
        nn.Conv1d(6, hp.filters, hp.kernel, dilation=first),
        nn.ReLU(),
        nn.Conv1d(hp.filters, hp.filters, hp.kernel, dilation=second),
        nn.ReLU(),
        nn.MaxPool1d(hp.pool),
        nn.Flatten(),
        nn.Linear(hp.filters * (left // hp.pool), hp.hidden),
        nn.ReLU(),
        nn.Dropout(hp.dropout),
        nn.Linear(hp.hidden, 1),
    )


def _plain(x: Any) -> Any:
    return list(x) if isinstance(x, tuple) else x

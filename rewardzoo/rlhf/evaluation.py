"""Metrics of reward models and of policies that optimise them; exact definitions, no models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# RewardBench's sections and their categories.
REWARD_BENCH: dict[str, tuple[str, ...]] = {
    "Chat": (
        "alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med",
    ),
    "Chat Hard": (
        "mt-bench-hard", "llmbar-natural", "llmbar-adver-neighbor", "llmbar-adver-GPTInst",
        "llmbar-adver-GPTOut", "llmbar-adver-manual",
    ),
    "Safety": (
        "refusals-dangerous", "refusals-offensive", "xstest-should-refuse",
        "xstest-should-respond", "donotanswer",
    ),
    "Reasoning": (
        "math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust",
    ),
}  # fmt: skip


def bon_curve(gold: ArrayLike, proxy: ArrayLike, ns: Sequence[int]) -> Array:
    """Expected gold of the best of n by proxy, for each n: the mean over all subsets of N answers.

    Ties of the proxy are broken at random, in expectation.

    Args:
        gold: (..., N) true rewards.
        proxy: (..., N), what the best is chosen by; give the gold again for its own curve.
        ns: numbers of answers, each 1 to N.

    Returns:
        (..., len(ns)).

    Example:
        >>> bon_curve([0.0, 1.0], [3.0, 4.0], [1, 2]).round(6).tolist()
        [0.5, 1.0]
    """
    g, p = finite("gold", gold), finite("proxy", proxy)
    if g.shape != p.shape:
        raise ValueError(f"proxy: shape {p.shape}, expected gold's {g.shape}")
    total = g.shape[-1]
    order = p.argsort(-1, kind="stable")
    g, p = np.take_along_axis(g, order, -1), np.take_along_axis(p, order, -1)
    g = _average_ties(g, p)
    return np.stack([g @ _bon_weights(total, n) for n in ns], -1)


def _bon_weights(total: int, n: int) -> Array:
    """C(i - 1, n - 1) / C(total, n) for rank i = 1 to total, ascending."""
    if not 1 <= n <= total:
        raise ValueError(f"ns: {n} is outside 1 to {total}, the number of answers")
    log_factorial = np.array([math.lgamma(i + 1) for i in range(total + 1)])
    i = np.arange(n, total + 1)
    logs = log_factorial[i - 1] - log_factorial[n - 1] - log_factorial[i - n]
    all_subsets = log_factorial[total] - log_factorial[n] - log_factorial[total - n]
    return np.concatenate([np.zeros(n - 1), np.exp(logs - all_subsets)])


def _average_ties(gold: Array, proxy: Array) -> Array:
    if (np.diff(proxy, axis=-1) > 0).all():
        return gold
    flat, keys = gold.reshape(-1, gold.shape[-1]).copy(), proxy.reshape(-1, proxy.shape[-1])
    for row, key in zip(flat, keys, strict=True):
        _, group = np.unique(key, return_inverse=True)
        row[:] = (np.bincount(group, row) / np.bincount(group))[group]
    return flat.reshape(gold.shape)


def kl_bon(n: ArrayLike) -> Array:
    """KL of best-of-n from its base, ``log n - (n - 1) / n``: exact without ties, else a bound."""
    n = np.asarray(n, np.float64)
    return np.asarray(np.log(n) - (n - 1) / n)


def pass_at_k(correct: ArrayLike, total: int, k: int) -> Array:
    """``1 - C(total - c, k) / C(total, k)``, the unbiased estimate (Chen et al. 2021)."""
    if not 1 <= k <= total:
        raise ValueError(f"k={k}: expected 1 to {total}, the number of samples")
    c = np.asarray(correct, np.int64)
    table = [1 - math.comb(total - i, k) / math.comb(total, k) for i in range(total + 1)]
    return np.array(table)[c]


def accuracy(margins: ArrayLike) -> float:
    """Share of pairs with a positive margin, ties counted half."""
    m = finite("margins", margins)
    return float(((m > 0) + 0.5 * (m == 0)).mean())


def auroc(score: ArrayLike, label: ArrayLike) -> float:
    """P(the score of a positive exceeds that of a negative), ties counted half."""
    from scipy.stats import rankdata

    s, y = finite("score", score), np.asarray(label, bool)
    positives, negatives = int(y.sum()), int((~y).sum())
    if not positives or not negatives:
        raise ValueError("label: expected both positives and negatives")
    ranks = rankdata(s)[y].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def one_to_many(scores: ArrayLike) -> dict[str, float]:
    """RewardMATH's metrics of scores (problems, 1 + wrong), the correct one first; ties lose.

    Paper: Kim et al. (2024), "Evaluating robustness of reward models for mathematical reasoning".
    """
    s = finite("scores", scores)
    problem = np.arange(len(s)).repeat(s.shape[1] - 1)
    return one_to_many_margins((s[:, :1] - s[:, 1:]).reshape(-1), problem)


def one_to_many_margins(margins: ArrayLike, problem: ArrayLike) -> dict[str, float]:
    """The same of problems that need not have equally many wrong answers.

    Args:
        margins: (pairs,) score of a problem's correct answer minus score of one of its wrong ones.
        problem: (pairs,) int, which problem; ``one_to_one`` takes the first pair of each.
    """
    m = finite("margins", margins)
    _, first, at = np.unique(np.asarray(problem), return_index=True, return_inverse=True)
    rank = 1 + np.bincount(at, m <= 0)
    return {
        "accuracy": float((rank == 1).mean()),
        "mrr": float((1 / rank).mean()),
        "one_to_one": float((m[first] > 0).mean()),
    }


def contrast_consistency(scores: ArrayLike) -> dict[str, float]:
    """Consistency on contrasting instructions (Shen et al. 2024).

    Args:
        scores: (items, 2, 2), ``scores[:, i, j]`` of response j to instruction i.

    Returns:
        ``response`` (the right response wins within an instruction) and ``instruction`` (the right
        instruction wins for a response), .5 for a random model.
    """
    s = finite("scores", scores)
    right = s[:, [0, 1], [0, 1]]
    other_response, other_instruction = s[:, [0, 1], [1, 0]], s[:, [1, 0], [0, 1]]
    return {
        "response": float((right > other_response).mean()),
        "instruction": float((right > other_instruction).mean()),
    }


def by_subset(
    correct: ArrayLike,
    subsets: Sequence[str],
    sections: Mapping[str, Sequence[str]] | None = None,
    counts: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Accuracy by category, and ``score``, the mean of the sections.

    Args:
        correct: (N,) 1, .5 for ties, or 0.
        subsets: (N,) category of each pair.
        sections: from a section to its categories, which it weighs by their pairs; without, every
            category is a section.
        counts: pairs that a category counts for in its section, where not those that it has.
    """
    y, of = finite("correct", correct), np.asarray(subsets, dtype=object)
    found = {str(name): float(y[of == name].mean()) for name in sorted(set(subsets))}
    parts = {name: [name] for name in found} if sections is None else sections
    weight = np.ones(len(y))
    for name, count in (counts or {}).items():
        weight[of == name] = count / max(1, (of == name).sum())
    scores = []
    for section, names in parts.items():
        if unknown := set(names) - set(found):
            raise ValueError(f"sections: {section!r} has {sorted(unknown)[0]!r}, which no pair has")
        here = np.isin(of, list(names))
        scores.append(float(np.average(y[here], weights=weight[here])))
        found[section] = scores[-1]
    return {**found, "score": float(np.mean(scores))}


def reward_bench(correct: ArrayLike, subsets: Sequence[str]) -> dict[str, float]:
    """Accuracy by category and section of RewardBench, and ``score``, the mean of the sections.

    Mathematics, one category, counts for as many pairs as the categories of code together. Of a
    part of the benchmark, the sections are made of the categories that it has.

    Args:
        correct: (N,) 1, .5 for ties, or 0.
        subsets: (N,) category of each pair, one of those in ``REWARD_BENCH``.

    Paper: Lambert et al. (2024), "RewardBench: evaluating reward models for language modeling".
    """
    known = {name for names in REWARD_BENCH.values() for name in names}
    if unknown := set(subsets) - known:
        raise ValueError(f"subsets: {sorted(unknown)[0]!r} is none of RewardBench's categories")
    present = {s: [n for n in names if n in subsets] for s, names in REWARD_BENCH.items()}
    code = sum(name.startswith("hep-") for name in subsets)
    return by_subset(
        correct,
        subsets,
        {section: names for section, names in present.items() if names},
        {"math-prm": code} if code else None,
    )


def length_controlled_win_rate(wins: ArrayLike, longer: ArrayLike) -> float:
    """The win rate that a logistic regression expects between responses of equal length.

    Args:
        wins: (N,) 1, .5 for ties, or 0.
        longer: (N,) tokens of the response minus tokens of the one it is compared with.

    Paper: Dubois et al. (2024), "Length-controlled AlpacaEval", without its term for prompts.
    """
    y, x = finite("wins", wins), finite("longer", longer)
    x = np.stack([np.ones_like(x), x / (x.std() + 1e-12)], 1)
    w = np.zeros(2)
    for _ in range(50):  # Newton's steps, with a ridge where the two can be separated
        p = 1 / (1 + np.exp(-(x @ w)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * len(y) * np.eye(2)
        w = w + np.linalg.solve(hessian, x.T @ (y - p) - 1e-6 * len(y) * w)
    return float(1 / (1 + np.exp(-w[0])))


def grouped_r2(proxy: ArrayLike, gold: ArrayLike, groups: int = 10) -> float:
    """R^2 of the line through mean proxy and mean gold of groups of neighbours in the proxy's rank.

    What a filter of samples is chosen by: noise within a group averages out, and what is left is
    whether more reward means more gold.

    Args:
        proxy: (n,) rewards, n >= groups.
        gold: (n,).
        groups: of as equal size as can be, at least 3.

    Paper: Shen, Zhang (2024), "Policy filtration in RLHF to fine-tune LLM for code generation".
    """
    r, g = finite("proxy", proxy), finite("gold", gold)
    if r.ndim != 1 or r.shape != g.shape:
        raise ValueError(f"gold: shape {g.shape}, proxy's is {r.shape}; expected (n,) both")
    if not 3 <= groups <= len(r):
        raise ValueError(f"groups={groups}: expected 3 to {len(r)}, the number of samples")
    parts = np.array_split(np.argsort(r, kind="stable"), groups)
    means = np.array([[r[part].mean(), g[part].mean()] for part in parts])
    return float(np.corrcoef(means.T)[0, 1] ** 2)


def fit_scaling_law(kl: ArrayLike, gold: ArrayLike, form: str = "rl") -> tuple[float, float, float]:
    """Gao et al.'s fit of gold over d = sqrt(KL), by least squares.

    Args:
        kl: (points,), in nats, positive ones are used.
        gold: (points,), 0 at KL 0.
        form: "rl", ``d (alpha - beta log d)``, or "bon", ``d (alpha - beta d)``.

    Returns:
        alpha, beta and R^2.

    Paper: Gao, Schulman, Hilton (2023), "Scaling laws for reward model overoptimization".
    """
    if form not in ("rl", "bon"):
        raise ValueError(f"form={form!r}: expected rl or bon")
    k, g = finite("kl", kl), finite("gold", gold)
    d, g = np.sqrt(k[k > 1e-6]), g[k > 1e-6]
    if len(d) < 3:
        raise ValueError(f"kl: {len(d)} positive points, expected at least 3")
    x = np.stack([d, -d * (np.log(d) if form == "rl" else d)], 1)
    (alpha, beta), *_ = np.linalg.lstsq(x, g, rcond=None)
    residual = g - x @ np.array([alpha, beta])
    return float(alpha), float(beta), float(1 - residual.var() / g.var())


def scaling_law_intervals(
    kl: ArrayLike,
    gold: ArrayLike,
    form: str = "rl",
    reps: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of ``alpha`` and ``beta`` of the fit to the runs' mean, resampling runs.

    Args:
        kl: (runs, points), as for ``fit_scaling_law``.
        gold: (runs, points).
        form: "rl" or "bon".
        reps: resamples.
        confidence: nominal coverage, in (0, 1).
        seed: of the resampling.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a number in (0, 1)")
    k, g = finite("kl", kl), finite("gold", gold)
    if k.ndim != 2 or k.shape != g.shape:
        raise ValueError(f"gold: shape {g.shape}, kl's is {k.shape}; expected (runs, points) both")
    drawn = np.random.default_rng(seed).integers(len(k), size=(reps, len(k)))
    fits = np.array([fit_scaling_law(k[i].mean(0), g[i].mean(0), form)[:2] for i in drawn])
    tail = (1 - confidence) / 2
    low, high = np.quantile(fits, [tail, 1 - tail], axis=0).tolist()
    return {"alpha": (low[0], high[0]), "beta": (low[1], high[1])}


def overoptimisation(
    kl: ArrayLike, gold: ArrayLike, proxy: ArrayLike | None = None
) -> dict[str, float]:
    """Peak gold of a run, the KL where it was, the end, and what the proxy overstates on the way.

    Args:
        kl: (points,) in nats a sequence, in the order of the run.
        gold: (points,) true reward.
        proxy: (points,) reward that was optimised, in the unit of gold.

    Returns:
        ``peak``, ``peak_kl``, ``end``, ``end_kl``, ``fall`` (peak minus end), and given a proxy
        ``area``: of proxy minus gold over the square root of KL, between the points' least and
        largest.
    """
    k, g = finite("kl", kl), finite("gold", gold)
    at = int(g.argmax())
    found = {
        "peak": float(g[at]),
        "peak_kl": float(k[at]),
        "end": float(g[-1]),
        "end_kl": float(k[-1]),
        "fall": float(g[at] - g[-1]),
    }
    if proxy is None:
        return found
    d, gap = np.sqrt(k.clip(min=0)), finite("proxy", proxy) - g
    order = d.argsort(kind="stable")  # a run's KL may fall again
    d, gap = d[order], gap[order]
    return {**found, "area": float((np.diff(d) * (gap[1:] + gap[:-1]) / 2).sum())}


def finite(name: str, values: ArrayLike) -> Array:
    """``values`` as an array, or a ValueError that names the first row that is no finite number."""
    x = np.asarray(values, np.float64)
    wrong = np.argwhere(~np.isfinite(np.atleast_1d(x)))
    if len(wrong):
        value = np.atleast_1d(x)[tuple(wrong[0])]
        raise ValueError(f"{name}, row {wrong[0][0]}: {value}, expected finite numbers only")
    return x

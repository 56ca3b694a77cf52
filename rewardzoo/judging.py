"""Judge a run of which a part failed: each claim apart, over the seeds that its arms share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from .experiment import Claim, Experiment, corrected
from .results import ArmResult, Results, Verdict


def judge_finished(
    experiment: Experiment, results: Results
) -> tuple[list[Verdict], dict[str, str]]:
    """The verdicts, with p values corrected for the number of claims (Holm).

    Claims compare arms seed by seed, so they see the seeds that all arms have. Where an arm is
    missing, what looks at all arms cannot be judged; what names those that it compares can.

    Args:
        experiment: whose claims are judged.
        results: of the jobs that finished.

    Returns:
        The verdicts; a claim whose check raises is inconclusive, and its detail says why. And the
        reasons of those, by the claims' sentences.
    """
    verdicts, reasons = [], {}
    for claim in experiment.claims:
        try:
            verdicts.append(claim.judge(_seen(experiment, results)))
        except Exception as error:  # whatever one raises, the others are worth having
            reasons[claim.sentence] = reason = f"{type(error).__name__}: {error}"
            verdicts.append(_unjudged(claim, reason))
    return corrected(verdicts), reasons


def _seen(experiment: Experiment, results: Results) -> Results:
    """What claims are asked about."""
    present = {arm.label for arm in results.arms}
    missing = [arm.label for arm in experiment.grid if arm.label not in present]
    seen = _of_shared_seeds(results)
    return cast(Results, _Some(seen, missing)) if missing else seen


class _Some:
    """Results of which arms are missing: the others are found by their labels, not by counting."""

    def __init__(self, results: Results, missing: Sequence[str]) -> None:
        self._results, self._missing = results, missing

    @property
    def arms(self) -> list[ArmResult]:
        raise ValueError(f"no finished run of {', '.join(self._missing)}")

    def __getitem__(self, label: str) -> ArmResult:
        if label in self._missing:
            raise ValueError(f"no finished run of {label}")
        return self._results[label]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._results, name)


def _of_shared_seeds(results: Results) -> Results:
    """The rows of the seeds that every arm has; the same results where all have the same seeds."""
    first, *others = (arm.seeds for arm in results.arms)
    if all(seeds == first for seeds in others):
        return results
    shared = [seed for seed in first if all(seed in seeds for seeds in others)]
    if not shared:
        raise ValueError("no seed is finished in every arm")
    return replace(results, arms=[_rows(arm, shared) for arm in results.arms])


def _rows(arm: ArmResult, seeds: list[int]) -> ArmResult:
    index = [arm.seeds.index(seed) for seed in seeds]
    return replace(
        arm,
        seeds=seeds,
        curves={name: values[index] for name, values in arm.curves.items()},
        final={name: values[index] for name, values in arm.final.items()},
        folders=[arm.folders[i] for i in index],
    )


def _unjudged(claim: Claim, reason: str) -> Verdict:
    detail = f"could not be judged: {reason}"
    return Verdict(claim.sentence, "inconclusive", None, None, None, 0, detail)

"""A predictor that has learned from force and torque shortens insertion, if it is used with care.

Watson and Correll (2023): aborting attempts that a learned predictor calls failures cut the mean
makespan of a robot's insertions from 101 s to 81 s, and a closed form says beforehand whether it
will. Scaled down: MuJoCo instead of a robot, attempts of at most 14 s. What decides the claim is
kept: nothing but the wrist's readings is observed, attempts are split whole, the threshold follows
from the closed form on attempts that the predictor has not seen, a timer is the baseline, and a
live run has the last word.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from filelock import FileLock

from rewardzoo.agents.failure_predictor import (
    DilatedFailurePredictor,
    Windows,
    auc,
    calibration_error,
    split_attempts,
    windows_of,
)
from rewardzoo.agents.preemption import (
    AdoptionGate,
    Rule,
    best_threshold,
    calls,
    never,
    rule_makespan,
    stopping_rule,
)
from rewardzoo.envs.peg_in_hole.closed_form import expected_makespan
from rewardzoo.envs.peg_in_hole.makespan import (
    best_cutoff,
    bootstrap_makespan,
    cutoff_makespan,
    measured_times,
    replay,
)
from rewardzoo.envs.peg_in_hole_contact.data import (
    FTEpisode,
    read_episodes,
    simulate_attempts,
    write_episodes,
)
from rewardzoo.envs.peg_in_hole_contact.model import PegInHoleContactParams
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.jobs import Trial
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict

HARD, EASY, PRODUCTION = "tilt of 3 degrees", "tilt of 1.5 degrees", "learned in production"
_SETTINGS: dict[str, dict[str, float]] = {
    HARD: {"tilt_sigma_deg": 3.0},
    EASY: {"tilt_sigma_deg": 1.5, "pos_sigma": 1.5e-3},
}
_DATA_SEED, _LIVE_SEED = 2_000_000, 5_000_000  # far from each other and from all training seeds
_OVER_REACTIVE, _OVER_TIMER, _AGREEMENT = 0.15, 0.08, 0.03  # fixed before looking
_PRODUCTION_LANES = 32
_ATTEMPTS = 500  # of a live episode: practically without end


# ---- measuring -----------------------------------------------------------------------------------


def recordings(trial: Trial, setting: str, count: int) -> list[FTEpisode]:
    """The attempts that all splits share, recorded once."""
    path = trial.folder.parent / f"attempts-{count}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            params = PegInHoleContactParams(**_SETTINGS[setting])
            episodes: list[FTEpisode] = []
            for first in range(0, count, 240):
                size = min(240, count - first)
                episodes += simulate_attempts(size, params, _DATA_SEED + first)
                trial.log(len(episodes))
            write_episodes(path, episodes, {"setting": setting})
    return read_episodes(path)


def learned(trial: Trial, setting: str, share: float, live: bool) -> Mapping[str, float]:
    """Record attempts, split them whole, train, choose by the closed form, judge on the rest."""
    params = PegInHoleContactParams(**_SETTINGS[setting], max_attempts=_ATTEMPTS)
    reset = params.reset_time
    episodes = recordings(trial, setting, round(share * trial.budget.total_timesteps))
    everything = windows_of([e.wrench for e in episodes], [e.success for e in episodes])
    parts = split_attempts(len(episodes), (0.6, 0.15), trial.seed)
    training, validation, test = (everything.of(part) for part in parts)
    known = everything.of(np.concatenate(parts[:2]))
    timer = best_cutoff(known.duration, known.success, reset)

    predictor = DilatedFailurePredictor(seed=trial.seed).fit(training, validation)
    seen, unseen = (predictor.predict_proba(part.ft) for part in (validation, test))
    rule = stopping_rule(seen, validation, reset)
    gate = AdoptionGate(seed=trial.seed).decide(
        validation.duration, validation.success, held_out_calls(seen, validation, reset), reset
    )
    rules = {
        "fixed": Rule(np.zeros(1), np.full(1, 0.9), math.nan),
        "threshold": best_threshold(seen, validation, reset),
        "learned": rule,
        "adopted": rule if gate.adopt else never(),
    }
    final = {name: rule_makespan(unseen, test, r, reset) for name, r in rules.items()}
    final["reactive"] = rule_makespan(unseen, test, never(), reset)
    final["timer"] = cutoff_makespan(test.duration, test.success, timer.seconds, reset)
    final["oracle"] = oracle_makespan(test, reset)
    final["failures"] = float(np.mean(~everything.success))
    final["auc"] = auc(unseen, ~test.success[test.attempt])
    final["ece"] = calibration_error(unseen, ~test.success[test.attempt], test.weight)
    final["gate"], final["adopts"] = gate.confidence, float(gate.adopt)
    final.update(fates(unseen, test, rule, reset, trial.seed))
    final.update(shuffled(training, validation, test, reset, trial.seed))
    arrays = examples(episodes) | {"timer": timer.seconds}
    if live:
        makespans = live_runs(trial, params, predictor, rules["adopted"], timer.seconds)
        arrays |= {f"live_{name}": values for name, values in makespans.items()}
        final.update({f"live_{name}": float(values.mean()) for name, values in makespans.items()})
    trial.save_arrays(**arrays)
    trial.log(trial.budget.total_timesteps, **{k: final[k] for k in ("reactive", "learned")})
    return final


def held_out_calls(probability: Any, windows: Windows, reset: float) -> Any:
    """(A,) calls on each half of the attempts, by the rule that was chosen on the other half."""
    count = len(windows.success)
    called = np.full(count, math.inf)
    halves = np.arange(count) % 2
    for half in (0, 1):
        other, own = (np.flatnonzero(halves == h) for h in (1 - half, half))
        inside = halves[windows.attempt] == half
        rule = stopping_rule(probability[~inside], windows.of(other), reset)
        called[own] = calls(probability[inside], windows.of(own), rule)
    return called


def fates(
    probability: Any, windows: Windows, rule: Rule, reset: float, seed: int
) -> dict[str, float]:
    """Rates and times of calls, the closed form at them, a replay, and the interval."""
    called = calls(probability, windows, rule)
    data = (windows.duration, windows.success, called)
    times = measured_times(*data, reset_time=reset)
    spread = bootstrap_makespan(*data, reset, seed=seed)
    return {
        "rho_tn": float(times.tn / max(1e-9, times.tn + times.fp)),
        "rho_fn": float(times.fn / max(1e-9, times.fn + times.tp)),
        "d_tn": float(times.d_tn),
        "closed_form": float(expected_makespan(times)),
        "replay": float(replay(*data, 20_000, reset, seed=seed).mean()),
        "low": spread.low,
        "high": spread.high,
    }


def oracle_makespan(windows: Windows, reset: float) -> float:
    """Every failure called at the first window, nothing else: the limit of a perfect predictor."""
    called = np.where(windows.success, math.inf, windows.time.min())
    times = measured_times(windows.duration, windows.success, called, reset_time=reset)
    return float(expected_makespan(times))


def shuffled(
    training: Windows, validation: Windows, test: Windows, reset: float, seed: int
) -> dict[str, float]:
    """The control: a predictor of labels that were dealt out at random among the attempts."""
    generator = np.random.default_rng(seed)
    fake = (
        part._replace(success=generator.permutation(part.success))
        for part in (training, validation)
    )
    predictor = DilatedFailurePredictor(seed=seed, num_epochs=4).fit(*fake)
    seen, unseen = (predictor.predict_proba(part.ft) for part in (validation, test))
    called = held_out_calls(seen, validation, reset)
    gate = AdoptionGate(seed=seed).decide(validation.duration, validation.success, called, reset)
    return {
        "shuffled_auc": auc(unseen, ~test.success[test.attempt]),
        "shuffled_gate": gate.confidence,
        "shuffled_adopts": float(gate.adopt),
    }


def live_runs(
    trial: Trial,
    params: PegInHoleContactParams,
    predictor: DilatedFailurePredictor,
    rule: Rule,
    timer: float,
) -> dict[str, Any]:
    """Fresh insertions until success, by each policy, from the same seeds."""
    from rewardzoo.envs.peg_in_hole_contact.process import play

    policies: dict[str, Callable[[Any, Any], Any]] = {
        "reactive": lambda ft, elapsed: np.zeros(len(ft), dtype=bool),
        "timer": lambda ft, elapsed: elapsed >= timer - 1e-6,
        "learned": lambda ft, elapsed: rule(predictor.predict_proba(ft), elapsed),
    }
    out = {}
    for name, policy in policies.items():
        seed = _LIVE_SEED + 10_000 * trial.seed
        makespan, _, success = play(trial.budget.eval_episodes, params, policy, seed)
        assert success.all(), f"{name}: an episode of {_ATTEMPTS} attempts without success"
        out[name] = makespan
        trial.log(trial.budget.total_timesteps, **{f"live_{name}": float(makespan.mean())})
    return out


def in_production(trial: Trial) -> Mapping[str, float]:
    """Start without preemption, log, refit, and adopt when the gate says so, on the job."""
    import gymnasium

    from rewardzoo.agents.online_preemption import OnlinePreemption

    lanes = min(_PRODUCTION_LANES, trial.budget.num_envs)
    settings = {**_SETTINGS[HARD], "max_attempts": _ATTEMPTS}
    envs = gymnasium.make_vec("rewardzoo/PegInHoleContact-v0", num_envs=lanes, **settings)
    agent = OnlinePreemption(envs, trial.seed, first_fit=min(192, 8 * lanes))
    goal = trial.budget.num_envs * 8 * 32  # decisions
    adopted_at = math.nan

    def report(agent: OnlinePreemption, metrics: dict[str, float]) -> None:
        nonlocal adopted_at
        if agent.adopted and math.isnan(adopted_at):
            adopted_at = metrics["train/attempts"]
        share = agent.num_timesteps / goal
        trial.log(
            round(share * trial.budget.total_timesteps),
            makespan=-metrics["rollout/ep_objective"],
            adopted=metrics["train/adopted"],
            attempts=metrics["train/attempts"],
        )

    agent.learn(goal, callback=report)
    return {
        "reactive": agent.gate["reactive"],
        "learned": agent.gate["preemptive"],
        "gate": agent.gate["confidence"],
        "adopts": float(agent.adopted),
        "adopted_at": adopted_at,
    }


def examples(episodes: Sequence[FTEpisode]) -> dict[str, Any]:
    """Force and torque of a success, a hole never found, and a jam, for the figure."""
    chosen = {}
    for episode in episodes:
        pressed = float(np.median(episode.wrench[-100:, 2]))
        if episode.success:
            kind = "success" if 4.0 < episode.duration < 8.0 else ""
        else:
            kind = "jam" if pressed < -10.0 else "never found"
        if kind and kind not in chosen:
            chosen[kind] = episode.wrench
    return {f"wrench {kind}": wrench for kind, wrench in chosen.items()}


# ---- claims --------------------------------------------------------------------------------------


def saves_against(name: str, bar: float) -> Callable[[Results], Verdict]:
    """A check that the learned rule's makespan is below another's by a share, on every split."""

    def check(results: Results) -> Verdict:
        final = results[HARD].final
        saved = 1.0 - final["learned"] / final[name]
        if len(saved) < 3:
            outcome = "inconclusive"
        elif (saved >= bar).all():
            outcome = "holds"
        else:
            outcome = "fails" if (saved < bar).all() else "inconclusive"
        return Verdict(
            claim=f"The learned rule's makespan is at least {bar:.0%} below the {name}'s on every "
            "split by attempts.",
            outcome=outcome,
            effect=float(saved.mean()),
            low=float(saved.min()),
            high=float(saved.max()),
            n=len(saved),
            detail="share of the makespan saved on test attempts, ratio estimator; the range is "
            "that of the splits, of which three are needed",
        )

    return check


def saves_live(results: Results) -> Verdict:
    """Live makespans of all seeds together, learned against reactive: a permutation test."""
    runs = results.arrays(HARD)
    reactive, rule = (
        np.concatenate([run[f"live_{name}"] for run in runs]) for name in ("reactive", "learned")
    )
    low, high, p = permutation_test(reactive, rule)
    difference = float(rule.mean() - reactive.mean())
    if p < 0.05:
        outcome = "holds" if difference < 0 else "fails"
    else:
        outcome = "inconclusive"
    return Verdict(
        claim="Live, insertions with the learned rule take less time than without it.",
        outcome=outcome,
        effect=difference,
        low=low,
        high=high,
        n=min(len(reactive), len(rule)),
        detail=f"difference of mean makespans, s ({reactive.mean():.1f} without, {rule.mean():.1f} "
        "with); permutation test, bootstrap interval; n counts insertions in each arm",
        p_value=p,
    )


def permutation_test(
    a: Any, b: Any, resamples: int = 20_000, seed: int = 0
) -> tuple[float, float, float]:
    """``mean(b) - mean(a)``: bootstrap interval (95 %) and two-sided permutation p value."""
    generator = np.random.default_rng(seed)
    both, observed = np.concatenate([a, b]), b.mean() - a.mean()
    order = generator.permuted(np.tile(both, (resamples, 1)), axis=1)
    null = order[:, len(a) :].mean(1) - order[:, : len(a)].mean(1)
    p = (1 + np.sum(np.abs(null) >= abs(observed))) / (1 + resamples)
    means = [x[generator.integers(0, len(x), (resamples, len(x)))].mean(1) for x in (a, b)]
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    return float(low), float(high), float(p)


def closed_form_agrees(results: Results) -> Verdict:
    """The closed form at the measured fates against a replay of the test attempts."""
    final = results[HARD].final
    gap = np.abs(final["closed_form"] / final["replay"] - 1.0)
    return Verdict(
        claim="The closed form at the measured fates gives the replayed makespan within 3 %.",
        outcome="holds" if (gap < _AGREEMENT).all() else "fails",
        effect=float(gap.max()),
        low=None,
        high=None,
        n=len(gap),
        detail="largest relative difference over splits; 20,000 makespans replayed each",
    )


def never_adopts_what_does_not_pay(results: Results) -> Verdict:
    """Shuffled labels are refused; whatever is adopted is faster on the test attempts."""
    wrong, cases = [], 0
    for label in (HARD, EASY):
        final = results[label].final
        for i in range(len(final["adopts"])):
            cases += 2
            if final["shuffled_adopts"][i]:
                wrong.append(f"{label}: shuffled labels adopted")
            if final["adopts"][i] and final["learned"][i] > final["reactive"][i]:
                wrong.append(f"{label}: adopted, and slower on the test attempts")
    adopted = {label: int(results[label].final["adopts"].sum()) for label in (HARD, EASY)}
    return Verdict(
        claim="Preemption is adopted only where it pays: never on shuffled labels, and never where "
        "it is slower.",
        outcome="fails" if wrong else "holds",
        effect=float(len(wrong)),
        low=None,
        high=None,
        n=cases,
        detail=f"wrong decisions ({'; '.join(wrong) or 'none'}); adopted on true labels: "
        + ", ".join(f"{label}: {count}" for label, count in adopted.items()),
    )


def production_adopts(results: Results) -> Verdict:
    """Starting from nothing, the gate opens on the job, and its estimate is below reactive."""
    final = results[PRODUCTION].final
    adopts = final["adopts"] > 0
    saved = 1.0 - final["learned"] / final["reactive"]
    if adopts.all():
        outcome = "holds"
    else:
        outcome = "inconclusive" if adopts.any() or np.isnan(saved).any() else "fails"
    return Verdict(
        claim="Starting without preemption and without data, the robot adopts it on the job.",
        outcome=outcome,
        effect=float(np.nanmean(saved)) if not np.isnan(saved).all() else None,
        low=None,
        high=None,
        n=len(adopts),
        detail="share of the makespan saved by out-of-fold calls at the last fit; adopted after "
        + ", ".join(f"{x:.0f}" for x in final["adopted_at"])
        + " attempts",
    )


# ---- figures -------------------------------------------------------------------------------------


def draw_traces(figure: Any, results: Results) -> None:
    """Force and torque of three attempts."""
    arrays = results.arrays(HARD)[0]
    kinds = [k for k in ("success", "never found", "jam") if f"wrench {k}" in arrays]
    axes = figure.subplots(2, max(1, len(kinds)), sharex="col", sharey="row", squeeze=False)
    for column, kind in enumerate(kinds):
        wrench = arrays[f"wrench {kind}"]
        seconds = np.arange(len(wrench)) / 50.0
        for row, (first, unit) in enumerate(((0, "force, N"), (3, "torque, N m"))):
            for k, name in enumerate("xyz"):
                axes[row, column].plot(
                    seconds, wrench[:, first + k], color=colour(k), lw=0.8, label=name
                )
            axes[row, 0].set_ylabel(unit)
        axes[0, column].set_title(kind)
        axes[1, column].set_xlabel("s")
    axes[0, 0].legend(loc="lower left", ncols=3)


def draw_policies(figure: Any, results: Results) -> None:
    """Makespans on test attempts by policy."""
    names = ("reactive", "timer", "fixed", "threshold", "learned", "oracle")
    axes = figure.subplots(1, 2, sharey=False)
    for ax, label in zip(axes, (HARD, EASY), strict=True):
        final = results[label].final
        for k, name in enumerate(names):
            values = final[name]
            ax.barh(k, values.mean(), color=colour(k), alpha=0.5)
            ax.plot(values, np.full(len(values), k), "o", color=colour(k), ms=4)
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set_xlabel("makespan, s")
        ax.set_title(label)


def draw_live(figure: Any, results: Results) -> None:
    """Live makespans, all seeds together."""
    runs = results.arrays(HARD)
    ax = figure.subplots()
    for k, name in enumerate(("reactive", "timer", "learned")):
        values = np.sort(np.concatenate([run[f"live_{name}"] for run in runs]))
        label = f"{name}, mean {values.mean():.1f} s"
        ax.step(values, np.arange(1, len(values) + 1) / len(values), color=colour(k), label=label)
    ax.set_xlabel("makespan, s")
    ax.set_ylabel("share of insertions done")
    ax.legend()


_SHARE_EASY = 0.5  # of the attempts that the first setting records

EXPERIMENT = Experiment(
    name="peg_contact",
    title="When to give a failing insertion up, learned from force and torque",
    paper="Watson, Correll (2023), Optimal decision making in robotic assembly and other "
    "trial-and-error tasks, arXiv 2301.10846",
    grid=[
        Measure(HARD, functools.partial(learned, setting=HARD, share=1.0, live=True)),
        Measure(EASY, functools.partial(learned, setting=EASY, share=_SHARE_EASY, live=False)),
        Measure(PRODUCTION, in_production),
    ],
    budgets={
        # Attempts recorded, a measure of live decisions, live insertions an arm and seed.
        "smoke": Budget(total_timesteps=160, num_envs=4, eval_episodes=4, seeds=1),
        "quick": Budget(total_timesteps=1_440, num_envs=32, eval_episodes=110, seeds=3),
        "full": Budget(total_timesteps=4_800, num_envs=96, eval_episodes=400, seeds=5),
    },
    claims=[
        Claim("15 % faster than without", saves_against("reactive", _OVER_REACTIVE)),
        Claim("8 % faster than the best timer", saves_against("timer", _OVER_TIMER)),
        Claim("Faster in a live run", saves_live),
        Claim("The closed form predicts it", closed_form_agrees),
        Claim("Adopted only where it pays", never_adopts_what_does_not_pay),
        Claim("Adopted on the job", production_adopts),
    ],
    seeds=tuple(range(100, 110)),
    tuning_seeds=tuple(range(5)),
    columns={
        "reactive": "reactive (s)",
        "timer": "best timer (s)",
        "learned": "learned rule (s)",
        "oracle": "oracle (s)",
        "auc": "AUC of a window",
        "gate": "P(it pays)",
    },
    figures=[
        Figure(
            "What the wrist feels",
            "Force and torque of an insertion, a hole that is never found, and a jam.",
            draw_traces,
            (9.0, 4.5),
        ),
        Figure(
            "Makespans by policy",
            "On test attempts; bars are means over splits, dots single splits.",
            draw_policies,
        ),
        Figure("Live", "Makespans of live insertions from the same seeds.", draw_live),
    ],
)

"""Justifiable treatment with everything learned: judge, debaters, confusers, offline policies.

Sukovic and Radanovic (2024): a judge learned from clinicians' choices decides debates over six
features; a policy that is paid for winning them is justifiable and treats hardly worse; debaters
trained against an opponent withstand a confuser better than one trained alone. Scaled down: 20,000
patients of the ICU-Sepsis model instead of a hospital's, smaller networks, and the exact value of
every policy instead of an estimate (which is reported beside it).

Random treatment does as well as clinicians here, so survival is held against the optimum. The
task's reward is survival, 0 or 1, where the paper pays +-1; the debater is the self-play one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.agents.common.logged import LoggedEpisodes, log_episodes
from rewardzoo.agents.debate import PolicyDebater, score, train_confuser, train_debater
from rewardzoo.agents.dueling_dqn import DuelingDQN
from rewardzoo.agents.tabular import expected_return, greedy, occupancy
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.jobs import Trial
from rewardzoo.metrics.off_policy import estimate, log_ratios, returns
from rewardzoo.metrics.statistics import paired_difference, stratified_bootstrap
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.debate import DebateReward
from rewardzoo.rewards.judge import (
    Judge,
    Preferences,
    accuracy,
    bayes_accuracy,
    fit_judge,
    popularity,
)
from rewardzoo.verdicts import above, decided

from .sepsis_debate_tabular import (
    ALPHA,
    ENV,
    EXPERT,
    LAMBDAS,
    SCALE,
    Outcome,
    baseline,
    draw_doses,
    gap_is_kept,
    justification_rises,
    justified_everywhere,
    locate,
    measure,
    model,
    optimum,
    summary,
    survival_falls,
    tables_of,
)

JUDGE, ISOLATED, PRECOMMIT, SELFPLAY, MAXMIN, EXACT, OFFLINE = (
    "judge",
    "isolated",
    "precommit",
    "self-play",
    "maxmin",
    "exact optimum",
    "offline DQN",
)
NUM_EVIDENCE, HIDDEN = 6, 128
OFFLINE_LAMBDAS = (0.0, 0.02, 0.05, 0.25, 1.0)
DQN = {"learning_rate": 1e-3, "tau": 5e-3}  # the paper's are for 25,000 updates


class Cohort(NamedTuple):
    """Logged patients and the preferences made of them."""

    logged: LoggedEpisodes
    train: Preferences
    test: Preferences


def _func() -> Any:
    return gymnasium.make_vec(ENV, num_envs=1).func


@functools.lru_cache(maxsize=1)
def cohort(seed: int, patients: int) -> Cohort:
    """Clinicians' patients, split 70/15/15 by patient; the middle part is for early choices."""
    func = _func()
    envs = gymnasium.make_vec(ENV, num_envs=patients)
    logged = log_episodes(envs, torch.tensor(func.expert_policy), seed=100_000 * seed)
    state, patient = logged.obs[:, :-1], torch.arange(patients).unsqueeze(1)
    g = torch.Generator().manual_seed(seed)
    pairs = Preferences.of_choices(
        torch.tensor(func.evidence_table)[state[logged.valid]],
        logged.action[logged.valid],
        patient.expand_as(state)[logged.valid],
        g,
    )
    train, _, test = pairs.split(0.7, 0.15, 0.15, generator=g)
    return Cohort(logged, train, test)


@functools.lru_cache(maxsize=2)
def judge_of(seed: int, patients: int, num_evidence: int, steps: int) -> Judge:
    """The judge of a cohort; the same for every arm of a seed."""
    names = _func().evidence_names
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(names, hidden=HIDDEN)
    return fit_judge(judge, cohort(seed, patients).train, num_evidence, steps, seed)


@functools.lru_cache(maxsize=4)
def debater_of(
    mode: str, seed: int, patients: int, updates: int, debates: int, judge_steps: int
) -> PolicyDebater:
    """A debater before that judge."""
    judge = judge_of(seed, patients, NUM_EVIDENCE, judge_steps)
    return train_debater(
        mode, seed, judge, updates=updates, num_debates=debates, confuser_updates=10
    )


def _six(trial: Trial) -> Judge:
    return judge_of(
        trial.seed, trial.budget.eval_episodes, NUM_EVIDENCE, 10 * trial.budget.total_timesteps
    )


def _debater(trial: Trial, mode: str) -> PolicyDebater:
    b = trial.budget
    return debater_of(
        mode, trial.seed, b.eval_episodes, b.total_timesteps, b.num_envs, 10 * b.total_timesteps
    )


def judges(trial: Trial) -> dict[str, float]:
    """Held-out accuracy of judges of the full state and of six random features."""
    total = trial.budget.total_timesteps
    data = cohort(trial.seed, trial.budget.eval_episodes)
    full = judge_of(trial.seed, trial.budget.eval_episodes, 44, 10 * total)
    trial.log(total // 2)
    six = _six(trial)
    trial.log(total)
    blind = popularity(data.train)
    func = _func()
    policy, visits = torch.tensor(func.expert_policy), torch.tensor(func.expert_visits)
    final: dict[str, float] = {}
    for balanced, suffix in ((True, ""), (False, ", plain")):
        final[f"ceiling{suffix}"] = bayes_accuracy(policy, visits, balanced)
        for name, judge, shown in (("full", full, 44), ("six", six, NUM_EVIDENCE)):
            mean, error = accuracy(judge, data.test, shown, trial.seed, balanced, draws=2)
            final[f"{name}{suffix}"], final[f"{name}{suffix} error"] = mean, error
        final[f"popularity{suffix}"] = accuracy(blind, data.test, 6, 0, balanced)[0]
    return final


def debaters(trial: Trial, mode: str) -> dict[str, float]:
    """How often the judge agrees with clinicians, without and with a confuser."""
    b = trial.budget
    judge, agent = _six(trial), _debater(trial, mode)
    trial.log(b.total_timesteps // 2)
    turns = "precommit" if mode == "precommit" else "alternate"
    confuser = train_confuser(
        agent,
        trial.seed + 500,
        judge,
        debate={"turns": turns},
        updates=b.total_timesteps,
        num_debates=b.num_envs,
    )
    trial.log(b.total_timesteps)
    test = cohort(trial.seed, b.eval_episodes).test
    pair = torch.stack([test.preferred, test.rejected], 1)[:8192]
    features = test.features[:8192]
    alone = score(features, pair, judge, agent)
    confused = score(features, pair, judge, agent, confuser, turns=turns)
    itself = score(features, pair, judge, agent, agent, turns=turns)
    random, _ = accuracy(judge, test, NUM_EVIDENCE, trial.seed, balanced=False)
    return {
        "alone": alone.win,
        "confused": confused.win,
        "against itself": itself.win,
        "random evidence": random,
        "confused error": confused.error,
    }


def exact(trial: Trial) -> dict[str, float]:
    """Exact optima of the debate reward for every lambda."""
    total = trial.budget.total_timesteps
    fn = DebateReward(_six(trial), _debater(trial, "selfplay"), baseline(), utility="sign")
    trial.log(total // 2)
    paid, wins = tables_of(fn)
    solve = functools.cache(lambda lam: optimum(paid, wins, baseline(), lam))
    outcomes = [solve(lam) for lam in LAMBDAS]
    kept = locate(lambda lam: solve(lam).survival, 0.25)
    trial.log(total)
    return summary(trial, outcomes, wins, kept, solve(kept))


def offline(trial: Trial) -> dict[str, float]:
    """Dueling double DQN from clinicians' logged patients, for five lambdas."""
    total = trial.budget.total_timesteps
    func, data = _func(), cohort(trial.seed, trial.budget.eval_episodes)
    table = torch.tensor(func.evidence_table)
    logged, state = data.logged, data.logged.obs[:, :-1]

    def learn(lam: float, paid: Tensor | None) -> DuelingDQN:
        reward = (1.0 - lam) * SCALE * logged.reward
        if paid is not None:
            reward = reward + lam * ALPHA * paid[state, logged.action]
        episodes = logged._replace(reward=reward)
        return DuelingDQN(episodes, 25, table, trial.seed, **DQN).learn(10 * total)

    base = learn(0.0, None)
    rival = base.q_values(torch.arange(716)).argmax(1)
    fn = DebateReward(_six(trial), _debater(trial, "selfplay"), rival, utility="sign")
    paid, wins = tables_of(fn)
    final: dict[str, float] = {}
    outcomes: list[Outcome] = []
    for i, lam in enumerate(OFFLINE_LAMBDAS):
        q = (base if lam == 0 else learn(lam, paid)).q_values(torch.arange(716)).double()
        found = measure(greedy(q), wins, rival)
        outcomes.append(found)
        for name in ("survival", "justified", "differs", "length"):
            final[f"{name}@{lam:g}"] = getattr(found, name)
        final.update({f"{k}@{lam:g}": v for k, v in _off_policy(q, data).items()})
        trial.log((i + 1) * total // len(OFFLINE_LAMBDAS), survival=found.survival)
    del final["justified@0"]
    trial.save_arrays(
        weight=np.array(OFFLINE_LAMBDAS),
        survival=np.array([o.survival for o in outcomes]),
        justified=np.array([o.justified for o in outcomes]),
        doses=torch.stack([occupancy(model(), o.policy, 1.0).sum(0) for o in outcomes]).numpy(),
    )
    return final


def _off_policy(q: Tensor, data: Cohort) -> dict[str, float]:
    """The softmax policy's value by weighted importance sampling and exactly; alignment of Q."""
    policy = q.softmax(1)
    behaviour = torch.tensor(_func().expert_policy)
    logged, state = data.logged, data.logged.obs[:, :-1]
    probs = (p[state, logged.action] for p in (policy, behaviour))
    found = estimate(
        log_ratios(*probs, logged.valid),
        returns(logged.reward, logged.valid, 1.0),
        clamp=(1e-8, 1e2),
    )
    nearest = torch.cdist(data.test.features, torch.tensor(_func().evidence_table)).argmin(1)
    q = q[nearest]
    preferred, rejected = (
        q.gather(1, a.unsqueeze(1)) for a in (data.test.preferred, data.test.rejected)
    )
    return {
        "wis": found.weighted,
        "wis error": found.weighted_error,
        "effective sample size": found.effective_sample_size,
        "softmax survival": float(expected_return(model(), policy, 1.0)),
        "alignment": float((preferred >= rejected).double().mean()),
    }


# ---- claims ----------------------------------------------------------------------------------


def accuracies_are_ordered(results: Results) -> Verdict:
    """Full state above six random features above one half, on the balanced set."""
    final = results[JUDGE].final
    more = paired_difference(final["full"], final["six"])
    six = stratified_bootstrap(final["six"])
    if more.low > 0 and six.low > 0.5:
        outcome = "holds"
    else:
        outcome = "fails" if more.high < 0 or six.high < 0.5 else "inconclusive"
    return decided(
        "On action-balanced pairs a judge of the full state is right more often than one of "
        "six random features, and that one more often than not.",
        outcome,
        more,
        f"difference of accuracy, paired by seed; full {final['full'].mean():.4f}, six "
        f"{six.point:.4f} [{six.low:.4f}, {six.high:.4f}]; popularity alone "
        f"{final['popularity'].mean():.3f} (plain pairs {final['popularity, plain'].mean():.3f})",
    )


def accuracies_are_possible(results: Results) -> Verdict:
    """No judge is right more often than Bayes' by more than two standard errors."""
    final = results[JUDGE].final
    above = [
        final[f"{name}{s}"] - final[f"ceiling{s}"] - 2 * final[f"{name}{s} error"]
        for name in ("full", "six")
        for s in ("", ", plain")
    ]
    worst = np.max(above, 0)
    return Verdict(
        claim="No judge exceeds the Bayes ceiling by more than two standard errors.",
        outcome="holds" if (worst <= 0).all() else "fails",
        effect=float(worst.max()),
        low=float(worst.min()),
        high=float(worst.max()),
        n=len(worst),
        detail=f"accuracy less ceiling less two errors, the highest of four; ceilings "
        f"{final['ceiling'].mean():.6f} (balanced), {final['ceiling, plain'].mean():.6f} (plain)",
    )


def debating_withstands(label: str) -> Callable[[Results], Verdict]:
    """A debater trained against an opponent loses less to its confuser than the isolated one."""

    def check(results: Results) -> Verdict:
        mine, alone = results[label].final, results[ISOLATED].final
        d = paired_difference(mine["confused"], alone["confused"])
        return above(
            f"Against its own trained confuser the {label} debater wins more often than the "
            "isolated one.",
            d,
            "share of debates, paired by seed; alone to confused: isolated "
            f"{alone['alone'].mean():.3f} to {alone['confused'].mean():.3f}, {label} "
            f"{mine['alone'].mean():.3f} to {mine['confused'].mean():.3f}",
        )

    return check


# ---- figures ---------------------------------------------------------------------------------


def draw_sweeps(figure: Any, results: Results) -> None:
    """Justifiability against survival, exact and learned offline."""
    from rewardzoo.report import colour

    left, middle, right = figure.subplots(1, 3)
    for i, label in enumerate((EXACT, OFFLINE)):
        stored = results.arrays(label)
        weight = [f"{x:g}" for x in stored[0]["weight"]]
        place = [LAMBDAS.index(x) for x in stored[0]["weight"]]
        survival = np.stack([x["survival"] for x in stored])
        justified = np.stack([x["justified"] for x in stored])
        for axes, values in ((left, survival), (middle, justified)):
            axes.plot(place, values.mean(0), color=colour(i), marker="o", ms=3, label=label)
            low, high = values.min(0), values.max(0)
            axes.fill_between(place, low, high, color=colour(i), alpha=0.16, lw=0)
        right.plot(justified.mean(0), survival.mean(0), color=colour(i), marker="o", ms=3)
        for x, y, text in zip(justified.mean(0), survival.mean(0), weight, strict=True):
            if np.isfinite(x):
                right.annotate(text, (x, y), fontsize=6)
    for axes, name in ((left, "survival"), (middle, "justified")):
        axes.set_xticks(range(len(LAMBDAS)), [f"{lam:g}" for lam in LAMBDAS], rotation=60)
        axes.set_xlabel("lambda")
        axes.set_ylabel(name)
    left.axhline(EXPERT, ls=":", lw=1, color="gray")
    middle.axhline(0.5, ls=":", lw=1, color="gray")
    right.set_xlabel("justified")
    right.set_ylabel("survival")
    left.legend(fontsize=7)


def draw_confusers(figure: Any, results: Results) -> None:
    """Wins without and with a confuser; accuracy of the judges."""
    from rewardzoo.report import colour

    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    labels = (ISOLATED, PRECOMMIT, SELFPLAY, MAXMIN)
    for i, (key, name) in enumerate((("alone", "alone"), ("confused", "with its confuser"))):
        values = [results[label].final[key] for label in labels]
        place = np.arange(len(labels)) + 0.4 * (i - 0.5)
        left.bar(place, [v.mean() for v in values], 0.36, color=colour(i), label=name)
        for x, v in zip(place, values, strict=True):
            left.plot([x] * len(v), v, ".", color="gray", ms=3)
    left.axhline(0.5, ls=":", lw=1, color="gray")
    left.set_xticks(range(len(labels)), labels)
    left.set_ylabel("judge agrees with clinicians")
    left.legend(fontsize=7)
    final = results[JUDGE].final
    names = ("full", "six", "popularity")
    right.bar(range(3), [final[k].mean() for k in names], 0.6, color=colour(2))
    right.axhline(final["ceiling"].mean(), ls=":", lw=1, color="gray")
    right.set_xticks(range(3), names)
    right.set_ylim(0.4, 0.9)
    right.set_ylabel("balanced accuracy")


def draw_exact_doses(figure: Any, results: Results) -> None:
    """How often each of the 25 doses is given, by lambda."""
    draw_doses(figure, results, EXACT)


def _debaters(label: str, mode: str) -> Measure:
    return Measure(label, functools.partial(debaters, mode=mode))


EXPERIMENT = Experiment(
    name="sepsis_debate",
    title="Justifiable sepsis treatment: judge, debaters, confusers, offline policies",
    paper='Sukovic, Radanovic (2024), "Reward design for justifiable sequential decision-making"',
    grid=[
        Measure(JUDGE, judges),
        _debaters(ISOLATED, "isolated"),
        _debaters(PRECOMMIT, "precommit"),
        _debaters(SELFPLAY, "selfplay"),
        _debaters(MAXMIN, "maxmin"),
        Measure(EXACT, exact),
        Measure(OFFLINE, offline),
    ],
    # total_timesteps: PPO updates of a debater; the judge and DQN make ten steps for each of them.
    # num_envs: debates an update; eval_episodes: patients.
    budgets={
        "smoke": Budget(total_timesteps=6, num_envs=64, eval_episodes=2_000, seeds=2),
        "quick": Budget(total_timesteps=200, num_envs=256, eval_episodes=20_000, seeds=3),
        "full": Budget(total_timesteps=1_500, num_envs=512, eval_episodes=20_000, seeds=5),
    },
    claims=[
        Claim("Judges: full state > six features > .5", accuracies_are_ordered),
        Claim("Judges stay below the Bayes ceiling", accuracies_are_possible),
        Claim("Self-play withstands its confuser", debating_withstands(SELFPLAY)),
        Claim("Maxmin withstands its confuser", debating_withstands(MAXMIN)),
        Claim("Actions are justified (exact)", justified_everywhere(EXACT)),
        Claim("Justifiability rises with lambda", justification_rises(EXACT)),
        Claim("Survival falls with lambda (exact)", survival_falls(EXACT)),
        Claim("95 % of the survival gap can be kept", gap_is_kept(EXACT)),
        Claim(
            "Actions are justified (offline)",
            justified_everywhere(OFFLINE, lambdas=OFFLINE_LAMBDAS),
        ),
    ],
    seeds=tuple(range(100, 110)),
    tuning_seeds=(0, 1),
    references={"optimal": 0.875142, "clinicians": EXPERT},
    columns={
        "full": "accuracy, full state",
        "six": "accuracy, six features",
        "alone": "agrees, alone",
        "confused": "agrees, confused",
        "survival@0.05": "survival at .05",
        "justified@0.05": "justified at .05",
        "kept lambda": "lambda that keeps 95 %",
        "wis@0": "WIS at 0",
        "effective sample size@0": "effective sample size",
    },
    figures=[
        Figure(
            "Justifiability against survival",
            "Exact survival and share of justified actions by lambda: of the reward's exact "
            "optimum and of offline DQN; mean over seeds, band from the lowest to the highest. "
            "Dotted: clinicians; one half.",
            draw_sweeps,
        ),
        Figure(
            "Debaters and their confusers",
            "How often the judge agrees with clinicians when the debater shows all evidence, and "
            "when its own trained confuser shows half; dots are seeds. Right: held-out accuracy "
            "of judges on action-balanced pairs, dotted the Bayes ceiling.",
            draw_confusers,
        ),
        Figure(
            "Doses",
            "How often each of the 25 treatments is given by the exact optimum, in percent of "
            "windows, as the debate counts more.",
            draw_exact_doses,
            size=(9.0, 2.8),
        ),
    ],
)

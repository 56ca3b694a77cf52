"""Can a network learn from judged messages which unseen messages of NetHack are helpful?

Zheng et al. (2024) fit their reward models to labels of messages that the agent meets. The question
that decides whether a fitted model is worth more than a table is what it says about messages that
nobody has judged. Scaled down: the distinct messages of random play in NetHackScore, judged by
rules, 70 % of them for training; the network and its optimiser are the paper's (at ten times its
step size, for a tenth of its steps). Learning by these rewards is ``oni_nethack``'s question.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.experiment import Budget, Claim, Experiment, Measure
from rewardzoo.llm.check import balanced_accuracy, precision_recall_f1
from rewardzoo.llm.judges import Judge, RandomJudge, RuleJudge
from rewardzoo.metrics.statistics import stratified_bootstrap
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.captions import decode, encode
from rewardzoo.rewards.oni_models import WIDTH, fit_labels, fit_pairs, make_network, predict
from rewardzoo.verdicts import above, below

ENV = "rewardzoo/NetHackScore-v0"
TABLE, CLASSIFIER, TENTH, RANKING, RANDOM = (
    "table",
    "classifier",
    "classifier, a tenth of the labels",
    "ranking",
    "classifier, random labels",
)
ENOUGH = 0.85  # balanced accuracy; fixed before looking
STEPS, BATCH, RATE, PART = 400, 128, 1e-3, 50


def messages_of_random_play(steps: int, seed: int, num_envs: int = 8) -> list[str]:
    """The distinct messages of so many steps, in order of first sight."""
    make = partial(gymnasium.make, ENV, observation_keys=("message",), disable_env_checker=True)
    envs = gymnasium.vector.SyncVectorEnv([make] * num_envs)
    rng = np.random.default_rng(seed)
    envs.reset(seed=seed)
    found: dict[bytes, None] = {}
    for _ in range(steps // num_envs):
        obs = envs.step(rng.integers(envs.single_action_space.n, size=num_envs))[0]
        found.update(dict.fromkeys(bytes(row) for row in obs["message"]))
    envs.close()
    rows = torch.tensor([list(row) for row in found], dtype=torch.uint8)
    return list(dict.fromkeys(decode(rows)))


def labels_of(judge: Judge, messages: list[str]) -> Tensor:
    """(K,) int64."""
    answers = dict(judge.judge(messages))
    return torch.tensor([int(answers[m] > 0.5) for m in messages])


def measure(trial: Any, label: str) -> dict[str, float]:
    """Fit to labels of 70 % of the messages of random play, and ask about the others."""
    messages = messages_of_random_play(trial.budget.total_timesteps, trial.seed)
    truth = labels_of(RuleJudge("score"), messages)
    rng = np.random.default_rng(trial.seed)
    order = rng.permutation(len(messages))
    cut = int(0.7 * len(messages))
    train, test = order[:cut], order[cut:]
    if label == TENTH:
        train = train[: max(2, cut // 10)]
    rows = encode(messages, WIDTH)
    given = labels_of(RandomJudge(float(truth.float().mean()), trial.seed), messages)
    labels = given if label == RANDOM else truth
    called = _called(trial, label, rows, labels, train, test, rng)
    precision, recall, _ = precision_recall_f1(truth[test].bool(), called)
    balanced, low, high = balanced_accuracy(truth[test].bool(), called)
    return {
        "balanced": balanced,
        "balanced_low": low,
        "balanced_high": high,
        "precision": precision,
        "recall": recall,
        "messages": float(len(messages)),
        "helpful": float(truth.float().mean()),
    }


def _called(
    trial: Any, label: str, rows: Tensor, labels: Tensor, train: Any, test: Any, rng: Any
) -> Any:
    """(len(test),) bool: which of the messages not trained on are called helpful."""
    if label == TABLE:
        return np.zeros(len(test), dtype=bool)  # none of them is in it
    network = make_network(1 if label == RANKING else 2, trial.seed)
    adam = torch.optim.Adam(network.parameters(), RATE)
    for done in range(0, STEPS, PART):
        if label == RANKING:
            pairs = torch.from_numpy(rng.choice(train, (PART * BATCH // 2, 2)))
            choices = 0.5 + (labels[pairs[:, 0]] - labels[pairs[:, 1]]) / 2
            loss = fit_pairs(network, adam, rows, pairs, choices, PART, BATCH // 2, rng)
        else:
            loss = fit_labels(network, adam, rows[train], labels[train], PART, BATCH, rng)
        steps = trial.budget.total_timesteps
        trial.log(steps * (done + PART) // STEPS, loss=loss)
    outputs = predict(network, rows)
    if label != RANKING:
        return (outputs[test].softmax(1)[:, 1] > 0.5).numpy()
    # The threshold that parts the training messages best: rewards have no zero of their own.
    reward = outputs.squeeze(1)
    known = labels[train].bool()
    middle = (reward[train][known].mean() + reward[train][~known].mean()) / 2
    return (reward[test] > middle).numpy()


def generalises(label: str) -> Any:
    """A check that an arm's balanced accuracy on unseen messages is at least .85."""

    def check(results: Results) -> Verdict:
        interval = stratified_bootstrap(results[label].final["balanced"])
        return above(
            f"{label.capitalize()}: at least {ENOUGH} balanced accuracy on messages that "
            "were not judged.",
            interval,
            "interquartile mean over seeds; each has messages of its own",
            ENOUGH,
        )

    return check


def control_is_chance(results: Results) -> Verdict:
    """Fitted to labels by chance, the classifier knows nothing of the rules."""
    interval = stratified_bootstrap(results[RANDOM].final["balanced"])
    return below(
        "Fitted to random labels, its balanced accuracy stays below .6.",
        interval,
        "interquartile mean over seeds",
        0.6,
    )


EXPERIMENT = Experiment(
    name="oni_messages",
    title="What reward models say of messages that nobody has judged",
    paper="Zheng et al. (2024), Online intrinsic rewards for decision making agents from large "
    "language model feedback",
    grid=[
        Measure(label, partial(measure, label=label))
        for label in (CLASSIFIER, TABLE, TENTH, RANKING, RANDOM)
    ],
    budgets={
        "smoke": Budget(total_timesteps=4_000, num_envs=8, eval_episodes=0, seeds=1),
        "quick": Budget(total_timesteps=100_000, num_envs=8, eval_episodes=0, seeds=5),
        "full": Budget(total_timesteps=300_000, num_envs=8, eval_episodes=0, seeds=10),
    },
    claims=[
        Claim("The classifier generalises", generalises(CLASSIFIER)),
        Claim("The ranking generalises", generalises(RANKING)),
        Claim("Random labels teach nothing", control_is_chance),
    ],
    seeds=tuple(range(500, 510)),
    tuning_seeds=(0,),
    columns={
        "balanced": "balanced accuracy",
        "precision": "precision",
        "recall": "recall",
        "messages": "distinct messages",
    },
)

"""CALM: detection in key rooms, the three payments, and what each does to the optimum."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from rewardzoo import Transition
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.llm import Judge
from rewardzoo.rewards import (
    RewardSyntaxError,
    Spaces,
    VectorRewardWrapper,
    env_reward,
    make_reward,
)
from rewardzoo.rewards.calm import PAYMENTS, Calm
from rewardzoo.rewards.calm_detectors import (
    KEY,
    Detector,
    KeyRoomOracle,
    NoisyDetector,
    RandomDetector,
)
from rewardzoo.rewards.calm_judged import JudgedDetector
from rewardzoo.rewards.calm_prompts import Prompt, unpack
from rewardzoo.rewards.captions import encode
from rewardzoo.testing import check_reward
from rewardzoo.testing.captioned import APPLY, PICKUP, CaptionedFunc

HAVE = "g - a key named The Master Key of Thievery."
CPU = torch.device("cpu")


def captioned(num_envs, autoreset_mode, **kwargs):
    return FunctionalVectorEnv(num_envs, CaptionedFunc, autoreset_mode=autoreset_mode, **kwargs)


def spaces_of(func):
    return Spaces(func.observation_space, func.action_space)


def transition(actions, before, after, messages, terminated=None):
    """One row an action; ``before`` and ``after`` are texts of 81 signs or numbers of doors."""

    def crop(doors):
        out = torch.full((9, 9), ord("."), dtype=torch.uint8)
        out.view(-1)[:doors] = ord("+")
        return out if doors is not None and doors >= 0 else torch.zeros(9, 9, dtype=torch.uint8)

    n = len(actions)
    no = torch.zeros(n, dtype=torch.bool)
    blank = encode([""] * n, 256)
    return Transition(
        obs={"chars_crop": torch.stack([crop(d) for d in before]), "message": blank},
        action=torch.tensor(actions),
        next_obs={
            "chars_crop": torch.stack([crop(d) for d in after]),
            "message": encode(messages, 256),
        },
        reward=torch.zeros(n),
        terminated=no if terminated is None else torch.tensor(terminated),
        truncated=no,
        valid=~no,
        episode_step=torch.zeros(n, dtype=torch.int64),
    )


def oracle():
    detector = KeyRoomOracle()
    detector.bind(1, CPU, spaces_of(CaptionedFunc()))
    return detector


class Told(Detector):
    """Detects what the test says: ``obs`` is (N, K)."""

    def __init__(self, count=2):
        self.subgoals = tuple(f"g{i}" for i in range(count))

    def detect(self, t):
        return t.next_obs.to(torch.float32)


def told(found, terminated=False, valid=True):
    found = torch.tensor(found, dtype=torch.float32)
    n = len(found)
    flag = torch.ones(n, dtype=torch.bool)
    return Transition(
        found, torch.zeros(n), found, torch.zeros(n), flag & terminated, flag & False,
        flag & valid, torch.zeros(n, dtype=torch.int64),
    )  # fmt: skip


def bound(fn, num_envs=1):
    fn.bind(num_envs, CPU, spaces_of(CaptionedFunc()))
    fn.reset(torch.ones(num_envs, dtype=torch.bool), None)
    return fn


# ---- detection -----------------------------------------------------------------------------------


def test_the_key_is_found_by_pickup_and_message_together():
    t = transition(
        [PICKUP, PICKUP, 0, PICKUP], [1] * 4, [1] * 4,
        [HAVE, "You see here a key named The Master Key of Thievery.", HAVE, "Hm.  " + HAVE],
    )  # fmt: skip
    assert oracle().detect(t)[:, 0].tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("action", "before", "after", "found"),
    [
        (APPLY, 1, 0, 1),  # opened
        (APPLY, 2, 1, 1),
        (0, 1, 0, 0),  # out of sight by walking
        (APPLY, 1, 1, 0),  # no key, or no door beside
        (APPLY, 0, 0, 0),  # no door in view at all
        (APPLY, 2, 0, 0),  # by exactly one
        (APPLY, 0, 1, 0),  # came into view
        (APPLY, 1, None, 0),  # the game is over and the map blank
    ],
)
def test_the_door_is_found_by_apply_and_one_door_fewer(action, before, after, found):
    t = transition([action], [before], [after], ["Never mind."])
    assert oracle().detect(t)[0, 1] == found


def test_an_observation_without_messages_or_too_few_actions_is_refused_with_the_fix():
    func = CaptionedFunc()
    with pytest.raises(ValueError, match="observation_keys"):
        KeyRoomOracle().bind(1, CPU, Spaces(func.action_space, func.action_space))
    with pytest.raises(ValueError, match="actions='calm'"):
        KeyRoomOracle(pickup=8, apply=9).bind(1, CPU, spaces_of(func))


def test_noise_keeps_the_share_recall_and_adds_the_share_of_false_positives():
    n, steps = 512, 20
    noisy = NoisyDetector(Told(), recall=0.7, false_positives=0.1, seed=3)
    noisy.bind(n, CPU, spaces_of(CaptionedFunc()))
    true = torch.zeros(n, 2)
    true[:, 0] = 1
    found = torch.stack([noisy.detect(told(true.tolist())) for _ in range(steps)])
    size = n * steps
    for k, p in ((0, 0.7), (1, 0.1)):  # 5 sigma of a binomial
        assert abs(found[..., k].mean().item() - p) < 5 * (p * (1 - p) / size) ** 0.5
    assert NoisyDetector(Told(), 1.0, 0.0).recall == 1


def test_random_labels_are_a_function_of_the_transition():
    detector = RandomDetector(0.5)
    t = transition([0, 0, 1], [1, 1, 1], [1, 1, 1], ["a", "a", "a"])
    first, second, other = detector.detect(t)
    assert torch.equal(first, second) and torch.equal(detector.detect(t)[2], other)
    many = transition(
        [i % 4 for i in range(400)], [1] * 400, [1] * 400, [str(i) for i in range(400)]
    )
    assert abs(detector.detect(many).mean().item() - 0.5) < 5 * 0.5 / 800**0.5


# ---- payment -------------------------------------------------------------------------------------


def test_once_pays_each_subgoal_once_an_episode():
    fn = bound(Calm(Told(), coef=0.5))
    paid = [fn(told([x])).item() for x in ([0, 0], [1, 0], [1, 0], [1, 1], [1, 1])]
    assert paid == [0, 0.5, 0, 0.5, 0]
    fn.reset(torch.ones(1, dtype=torch.bool), None)
    assert fn(told([[1, 1]])).item() == 1


def test_additive_pays_every_detection():
    fn = bound(Calm(Told(), coef=0.5, pay="additive"))
    assert [fn(told([x])).item() for x in ([1, 0], [1, 1], [0, 1])] == [0.5, 1, 0.5]
    assert fn.relabel(told([[1, 1], [0, 0]])).tolist() == [1, 0]


def test_potential_telescopes_to_zero_over_any_finished_episode():
    gamma = 0.9
    fn = bound(Calm(Told(3), coef=2.0, pay="potential", gamma=gamma))
    steps = [[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    paid = [fn(told([x], terminated=i == 4)).item() for i, x in enumerate(steps)]
    assert sum(gamma**i * r for i, r in enumerate(paid)) == pytest.approx(0, abs=1e-6)


def test_potential_cut_off_keeps_the_potential_of_the_last_state():
    gamma = 0.9
    fn = bound(Calm(Told(), coef=1.0, pay="potential", gamma=gamma))
    paid = [fn(told([x])).item() for x in ([1, 0], [0, 0], [0, 1])]
    assert sum(gamma**i * r for i, r in enumerate(paid)) == pytest.approx(gamma**3 * 2, abs=1e-6)


def test_dead_rows_achieve_nothing_and_rows_are_cleared_alone():
    fn = bound(Calm(Told()), 2)
    assert fn(told([[1, 1], [1, 1]], valid=False)).tolist() == [0, 0]
    assert not fn.achieved.any()
    fn(told([[1, 0], [1, 0]]))
    fn.reset(torch.tensor([True, False]), None)
    assert fn.observation_features().tolist() == [[0, 0], [1, 0]]


def test_at_coefficient_zero_the_reward_is_the_environments_bit_for_bit():
    envs = VectorRewardWrapper(captioned(4, "SameStep"), env_reward + Calm(coef=0.0))
    bare = captioned(4, "SameStep")
    envs.reset(seed=0), bare.reset(seed=0)
    for _ in range(30):
        action = torch.randint(6, (4,))
        assert torch.equal(envs.step(action)[1], bare.step(action)[1])


def test_once_pays_at_most_coef_times_the_subgoals_and_the_episode_pays_both():
    envs = VectorRewardWrapper(captioned(1, "SameStep"), Calm(coef=0.5))
    envs.reset(seed=0)
    paid = [envs.step(torch.tensor([a]))[1].item() for a in (PICKUP, PICKUP, APPLY, APPLY, 0)]
    assert paid == [0.5, 0, 0.5, 0, 0]


def greedy_start(pay, coef, gamma=0.9, horizon=200):
    """First action of the optimal policy: 0 walks 3 steps to the goal (1), 1 repeats a subgoal.

    State: (distance left, subgoal achieved); value iteration on the augmented chain.
    """
    terminal = 0
    value = {}

    def reward(d, achieved, action):
        d2 = d - 1 if action == 0 else d
        n, n2 = int(achieved), int(achieved or action == 1)
        base = 1.0 if d2 == terminal else 0.0
        fn = bound(Calm(Told(1), coef=coef, pay=pay, gamma=gamma))
        fn.achieved[:] = bool(n)
        extra = fn(told([[float(action == 1)]], terminated=d2 == terminal)).item()
        return d2, bool(n2), base + extra

    table = {(d, a, u): reward(d, a, u) for d in (1, 2, 3) for a in (False, True) for u in (0, 1)}
    for _ in range(horizon):
        value = {
            (d, a): max(
                r + gamma * value.get((d2, a2), 0.0) * (d2 != terminal)
                for d2, a2, r in (table[d, a, u] for u in (0, 1))
            )
            for d in (1, 2, 3)
            for a in (False, True)
        }
    best = {}
    for d, a in value:
        q = [r + gamma * value.get((d2, a2), 0.0) * (d2 != terminal)
             for d2, a2, r in (table[d, a, u] for u in (0, 1))]  # fmt: skip
        best[d, a] = 0 if q[0] >= q[1] else 1
    return best


def test_potential_keeps_the_optimal_policy_and_repeated_payment_changes_it():
    sparse = greedy_start("additive", 0.0)
    assert set(sparse.values()) == {0}
    assert greedy_start("potential", 5.0) == sparse
    assert set(greedy_start("additive", 0.5).values()) == {1}  # farms the subgoal for ever


@pytest.mark.parametrize("pay", PAYMENTS)
@pytest.mark.parametrize("detector", [KeyRoomOracle, partial(RandomDetector, 0.3)])
def test_it_keeps_the_contract_of_reward_functions(pay, detector):
    report = check_reward(
        lambda: Calm(detector(), pay=pay, gamma=0.9), env=captioned, num_envs=4, steps=25
    )
    assert report.memory and report.relabels == (pay == "additive")
    assert report.truncation_matters == (pay == "potential")


def test_noisy_detectors_keep_the_contract_but_for_the_order_of_rows():
    class Ordered(Calm):
        rowwise = False  # a row's errors depend on its place

    fn = Ordered(NoisyDetector(KeyRoomOracle(), 0.5, 0.2))
    with pytest.raises(AssertionError, match="permuting"):
        check_reward(fn, env=captioned, num_envs=4, steps=25)


class Reader(Judge):
    """Reads the prompt's transition as the oracle of the key would; counts its questions."""

    name, version = "reader", "1"

    def __init__(self):
        self.asked = []

    def score(self, message):
        self.asked.append(message)
        subgoal, t = unpack(message)
        return float(subgoal == KEY and t.action == PICKUP and HAVE in t.next_obs.message)


@pytest.mark.parametrize("observation", ["none", "crop"])
def test_a_judge_in_the_loop_is_asked_once_and_pays_from_the_next_update(observation):
    reader = Reader()
    fn = bound(Calm(JudgedDetector(reader, Prompt(observation=observation)), pay="additive"), 2)
    t = transition([PICKUP, 0], [1, 1], [1, 1], [HAVE, HAVE])
    assert fn(t).tolist() == [0, 0]
    for _ in range(3):
        fn.observe(t)
        metrics = fn.update()
    assert fn(t).tolist() == [0.5, 0] and fn.version == 1
    assert len(reader.asked) == 4 and (metrics["transitions"], metrics["judged"]) == (2, 2)
    other = bound(
        Calm(JudgedDetector(Reader(), Prompt(observation=observation)), pay="additive"), 2
    )
    other.load_state_dict(fn.state_dict())
    assert torch.equal(other(t), fn(t))
    other.observe(t)
    other.update()
    assert not other.detector.queue.judge.asked


def test_a_judge_in_the_loop_keeps_the_contract():
    report = check_reward(
        lambda: Calm(JudgedDetector(Reader()), pay="once"), env=captioned, num_envs=4, steps=25
    )
    assert not report.relabels
    with pytest.raises(ValueError, match="gamescreen"):
        JudgedDetector(Reader(), Prompt(observation="gamescreen"))
    with pytest.raises(ValueError, match="judge="):
        JudgedDetector("gpt")


def test_it_is_made_from_text_and_says_what_it_does_not_know():
    assert (
        make_reward("objective + 0.5*calm(pay='potential', gamma=0.9)").name == "objective + calm"
    )
    for text, part in (("calm(pay='often')", "pay="), ("calm(detector='oracel')", "detector=")):
        with pytest.raises(RewardSyntaxError, match=part):
            make_reward(text)

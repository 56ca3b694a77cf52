"""ONI: counts, the three reward models, mixing, and asking in the background."""

from __future__ import annotations

import copy
import math
import threading

import numpy as np
import pytest
import torch

from rewardzoo import Transition
from rewardzoo.agents.ppo import PPO
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.llm import PAIR, Judge, PairJudge, RandomJudge, RuleJudge, TableJudge
from rewardzoo.rewards import Spaces, VectorRewardWrapper, env_reward, make_reward
from rewardzoo.rewards.captions import EpisodeCounts, decode, encode
from rewardzoo.rewards.lookup import Lookup, hash_rows
from rewardzoo.rewards.oni import OniRetrieval, mixed
from rewardzoo.rewards.oni_learned import OniClassification, OniRanking, merge
from rewardzoo.rewards.oni_models import (
    bradley_terry_loss,
    fit_labels,
    fit_pairs,
    make_network,
    predict,
)
from rewardzoo.testing import check_reward
from rewardzoo.testing.captioned import MESSAGES, CaptionedFunc

CPU = torch.device("cpu")
HELPFUL = MESSAGES[2:5]
TABLE = {m: float(m in HELPFUL) for m in MESSAGES}
MODELS = [OniRetrieval, OniClassification, OniRanking]


def captioned(num_envs, autoreset_mode="SameStep", **kwargs):
    return FunctionalVectorEnv(num_envs, CaptionedFunc, autoreset_mode=autoreset_mode, **kwargs)


def judge():
    return TableJudge(TABLE)


def judge_of_pairs():
    return PairJudge(judge())


def judge_for(model):
    return judge_of_pairs() if model.pairs else judge()


def shown(*texts, valid=True):
    n = len(texts)
    no = torch.zeros(n, dtype=torch.bool)
    obs = {"message": encode(list(texts), 256)}
    return Transition(
        obs, no, obs, torch.zeros(n), no, no, ~no & valid, torch.zeros(n, dtype=torch.int64)
    )


def bound(fn, num_envs=1, first=None):
    func = CaptionedFunc()
    fn.bind(num_envs, CPU, Spaces(func.observation_space, func.action_space))
    start = {"message": encode(first or ["start"] * num_envs, 256)}
    fn.reset(torch.ones(num_envs, dtype=torch.bool), start)
    return fn


def taught(fn, updates=1):
    """Has seen every message, and learned what the judge says."""
    fn = bound(fn, len(MESSAGES))
    for _ in range(updates):
        fn.observe(shown(*MESSAGES))
        fn.update()
    return fn


# ---- counts --------------------------------------------------------------------------------------


def test_a_repeated_message_pays_one_over_its_count_to_the_power_beta():
    fn = taught(OniRetrieval(judge(), beta=3.0))
    fn = bound_again(fn)
    a, b = HELPFUL[:2]
    paid = [fn(shown(m)).item() for m in (a, a, b, a)]
    assert paid == pytest.approx([1, 1 / 8, 1, 1 / 27])
    fn.reset(torch.ones(1, dtype=torch.bool), {"message": encode(["start"], 256)})
    assert fn(shown(a)).item() == 1


def bound_again(fn, first="start"):
    """The same knowledge, one row, a new episode."""
    fn.counts = EpisodeCounts(1, CPU)
    fn.reset(torch.ones(1, dtype=torch.bool), {"message": encode([first], 256)})
    return fn


def test_the_message_of_the_reset_counts():
    fn = bound_again(taught(OniRetrieval(judge())), first=HELPFUL[0])
    assert fn(shown(HELPFUL[0])).item() == pytest.approx(1 / 8)


def test_counts_equal_a_dictionary_and_rows_are_cleared_alone():
    rng = np.random.default_rng(0)
    counts, truth = EpisodeCounts(3, CPU, slots=32), [{}, {}, {}]
    for _ in range(200):
        h = torch.from_numpy(rng.integers(20, size=3))
        rows = torch.from_numpy(rng.random(3) < 0.8)
        got = counts.visit(h, rows)
        for i in range(3):
            n = truth[i].get(int(h[i]), 0) + 1
            assert int(got[i]) == n
            if rows[i]:
                truth[i][int(h[i])] = n
        clear = torch.from_numpy(rng.random(3) < 0.05)
        counts.clear(clear)
        for i in clear.nonzero().flatten().tolist():
            truth[i] = {}


def test_beyond_its_slots_the_oldest_message_is_forgotten_and_no_other():
    counts = EpisodeCounts(1, CPU, slots=4)
    every = torch.ones(1, dtype=torch.bool)
    for h in (1, 2, 3, 4, 5):  # the fifth takes the place of the first
        counts.visit(torch.tensor([h]), every)
    assert [int(counts.visit(torch.tensor([h]), every)) for h in (5, 4, 3, 2)] == [2, 2, 2, 2]
    assert int(counts.visit(torch.tensor([1]), every)) == 1


def test_beta_decides_between_farming_and_zeta_of_three():
    """The toy of one helpful message shown at every step of an episode of H steps."""
    horizon = 200
    for beta, want in ((0.0, float(horizon)), (3.0, sum(n**-3 for n in range(1, horizon + 1)))):
        fn = bound_again(taught(OniRetrieval(judge(), beta=beta)))
        paid = sum(fn(shown(HELPFUL[0])).item() for _ in range(horizon))
        assert paid == pytest.approx(want, rel=1e-5)
    assert want == pytest.approx(1.2020569, abs=2e-5)


def test_hashes_tell_messages_apart_and_lookup_finds_them():
    texts = [f"message {i} {'x' * (i % 7)}" for i in range(2000)]
    hashes = hash_rows(encode(texts, 256))
    assert len(set(hashes.tolist())) == 2000
    table = Lookup(2)
    assert table.get(hashes)[1].any().item() is False
    values = torch.arange(4000.0).reshape(2000, 2)
    table.set(hashes, values)
    order = torch.randperm(2000)
    assert torch.equal(table.get(hashes[order])[0], values[order])
    found, known = table.get(hash_rows(encode(["another"], 256)))
    assert found.tolist() == [[0, 0]] and not known.any()
    assert decode(encode(["ä", ""], 256)) == ["ä", ""]


# ---- retrieval -----------------------------------------------------------------------------------


def test_retrieval_pays_nothing_until_the_label_is_there_and_then_the_label():
    fn = bound(OniRetrieval(judge()), len(MESSAGES))
    assert fn(shown(*MESSAGES)).tolist() == [0] * len(MESSAGES)
    fn.observe(shown(*MESSAGES))
    metrics = fn.update()
    assert (metrics["labelled"], metrics["helpful"]) == (len(MESSAGES), len(HELPFUL))
    fresh = bound_again(fn)
    assert [fresh(shown(m)).item() for m in MESSAGES] == [TABLE[m] for m in MESSAGES]
    assert fresh(shown("You kill the unseen newt!")).item() == 0


def test_dead_rows_are_neither_asked_about_nor_counted():
    fn = bound(OniRetrieval(judge()), 1)
    fn.observe(shown(HELPFUL[0], valid=False))
    fn.update()
    assert len(fn.seen) == 0


def test_coefficients_zero_leave_the_environments_reward_or_nothing():
    envs = VectorRewardWrapper(captioned(4), mixed(OniRetrieval(judge()), 1.0, 0.0))
    bare = VectorRewardWrapper(captioned(4), mixed(OniRetrieval(judge()), 0.0, 1.0))
    plain = captioned(4)
    for e in (envs, bare, plain):
        e.reset(seed=0)
    for _ in range(20):
        action = torch.randint(6, (4,))
        assert torch.equal(envs.step(action)[1], plain.step(action)[1])
        assert bare.step(action)[1].tolist() == [0] * 4  # the table is empty


def test_only_the_environments_reward_is_scaled_and_clipped():
    fn = bound_again(taught(mixed(OniRetrieval(judge()), 0.1, 400.0, scale=100.0).parts[1].inner))
    both = mixed(fn, 0.1, 400.0, scale=100.0)
    t = shown(HELPFUL[0])
    t = Transition(**{k: getattr(t, k) for k in t.__slots__} | {"reward": torch.tensor([7.0])})
    assert both(t).item() == pytest.approx(0.1 * 10 + 400)


# ---- classification ------------------------------------------------------------------------------


def test_classification_learns_the_labels_and_speaks_about_unseen_messages():
    torch.manual_seed(0)
    names = ["newt", "jackal", "gnome", "rat", "goblin", "lichen", "kobold", "bat", "orc", "imp"]
    train = [f"You kill the {n}!" for n in names[:7]] + [f"You see a {n} here." for n in names[:7]]
    test = [f"You kill the {n}!" for n in names[7:]] + [f"You see a {n} here." for n in names[7:]]
    fn = bound(OniClassification("rules", learning_rate=1e-3, beta=0.0), 1)
    fn.observe(shown(*train))
    for _ in range(8):
        metrics = fn.update()
    assert metrics["loss"] < 0.1
    assert [fn(shown(m)).item() for m in train] == [1.0] * 7 + [0.0] * 7
    assert np.mean([fn(shown(m)).item() == ("kill" in m) for m in test]) >= 5 / 6


def test_classification_at_the_ends_of_its_threshold_and_before_any_label():
    for eta, want in ((1.0, 0.0), (-0.1, 1.0)):
        fn = taught(OniClassification(judge(), eta=eta, beta=0.0))
        paid = fn(shown(*MESSAGES))
        assert paid.tolist() == [want] * len(MESSAGES)
        assert torch.equal(paid, fn(shown(*MESSAGES)))  # no dropout when it speaks
    fresh = bound(OniClassification(judge(), eta=-0.1), 1)
    assert fresh(shown(MESSAGES[0])).item() == 0


def test_a_table_of_known_messages_and_the_network_agree():
    fn = taught(OniClassification(judge(), learning_rate=1e-3, beta=0.0), updates=4)
    known = fn(shown(*MESSAGES))
    fn.table = Lookup()  # all unknown now
    assert torch.equal(known, fn(shown(*MESSAGES)))


def test_the_network_trains_only_while_there_is_something_to_learn():
    fn = taught(OniClassification(judge(), learning_rate=1e-3), updates=12)
    assert float(fn.loss) < 0.02
    before = copy.deepcopy(fn.network.state_dict())
    fn.observe(shown(*MESSAGES))
    fn.update()
    assert all(torch.equal(v, before[k]) for k, v in fn.network.state_dict().items())


# ---- ranking -------------------------------------------------------------------------------------


def test_bradley_terry_loss_by_its_identities():
    r1, r2 = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    y = torch.tensor([0.0, 0.5, 1.0] * 16 + [1.0, 0.0], dtype=torch.float64)
    assert bradley_terry_loss(r1, r1, y).item() == pytest.approx(math.log(2))
    loss = bradley_terry_loss(r1, r2, y)
    assert bradley_terry_loss(r1 + 7, r2 + 7, y).item() == pytest.approx(loss.item())
    assert bradley_terry_loss(r2, r1, 1 - y).item() == pytest.approx(loss.item())
    by_hand = -(y * torch.log(r1.exp() / (r1.exp() + r2.exp())) + (1 - y)
                * torch.log(r2.exp() / (r1.exp() + r2.exp()))).mean()  # fmt: skip
    assert loss.item() == pytest.approx(by_hand.item())
    x = torch.zeros(1, requires_grad=True)
    bradley_terry_loss(x, x.detach() * 0, torch.tensor([0.5])).backward()
    assert x.grad.item() == 0  # a tie pulls equals nowhere


def test_running_moments_equal_those_of_the_whole():
    x = torch.randn(1000, dtype=torch.float64) * 3 + 5
    moments = torch.zeros(3, dtype=torch.float64)
    for part in x.split([1, 10, 300, 689]):
        moments = merge(moments, part)
    count, mean, squares = moments.tolist()
    assert (count, mean, squares / count) == pytest.approx(
        (1000, x.mean().item(), x.var(unbiased=False).item()), rel=1e-9
    )


def test_the_ranking_reward_that_is_mixed_is_the_standardised_and_thresholded_one():
    fn = taught(
        OniRanking(judge_of_pairs(), learning_rate=1e-3, beta=0.0, new_pairs=30), updates=10
    )
    raw = predict(fn.network, fn.seen).squeeze(1)
    count, mean, squares = fn.moments.tolist()
    standard = (raw - mean) / math.sqrt(squares / count + 1e-8)
    want = torch.where(standard > fn.eps, standard, 0.0)
    paid = fn(shown(*decode(fn.seen)))
    assert torch.allclose(paid, want, atol=1e-5)
    assert (want == 0).any() and (want > 0).any()
    whole = VectorRewardWrapper(captioned(1), mixed(fn, 0.0, 0.4)).reward_function
    assert whole.parts[1].weight == 0.4


def test_ranking_puts_helpful_messages_above_others():
    fn = taught(
        OniRanking(judge_of_pairs(), learning_rate=1e-3, beta=0.0, new_pairs=30), updates=12
    )
    reward = dict(
        zip(decode(fn.seen), predict(fn.network, fn.seen).squeeze(1).tolist(), strict=True)
    )
    assert min(reward[m] for m in HELPFUL) > max(reward[m] for m in MESSAGES if m not in HELPFUL)


def test_constant_rewards_have_no_spread_and_are_not_divided_by_it():
    fn = bound(OniRanking(judge_of_pairs()), 1)
    fn.loss = torch.tensor(0.1)
    fn.moments = merge(torch.zeros(3, dtype=torch.float64), torch.full((50,), 2.0))
    assert fn.reward(torch.full((4, 1), 2.0)).abs().max().item() < 1e-3


def test_at_most_eps_is_exactly_zero():
    fn = bound(OniRanking(judge_of_pairs(), eps=0.5), 1)
    fn.loss, fn.moments = torch.tensor(0.1), torch.tensor([4.0, 0.0, 4.0], dtype=torch.float64)
    paid = fn.reward(torch.tensor([[-1.0], [0.5], [0.50001], [2.0]]))
    assert paid[:2].tolist() == [0, 0] and paid[2:].tolist() == pytest.approx(
        [0.50001, 2.0], abs=1e-4
    )


def test_pairs_are_asked_for_once_and_ties_are_kept():
    class Counting(Judge):
        name, version = "counting", "1"
        asked: list[str] = []

        def score(self, message):
            self.asked.append(message)
            a, b = message.split(PAIR)
            return 0.5 if TABLE[a] == TABLE[b] else float(TABLE[a] > TABLE[b])

    fn = taught(OniRanking(Counting(), new_pairs=40), updates=4)
    assert len(Counting.asked) == len(set(Counting.asked)) == len(fn.choices)
    assert set(fn.choices.tolist()) == {0.0, 0.5, 1.0}
    texts = decode(fn.seen)
    for (i, j), choice in zip(fn.judged.tolist(), fn.choices.tolist(), strict=True):
        assert choice == 0.5 + (TABLE[texts[i]] - TABLE[texts[j]]) / 2


def test_fits_are_reproducible_and_leave_the_global_generator_alone():
    messages, labels = encode(list(MESSAGES), 256), torch.tensor([0, 0, 1, 1, 1, 0])
    pairs, choices = torch.tensor([[2, 0], [1, 3]]), torch.tensor([1.0, 0.0])
    losses = []
    for _ in range(2):
        state = torch.get_rng_state()
        one, two = make_network(2, 3), make_network(1, 3)
        adam = [torch.optim.Adam(n.parameters(), 1e-3) for n in (one, two)]
        losses.append(
            (
                fit_labels(one, adam[0], messages, labels, 3, 4, np.random.default_rng(0)),
                fit_pairs(two, adam[1], messages, pairs, choices, 3, 4, np.random.default_rng(0)),
            )
        )
        assert torch.equal(state, torch.get_rng_state())
    assert losses[0] == losses[1]


# ---- the whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_it_keeps_the_contract_of_reward_functions(model, beta):
    """With knowledge of some of the messages, so that something is paid."""

    class Taught(model):
        def bind(self, num_envs, device, spaces):
            super().bind(num_envs, device, spaces)
            some = list(MESSAGES[:4])
            if device.type == "cpu" and not len(self.seen):
                self.observe(shown(*some))
                self.update()

    few = {} if model is OniRetrieval else {"steps": 2}
    made = lambda: Taught(judge_for(model), beta=beta, **few)  # noqa: E731
    report = check_reward(made, env=captioned, num_envs=3, steps=20)
    assert report.relabels == (beta == 0) and not report.truncation_matters


@pytest.mark.parametrize("model", MODELS)
def test_saved_and_loaded_it_learns_on_as_if_never_stopped_and_asks_nothing_again(model):
    class Counting(RuleJudge):
        asked = 0

        def judge(self, messages):
            type(self).asked += len(messages)
            return super().judge(messages)

    def make():
        return bound(
            model(Counting() if model is not OniRanking else judge_of_pairs(), beta=1.0), 2
        )

    def step(fn, part):
        fn.observe(shown(*part))
        fn.update()

    fn = make()
    step(fn, MESSAGES[:4])
    state = copy.deepcopy(fn.state_dict())
    asked = Counting.asked
    other = make()
    other.load_state_dict(state)
    step(other, MESSAGES[:4])
    assert Counting.asked == asked
    step(fn, MESSAGES[:4])
    for part in (MESSAGES[2:], MESSAGES):
        step(fn, part)
        step(other, part)
    a, b = MESSAGES[2], "You kill the unseen newt!"
    assert torch.allclose(fn(shown(a, b)), other(shown(a, b)), atol=1e-6)
    assert torch.equal(fn.seen, other.seen)


class Slow(Judge):
    """Answers when it is let."""

    name, version, instant = "slow", "1", False

    def __init__(self):
        self.let = threading.Event()
        self.asked = []

    def judge(self, messages):
        for message in messages:
            self.let.wait()
            self.asked.append(message)
            yield message, TABLE.get(message, 0.0)


def test_training_goes_on_while_the_judge_is_silent_and_takes_its_labels_when_they_come(tmp_path):
    slow = Slow()
    fn = OniRetrieval(slow, cache=tmp_path / "c.sqlite")
    envs = VectorRewardWrapper(captioned(8, max_episode_steps=9), env_reward + fn)
    lines = []
    agent = PPO(_flat(envs), num_steps=16, hidden=(8,), num_epochs=1)

    def watch(agent, metrics):
        lines.append({k.removeprefix("reward/"): v for k, v in metrics.items()})
        if len(lines) == 3:
            assert lines[-1]["parts.1/labelled"] == 0  # three updates without an answer
            slow.let.set()
            assert fn.queue.wait(30)

    agent.learn(16 * 8 * 5, callback=watch)
    assert lines[-1]["parts.1/labelled"] == len(set(slow.asked)) == len(slow.asked)
    assert lines[-1]["parts.1/helpful"] == len(HELPFUL)
    fn.queue.close()


def _flat(envs):
    """PPO looks at the first row of the map only."""
    import gymnasium

    class Flat(gymnasium.vector.VectorWrapper):
        device = CPU

        def __init__(self, envs):
            super().__init__(envs)
            self.single_observation_space = gymnasium.spaces.Box(0, 255, (9,), np.float32)
            self.observation_space = gymnasium.spaces.Box(0, 255, (envs.num_envs, 9), np.float32)

        def reset(self, **kwargs):
            obs, info = self.env.reset(**kwargs)
            return obs["chars_crop"][:, 0].float(), info

        def step(self, actions):
            obs, *rest, info = self.env.step(actions)
            info = {**info, "final_obs": info["final_obs"]["chars_crop"][:, 0].float()}
            return (obs["chars_crop"][:, 0].float(), *rest, info)

    return Flat(envs)


def test_it_is_made_from_text():
    fn = make_reward("objective + 0.4*oni_classification(annotator='random', goal='gold', beta=1)")
    assert fn.name == "objective + oni_classification"
    for text, part in (
        ("oni_retrieval(annotator='gpt')", "annotator="),
        ("oni_retrieval(goal='glory')", "goal="),
        ("oni_retrieval(beta=-1)", "beta="),
    ):
        with pytest.raises(ValueError, match=part):
            make_reward(text)


def test_observations_without_messages_are_refused_with_the_fix():
    space = CaptionedFunc().action_space
    with pytest.raises(ValueError, match="observation_keys"):
        OniRetrieval(RandomJudge()).bind(1, CPU, Spaces(space, space))

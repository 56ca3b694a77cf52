"""Formulas by progression are what their definition says; machines pay as their text says."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardzoo.agents.ppo import PPO
from rewardzoo.agents.tabular import mdp_of, q_values, value_iteration
from rewardzoo.experiments.expressivity import product
from rewardzoo.jobs import make_envs
from rewardzoo.rewards import (
    AppendRewardState,
    RewardWrapper,
    VectorAppendRewardState,
    VectorRewardWrapper,
    env_reward,
    make_reward,
)
from rewardzoo.rewards.formulas import (
    FALSE,
    TRUE,
    Formula,
    FormulaError,
    for_ever,
    is_cosafe,
    is_safe,
    parse,
    propositions,
    satisfies,
)
from rewardzoo.rewards.machine import Machine, automaton, goal
from rewardzoo.rewards.reward_machine import LtlGoal, RewardMachine
from rewardzoo.rewards.terminate import TerminateTask, VectorTerminateTask
from rewardzoo.testing import check_reward

AB = ("a", "b")
LABELS = [frozenset(x for i, x in enumerate(AB) if code >> i & 1) for code in range(4)]
TRACES = [t for n in range(1, 7) for t in itertools.product(LABELS, repeat=n)]
CORRIDOR = "....S...."
ENDS = {"l": [0], "r": [8]}
ERRAND = """0            # to the left end, then to the right one
[2]
(0, 1, 'l', 0.0)
(1, 2, 'r', ConstantRewardFunction(1))
"""


def formulas() -> Any:
    names = st.sampled_from([Formula("name", (x,)) for x in AB])
    return st.recursive(
        st.one_of(names, st.sampled_from([TRUE, FALSE])),
        lambda inner: st.one_of(
            st.builds(
                lambda op, x: Formula(op, (x,)), st.sampled_from("! X WX F G".split()), inner
            ),
            st.builds(
                lambda op, x, y: Formula(op, (x, y)),
                st.sampled_from("& | -> <-> U R".split()),
                inner,
                inner,
            ),
        ),
        max_leaves=5,
    )


def accepts(formula: Formula, trace: Any) -> bool:
    found = automaton(formula)
    state = 0
    for label in trace:
        state = found.table[
            state, sum(1 << i for i, x in enumerate(found.propositions) if x in label)
        ]
    return bool(found.accepting[state])


@settings(max_examples=60, deadline=None)
@given(formulas(), st.lists(st.sampled_from(LABELS), min_size=1, max_size=6))
def test_automaton_accepts_what_satisfies_the_definition(formula: Formula, trace: Any) -> None:
    assert accepts(formula, trace) == satisfies(formula, trace)


@pytest.mark.parametrize(
    "text", ["F(a & X F b)", "G(a -> X b)", "(!a U b) | G a", "a R (b | WX a)", "X X a <-> F b"]
)
def test_automaton_accepts_what_satisfies_the_definition_on_every_trace(text: str) -> None:
    formula = parse(text)
    found = automaton(formula)
    code = {label: sum(1 << found.propositions.index(x) for x in label) for label in LABELS}
    states = {(): 0}
    for trace in TRACES:  # shorter ones first
        states[trace] = int(found.table[states[trace[:-1]], code[trace[-1]]])
        assert found.accepting[states[trace]] == satisfies(formula, trace), trace


@settings(max_examples=60, deadline=None)
@given(formulas())
def test_a_formula_is_read_as_it_is_written(formula: Formula) -> None:
    assert parse(str(formula)) == formula


@settings(max_examples=40, deadline=None)
@given(formulas())
def test_no_state_of_an_automaton_is_one_too_many(formula: Formula) -> None:
    """Any two states are told apart by some word, no longer than there are states."""
    found = automaton(formula)
    count = len(found.table)
    apart = found.accepting[:, None] != found.accepting
    for _ in range(count):
        apart = apart | apart[found.table[:, None], found.table[None]].any(-1)
    assert (apart | np.eye(count, dtype=bool)).all()


def test_what_is_certain_and_what_is_lost() -> None:
    found = automaton("(!a U b) & F a")
    assert found.certain.sum() == 1 and found.doomed.sum() == 1
    assert is_cosafe(parse("F(a & X b)")) and not is_safe(parse("F(a & X b)"))
    assert is_safe(parse("G(a -> X b)")) and not is_cosafe(parse("G(a -> X b)"))
    assert (
        is_cosafe(parse("!G a")) and not is_cosafe(parse("G F a")) and not is_safe(parse("G F a"))
    )
    assert propositions(parse("F b & (a | b)")) == AB


MONAS = json.loads(Path(__file__).with_name("ltlf2dfa.json").read_text())
"""Formula to automaton, as ltlf2dfa 2.0.0 and MONA 1.4 give it: ``LTLfParser()(text).to_dfa()``.
(Recorded, because MONA is a program that a test machine need not have.)"""


@pytest.mark.parametrize("text", sorted(MONAS))
def test_equals_the_automata_of_ltlf2dfa(text: str) -> None:
    dot = MONAS[text]
    final = set(re.findall(r"doublecircle\]; ([\d; ]+);", dot)[0].replace(" ", "").split(";"))
    edges = re.findall(r"(\d+) -> (\d+) \[label=\"(.*?)\"\]", dot)
    start = re.findall(r"init -> (\d+)", dot)[0]
    for trace in TRACES:
        state = start
        for label in trace:
            state = next(
                v
                for u, v, guard in edges
                if u == state and satisfies(parse(guard.lower(), temporal=False), [label])
            )
        assert (state in final) == satisfies(parse(text), trace)


@pytest.mark.parametrize(
    ("text", "says"),
    [("a &", "ends too early"), ("(a", "ends too early"), ("a b", "one too many"), ("U a", "left"),
     ("a $ b", "no part"), ("& a", "where a name should")],
)  # fmt: skip
def test_errors_say_what_is_wrong_with_a_formula(text: str, says: str) -> None:
    with pytest.raises(FormulaError, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0\n[1]\n(0, 1, 'a', 1)\n(0, 0, 'a&b', 0)", r"lines 3 and 4.*\['a', 'b'\]"),
        ("0\n[1]\n(0, 1, 'a' 1)", "line 3.*expected an edge"),
        ("0\n[1]\n(0, 1, 'a &', 1)", "line 3.*ends too early"),
        ("0\n[1]\n(0, 1, 'a', big)", "line 3.*expected a number"),
        ("0\n[1]\n(1, 0, 'a', 1)", "terminal and has an edge"),
        ("0\n[1]", "expected an initial state"),
        ("nowhere.txt", "neither a machine's text nor a file"),
        ("0\n[1]\n(0,1,'" + "|".join(f"p{i}" for i in range(13)) + "',1)", "at most 12"),
    ],
)
def test_errors_say_what_is_wrong_with_a_machine(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Machine.read(text)


def test_a_machine_survives_its_text(tmp_path: Any) -> None:
    machine = Machine.read(ERRAND)
    (tmp_path / "errand.txt").write_text(machine.text())
    again = Machine.read(str(tmp_path / "errand.txt"))
    for name in ("table", "reward", "terminal"):
        np.testing.assert_array_equal(getattr(again, name), getattr(machine, name))
    assert machine.run([{"r"}, {"l"}, set(), {"l", "r"}, {"r"}]) == [0, 0, 0, 1, 0]
    # Two steps away from the reward, then one, then none.
    np.testing.assert_allclose(machine.values(0.9), [0.9, 1.0, 0.0])


def test_a_goal_as_a_machine_pays_once_when_it_is_certain() -> None:
    machine = goal("F(a & X F b)")
    assert machine.run([{"b"}, {"a", "b"}, set(), {"b"}, {"b"}]) == [0, 0, 0, 1, 0]
    with pytest.raises(ValueError, match="no finite trace"):
        goal("G a")


MACHINES = {
    "plain": lambda: RewardMachine(ERRAND, ENDS),
    "shaped": lambda: RewardMachine(ERRAND, ENDS, shaping=0.9),
    "goal": lambda: LtlGoal("F(l & X F r)", ENDS),
    "always": lambda: LtlGoal("G !l", ENDS),
}


@pytest.mark.parametrize("name", MACHINES)
def test_keeps_the_contract_of_reward_functions(name: str) -> None:
    def make(num_envs: int, autoreset_mode: Any) -> Any:
        return gymnasium.make_vec(
            "rewardzoo/GridWorld-v0",
            num_envs,
            map=".S.......",
            max_episode_steps=9,
            autoreset_mode=autoreset_mode,
        )

    report = check_reward(MACHINES[name], make)
    assert report.memory and not report.relabels


@pytest.mark.parametrize("shaping", [None, 0.9])
def test_the_wrapped_environment_pays_what_the_product_does(shaping: float | None) -> None:
    """Following the product's optimal policy, the discounted return is its value."""
    gamma = 0.9
    fn = RewardMachine(ERRAND, ENDS, shaping)
    mdp = product(mdp_of("rewardzoo/GridWorld-v0", map=CORRIDOR, slip=0.0), fn.machine, ENDS)
    value = value_iteration(mdp, gamma)
    best = float(value @ mdp.initial)
    assert best == pytest.approx(gamma**11)  # four steps to the left, eight to the right
    q = q_values(mdp, value, gamma)
    env = AppendRewardState(
        RewardWrapper(gymnasium.make("rewardzoo/GridWorld-v0", map=CORRIDOR, slip=0.0), fn)
    )
    obs, _ = env.reset(seed=0)
    total = 0.0
    for t in range(20):
        state = int(obs["observation"]) * 3 + int(obs["reward_state"].argmax())
        obs, reward, *_ = env.step(int(q[state].argmax()))
        total += gamma**t * reward
    # Shaping moves every return by the value of the first state, and the last state's is 0.
    want = best - (0.0 if shaping is None else gamma)
    assert total == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("shaping", [None, 0.9])
def test_counterfactual_steps_are_what_each_state_would_have_done(shaping: float | None) -> None:
    envs = gymnasium.make_vec("rewardzoo/GridWorld-v0", 8, map=".S...")
    fn = RewardMachine(ERRAND, {"l": [0], "r": [4]}, shaping)
    wrapped = VectorRewardWrapper(envs, fn)
    wrapped.reset(seed=0)
    seen = 0
    for _ in range(60):
        before = fn.state.clone()
        _, reward, *_ = wrapped.step(torch.as_tensor(wrapped.action_space.sample()))
        t = wrapped.transition
        kept = fn.state.clone()
        u, v, paid, over = fn.counterfactual(t)
        assert torch.equal(fn.state, kept)
        rows = torch.arange(8)
        assert torch.equal(paid[rows, before], reward)
        assert torch.equal(v[rows, before], fn.state)
        assert torch.equal(over, v == 2) and torch.equal(u[0], torch.arange(3))
        seen += int(over[:, 1].sum())
    assert seen > 0


def test_command_line_takes_machines_and_goals() -> None:
    text = r"reward_machine('0\n[1]\n(0, 1, \'g\', 1)', {'g': [3]})"
    assert isinstance(make_reward(text), RewardMachine)
    fn = make_reward("objective + 0.5*ltl_goal('F g', labels={'g': [3]})")
    assert fn.name == "objective + ltl_goal"
    with pytest.raises(ValueError, match="nothing says when 'g'"):
        LtlGoal("F g", {"h": [3]})
    with pytest.raises(ValueError, match="expected an observation below 12"):
        RewardWrapper(gymnasium.make("rewardzoo/GridWorld-v0"), LtlGoal("F g", {"g": [12]}))


@pytest.mark.parametrize("text", ["G F g", "F G g"])
def test_a_goal_is_of_finite_traces_again_and_again_is_the_last_step(text: str) -> None:
    """On the corridor S..., two steps to the right of four: at g, when the episode is cut off."""
    for limit, want in ((3, 1.0), (4, 0.0)):
        env = RewardWrapper(
            gymnasium.make(
                "rewardzoo/GridWorld-v0", map="S....", slip=0.0, max_episode_steps=limit
            ),
            LtlGoal(text, {"g": [3]}),
        )
        env.reset(seed=0)
        paid = [env.step(1)[1] for _ in range(limit)]
        assert paid == [0.0] * (limit - 1) + [want]
    with pytest.raises(FormulaError, match="needs a deterministic automaton over infinite words"):
        for_ever(parse(text))


ARRIVE = "0\n[1]\n(0, 1, 'g', 1)"


def test_the_end_of_a_task_ends_the_episode_of_a_single_environment() -> None:
    fn = RewardMachine(ARRIVE, {"g": [3]}, terminate=True)
    inner = gymnasium.make("rewardzoo/GridWorld-v0", map="S....", slip=0.0)
    env = TerminateTask(RewardWrapper(inner, env_reward + fn))
    for _ in range(2):
        env.reset(seed=0)
        steps = [env.step(1) for _ in range(3)]
        assert [x[2] for x in steps] == [False, False, True] and not steps[-1][3]
        assert [x[1] for x in steps] == [0.0, 0.0, 1.0]
        assert steps[-1][4]["episode"] == {"r": 1.0, "objective": 0.0, "l": 3}
    with pytest.raises(ValueError, match="terminate=True: the task of row 0 is over"):
        env.step(1)


def test_the_end_of_a_task_ends_the_rows_of_a_vector_and_an_agent_learns_from_it() -> None:
    def make(mode: str, terminate: bool = True) -> Any:
        fn = RewardMachine(ARRIVE, {"g": [2]}, terminate=terminate)
        envs = gymnasium.make_vec(
            "rewardzoo/GridWorld-v0", 6, map="S..", max_episode_steps=20, autoreset_mode=mode
        )
        return VectorRewardWrapper(envs, fn)

    envs = VectorTerminateTask(make("DISABLED"))
    obs, _ = envs.reset(seed=0)
    actions = torch.tensor([1, 1, 1, 3, 3, 3])
    ended = torch.zeros(6, dtype=torch.bool)
    for _ in range(8):
        obs, reward, terminated, truncated, info = envs.step(actions)
        assert torch.equal(terminated, obs == 2) and torch.equal(reward, (obs == 2).float())
        assert torch.equal(info["_episode"], terminated)
        assert (info["episode"]["r"][terminated] == 1.0).all()
        ended |= terminated
        obs, _ = envs.reset(options={"reset_mask": terminated})
        assert (obs[terminated] == 0).all()
    assert ended[:3].all()
    agent = PPO(
        VectorTerminateTask(VectorAppendRewardState(make("DISABLED"))), num_steps=16, seed=0,
        learning_rate=1e-2, hidden=(8,),
    )  # fmt: skip
    seen: list[float] = []
    agent.learn(6 * 16 * 8, callback=lambda _, m: seen.append(m["rollout/ep_length"]))
    assert 2.0 <= min(seen) and seen[-1] < 12.0  # no episode is played to its limit
    with pytest.raises(ValueError, match="autoreset_mode is SAME_STEP, expected DISABLED"):
        VectorTerminateTask(make("SAME_STEP"))
    with pytest.raises(ValueError, match="wrap it with VectorRewardWrapper"):
        VectorTerminateTask(make("DISABLED").env)
    with pytest.raises(ValueError, match="give it terminate=True"):
        VectorTerminateTask(make("DISABLED", terminate=False))
    going_on = make("SAME_STEP")
    going_on.reset(seed=0)
    with pytest.raises(ValueError, match="wrap it with TerminateTask"):
        for _ in range(20):
            going_on.step(torch.ones(6, dtype=torch.int64))


TYPED = """reward_machine("0\\n[1]\\n(0, 1, 'g', 1)", {'g': [4]}, terminate=True)"""


def test_a_typed_machine_ends_episodes_in_training_evaluation_and_play(
    cli: Any, tmp_path: Any
) -> None:
    """Cell 4 is beside the start, and the maze goes on behind it."""
    where = ["--env", "rewardzoo/GridWorld-v0", "--reward", TYPED, "--num-envs", 8]
    folder = tmp_path / "run"
    args = ["train", *where, "--out", folder, "--set", "num_steps=16"]
    done = cli(*args, "--steps", 256, "--eval-every", 128, "--save", tmp_path / "policy")
    assert done.code == 0, done.err
    done = cli(*args[:-2], "--steps", 512, "--resume")
    assert done.code == 0, done.err
    done = cli("play", "rewardzoo/GridWorld-v0", "--reward", TYPED, "--steps", 2000)
    assert done.code == 0, done.err
    steps = [line for line in done.out.splitlines() if line.startswith("step ")]
    assert " reward 1 " in steps[-1] and not any(" reward 1 " in line for line in steps[:-1])


@pytest.mark.parametrize("env", ["rewardzoo/GridWorld-v0", "FrozenLake-v1"])
def test_environments_of_a_reward_that_ends_episodes_end_where_its_machine_does(env: str) -> None:
    envs = make_envs(env, TYPED, 4)
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.DISABLED
    envs.action_space.seed(0)
    obs, _ = envs.reset(seed=0)
    arrived = 0
    for _ in range(200):
        actions = envs.action_space.sample()
        tensors = isinstance(obs, torch.Tensor)
        obs, _, terminated, truncated, _ = envs.step(torch.tensor(actions) if tensors else actions)
        at, terminated = torch.as_tensor(obs) == 4, torch.as_tensor(terminated)
        assert bool(terminated[at].all())
        arrived += int(at.sum())
        done = terminated | torch.as_tensor(truncated)
        if bool(done.any()):
            obs, _ = envs.reset(options={"reset_mask": done if tensors else done.numpy()})
    assert arrived > 3
    plain = make_envs(env, TYPED.replace(", terminate=True", ""), 4)
    assert isinstance(plain, VectorRewardWrapper)


def test_what_shows_a_machines_state_saves_with_the_agent(tmp_path: Any) -> None:
    def make() -> Any:
        inner = gymnasium.make_vec("rewardzoo/GridWorld-v0", 4, map=CORRIDOR)
        return VectorAppendRewardState(VectorRewardWrapper(inner, RewardMachine(ERRAND, ENDS)))

    whole = PPO(make(), num_steps=8, hidden=(8,)).learn(64)
    part = PPO(make(), num_steps=8, hidden=(8,)).learn(32)
    part.save(tmp_path / "agent.pt")
    again = PPO.load(tmp_path / "agent.pt", env=make()).learn(32, reset_num_timesteps=False)
    for a, b in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)

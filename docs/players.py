"""Who plays in the gallery's films: for each page of environments, somebody who knows how.

Trained agents of the zoo, scripted rules, exact solutions and shipped demonstrations; whoever is
not named here acts at random, and the caption says so. A player takes the unwrapped environment,
already reset, and gives a function from observations to actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
from gaits import Gait
from gaits import stored as gait_of
from heroes import Bridger, Explorer, KeyBearer
from torch.nn.functional import one_hot

Act = Callable[[Any], Any]


class Film(NamedTuple):
    """One episode to be shown."""

    id: str
    caption: str
    player: Callable[[Any], Act]
    arguments: dict[str, Any] = {}  # of gymnasium.make
    seed: int = 0
    rows: slice | None = None  # of pixels; cropped to what is drawn there


def films(page: str, id: str) -> tuple[Film, ...]:
    """What is shown of a page; ``id`` is its first environment."""
    return FILMS.get(page, (Film(id, "random actions", at_random),))


def at_random(env: Any) -> Act:
    """Uniformly."""
    env.action_space.seed(0)
    return lambda obs: env.action_space.sample()


def optimally(env: Any) -> Act:
    """By policy iteration on the exact model."""
    from rewardzoo.agents.tabular import mdp_of, policy_iteration

    _, policy = policy_iteration(mdp_of(env.func), 0.99)
    return lambda obs: int(policy[int(obs)].argmax())


def trained(name: str) -> Callable[[Any], Act]:
    """What an agent of the zoo finds most likely."""

    def player(env: Any) -> Act:
        from zoo import by_policy  # which needs this module

        return by_policy(name)(env)

    return player


def in_turn(*actions: int) -> Callable[[Any], Act]:
    """These actions, again and again."""

    def player(env: Any) -> Act:
        following = cycle(actions)
        return lambda obs: next(following)

    return player


def persuasively(env: Any) -> Act:
    """Show the feature that now moves the judge most to one's own side."""
    judge = env.func.judge

    def act(obs: Any) -> int:
        features, shown, actions = env.state.features[0], env.state.shown[0], env.state.actions[0]
        hidden = (~shown).nonzero().squeeze(1)
        then = shown | one_hot(hidden, len(shown)).to(torch.bool)
        ours, theirs = (judge(features * then, then, a.expand(len(hidden))) for a in actions)
        return int(hidden[(ours - theirs).argmax()])

    return act


def towards_the_fall(env: Any) -> Act:
    """Push to the side to which the pole falls."""
    return lambda obs: int(obs @ np.array([0.1, 0.3, 1.0, 1.0]) > 0)


def along_the_velocity(env: Any) -> Act:
    """Push where the car is going."""
    if env.action_space.shape == ():
        return lambda obs: 2 * int(obs[1] >= 0)
    return lambda obs: np.array([1.0 if obs[1] >= 0 else -1.0], np.float32)


def right_then_up(env: Any) -> Act:
    """To below the goal, then up, and back where a slip has led too far."""

    def act(obs: Any) -> int:
        x, y = (float(v) for v in obs)
        if x < 0.78:
            return 0
        if x > 0.96:
            return 1
        return 2 if y < 0.97 else 3

    return act


def greedily(env: Any) -> Act:
    """The best immediate gain of the set function, at random among equals."""
    from rewardzoo.agents.submodular_solvers import greedy_action

    generator = torch.Generator().manual_seed(0)

    def act(obs: Any) -> int:
        return int(greedy_action(env.func, env.state.memory, env.state.cell, generator))

    return act


def towards_the_track_ahead(env: Any) -> Act:
    """Steer towards the centre line half a metre ahead, at full throttle."""
    track = np.asarray(env.func.track)

    def act(obs: Any) -> Any:
        x, y, heading = (float(v) for v in (env.state.x, env.state.y, env.state.heading))
        near = int(np.square(track - (x, y)).sum(1).argmin())
        ahead = track[(near + 5) % len(track)]
        bearing = math.atan2(ahead[1] - y, ahead[0] - x) - heading
        steer = (bearing + math.pi) % (2 * math.pi) - math.pi
        return np.array([np.clip(1.5 * steer, -1, 1), 1.0], np.float32)

    return act


def every_second_year(env: Any) -> Act:
    """Visit at the first decision and at every second after it."""
    from rewardzoo.envs.knee_oa import policies

    policy = policies.every(env.func, 2)
    return lambda obs: int(policy(torch.as_tensor(obs)[None], env.state)[0])


def by_pid(env: Any) -> Act:
    """Insulin by a PID controller on the sensor's readings."""
    from rewardzoo.envs.glucose.policies import PID

    controller = PID(env.func)
    return lambda obs: controller(torch.as_tensor(obs)[None])[0].numpy()


def as_humans_drive(env: Any) -> Act:
    """The intelligent driver model."""
    from rewardzoo.envs.traffic_merge.policies import IDM

    return lambda obs: IDM()(torch.as_tensor(obs)[None])[0].numpy()


def by_the_call(env: Any) -> Act:
    """Give an attempt up when failure is called."""
    return lambda obs: int(obs[1] > 0.5)


def until(seconds: float) -> Callable[[Any], Act]:
    """Give an attempt up after so many seconds."""

    def player(env: Any) -> Act:
        from rewardzoo.envs.peg_in_hole_contact.model import CONTROL_HZ

        return lambda obs: int(env.process.simulator.ticks[0] >= seconds * CONTROL_HZ)

    return player


def in_its_gait(robot: str) -> Callable[[Any], Act]:
    """As a robot walks after a search (``gaits.py``)."""

    def player(env: Any) -> Act:
        engine = env.engine if hasattr(env, "engine") else env._ant
        return Gait(robot, gait_of(robot), engine)

    return player


def as_demonstrated(env: Any) -> Act:
    """The recorded actions of the shipped expert, from the start that it had."""
    from rewardzoo.data.trajectories import read_episodes

    actions: Iterator[Any] = iter(read_episodes(type(env).__name__)[0].action)
    return lambda obs: next(actions)


_HACK = {"observation_keys": ("chars", "blstats")}
_ZAP_FIRST, _ZAP_SECOND = ("ZAP", "FIRE", "E"), ("ZAP", "RUSH", "E")  # the letters f, g; east
_GAIT = "a gait found by random search"
_MAP = slice(16, 22 * 16)  # the terminal without its messages and its status
_GREEDY = "the greedy policy: the best immediate gain"
_DEMONSTRATED = "the shipped demonstration, TD3"
FILMS: dict[str, tuple[Film, ...]] = {
    "AlignmentCartPole-v0": (
        Film("rewardzoo/AlignmentCartPole-v0", "pushing where the pole falls", towards_the_fall),
    ),
    **{
        page: (Film(f"rewardzoo/{page}", f"the zoo's {name}", trained(name), {}, seed),)
        for page, name, seed in (
            ("CartPole-v0", "ppo-cartpole", 0),
            ("Pendulum-v0", "sac-pendulum", 0),
            ("TomatoWatering-v0", "ppo-tomato", 0),
            ("KneeOA-v0", "double-dqn-knee-oa", 4),
        )
    },
    **{
        f"{name}-v0": (Film(f"rewardzoo/{name}-v0", caption, in_turn(*actions)),)
        for name, caption, actions in (
            ("OneState", "a and b in turn, the best with memory", (0, 1)),
            ("OneChoice", "the best choice", (0,)),
            ("TwoChoices", "the same choice twice", (0, 0)),
            ("LeaveOrStay", "leaving at once", (0,)),
            ("Unvisited", "the best choice", (0,)),
        )
    },
    **{
        f"{name}-v0": (Film(f"rewardzoo/{name}-v0", "whatever moves the judge most", persuasively),)
        for name in ("SepsisDebate", "DebateTrap")
    },
    "AlignmentMaze-v0": (
        Film("rewardzoo/AlignmentMaze-v0", "right, then up", right_then_up, {}, 6),
    ),
    **{
        page: (Film(f"rewardzoo/{page}", "pushing along the velocity", along_the_velocity),)
        for page in ("AlignmentMountainCar-v0", "MountainCar-v0", "MountainCarContinuous-v0")
    },
    "GridWorld-v0": (Film("rewardzoo/GridWorld-v0", "the exact optimum", optimally, {}, 4),),
    "SepsisICU-v0": (Film("rewardzoo/SepsisICU-v0", "the exact optimum", optimally, {}, 9),),
    **{
        f"Submodular{name}-v0": (Film(f"rewardzoo/Submodular{name}-v0", _GREEDY, greedily),)
        for name in (
            "Bandit",
            "Building",
            "Coverage",
            "Design",
            "Facility",
            "Graph",
            "Items",
            "Nests",
            "TwoRooms",
        )
    },
    "SubmodularCar-v0": (
        Film("rewardzoo/SubmodularCar-v0", "steering half a metre ahead", towards_the_track_ahead),
    ),
    "KneeOASingle-v0": (
        Film("rewardzoo/KneeOASingle-v0", "a visit every second year", every_second_year, {}, 1),
    ),
    "Glucose-v0": (Film("rewardzoo/Glucose-v0", "a PID controller", by_pid),),
    "TrafficMerge": (
        Film("rewardzoo/TrafficMerge-v0", "driving as humans do", as_humans_drive, {}, 3),
    ),
    "PegInHole-v0": (
        Film("rewardzoo/PegInHole-v0", "giving up when failure is called", by_the_call, {}, 1),
    ),
    "PegInHoleContact": (
        Film(
            "rewardzoo/PegInHoleContact-v0",
            "giving up after 8.5 seconds, the best timer",
            until(8.5),
            {"stride": 0.2},
            4,
        ),
    ),
    **{
        name: (Film(f"rewardzoo/{name}-v0", _DEMONSTRATED, as_demonstrated),)
        for name in ("Hopper", "InvertedPendulum", "InvertedDoublePendulum")
    },
    **{
        page: (Film(f"rewardzoo/{page}-v0", _GAIT, in_its_gait(robot)),)
        for page, robot in (
            ("HalfCheetah", "HalfCheetah"),
            ("AlignmentHalfCheetah", "HalfCheetah"),
            ("Walker2d", "Walker2d"),
            ("Ant", "Ant"),
            ("SubmodularAnt", "Ant"),
        )
    },
    "NetHack": tuple(
        Film(f"rewardzoo/{name}-v0", "looking for the stairs", Explorer, _HACK, seed, _MAP)
        for name, seed in (
            ("MiniHackRoomRandom15x15", 4),
            ("MiniHackMazeWalk9x9", 2),
            ("MiniHackSimpleCrossingS11N5", 0),
            ("MiniHackLavaCrossingS9N1", 0),
            ("MiniHackCorridorR3", 1),
            ("MiniHackMultiRoomN6OpenDoor", 1),
            ("MiniHackExploreMazeEasy", 5),
            ("MiniHackLabyrinthSmall", 0),
            ("MiniHackMementoShortF2", 1),
            ("MiniHackClosedDoor", 2),
            ("MiniHackHideNSeek", 0),
            ("MiniHackCorridorBattle", 0),
            ("NetHackStaircase", 6),
        )
    )
    + tuple(
        Film(f"rewardzoo/MiniHack{name}-v0", caption, hero, _HACK, seed, _MAP)
        for name, caption, hero, seed in (
            ("KeyRoomS5", "fetching the key first", KeyBearer, 0),
            ("River", "building a bridge of boulders", Bridger, 1),
            ("QuestEasy", "freezing the lava first", partial(Explorer, first=_ZAP_SECOND), 0),
            ("WoDEasyFull", "zapping the wand of death", partial(Explorer, first=_ZAP_FIRST), 0),
        )
    )
    # Nobody here can play it: the level is shown.
    + (Film("rewardzoo/MiniHackSokoban1a-v0", "random actions", at_random, rows=_MAP),),
}

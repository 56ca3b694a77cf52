"""Greedy, exact and relaxed solutions of submodular walks: baselines, optima and bounds.

For the walks of ``rewardzoo.envs.submodular``: all take their dynamics (a ``Walk``), and all values
are of ``F(visited)``, the start included. Nemhauser, Wolsey, Fisher (1978), "An analysis of
approximations for maximizing submodular set functions"; Minoux (1978), "Accelerated greedy
algorithms"; Prajapat et al. (2024), "Submodular reinforcement learning".
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.rewards.submodular import SetFunction

MAX_STATES = 1_000_000


class TooLarge(ValueError):
    """An exact solution would take too many states."""


# ---- walks ---------------------------------------------------------------------------------------


def greedy_path(walk: Any, tries: int = 64, seed: int = 0) -> tuple[list[int], float]:
    """The best path of ``tries`` that take the best immediate gain at every step, and its F.

    They differ in what they do among equal gains, which is random, as is the start if there are
    several.

    Args:
        walk: dynamics without slip.
        tries: how many paths.
        seed: of the choices among equals.
    """
    paths, values = _play(walk, tries, seed, greedy_action)
    best = int(values.argmax())
    return paths[best].tolist(), float(values[best])


def greedy_value(walk: Any, rows: int = 256, seed: int = 0) -> float:
    """Mean F over ``rows`` episodes of the policy that takes the best immediate gain.

    With a slip that is the same for all actions, that is also the best expected gain.
    """
    return float(_play(walk, rows, seed, greedy_action)[1].mean())


def greedy_action(walk: Any, memory: Any, cell: Tensor, generator: torch.Generator) -> Tensor:
    """The action with the best gain in each row, (N,) int64, at random among equals."""
    targets = torch.tensor(walk.neighbours)[cell].unbind(1)
    gains = torch.stack([walk.set_function.gain(memory, target) for target in targets], 1)
    # In steps of 1e-9, so that equal gains are equal; the noise decides among these.
    return ((gains * 1e9).round() + 0.5 * torch.rand(gains.shape, generator=generator)).argmax(1)


def random_value(walk: Any, rows: int = 1024, seed: int = 0) -> float:
    """Mean F of the uniform policy over ``rows`` episodes."""

    def act(walk: Any, memory: Any, cell: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randint(walk.actions, cell.shape, generator=generator)

    return float(_play(walk, rows, seed, act)[1].mean())


def _play(walk: Any, rows: int, seed: int, act: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Paths (rows, horizon) and F (rows,) of a policy."""
    generator = torch.Generator().manual_seed(seed)
    function, moves = walk.set_function, torch.tensor(walk.neighbours)
    starts = torch.tensor(walk.starts)
    cell = starts[torch.randint(len(starts), (rows,), generator=generator)]
    memory, value = function.add(function.empty(rows), cell)
    path = [cell]
    for _ in range(walk.horizon - 1):
        action = act(walk, memory, cell, generator)
        slipped = torch.rand(rows, generator=generator) < walk.params.slip
        other = torch.randint(walk.actions, (rows,), generator=generator)
        cell = moves[cell, torch.where(slipped, other, action)]
        memory, gain = function.add(memory, cell)
        value = value + gain
        path.append(cell)
    return torch.stack(path, 1), value


def brute_force(walk: Any, max_states: int = MAX_STATES) -> tuple[list[int], float]:
    """The best path of a walk without slip and with one start, and its F.

    Breadth first over pairs of place and what was visited; paths that end in equal pairs are
    merged.

    Raises:
        TooLarge: beyond ``max_states`` pairs at one time.
        ValueError: for a walk that slips, or has several starts.
    """
    if walk.params.slip > 0 or len(walk.starts) > 1:
        raise ValueError("brute_force: expected slip=0 and one start; use dp_augmented")
    function, signature = walk.set_function, walk.set_function.signature
    first = (walk.starts[0],)
    layer: dict[tuple[int, Hashable], tuple[int, ...]] = {(first[0], signature(first)): first}
    for _ in range(walk.horizon - 1):
        following: dict[tuple[int, Hashable], tuple[int, ...]] = {}
        for (cell, _), path in layer.items():
            for target in set(walk.neighbours[cell].tolist()):
                longer = (*path, target)
                following.setdefault((target, signature(longer)), longer)
        _check_size(len(following), max_states)
        layer = following
    best = max(layer.values(), key=function.value)
    return list(best), function.value(best)


@dataclass(frozen=True)
class Tree:
    """All that can happen in a walk, place and visited set merged, layer by layer.

    Args:
        cells: for each time, (n_t,) int64, the place of each node.
        moves: for each time but the last, (n_t, A) int64, the node of the next layer.
        values: (n_T,) float64, F of the last layer's nodes.
        initial: (n_0,) float64, the chance of the first nodes.
        slip: of the walk.
    """

    cells: list[Tensor]
    moves: list[Tensor]
    values: Tensor
    initial: Tensor
    slip: float

    @property
    def size(self) -> int:
        """Nodes in all."""
        return sum(len(c) for c in self.cells)


def tree_of(walk: Any, max_states: int = MAX_STATES) -> Tree:
    """Enumerate a walk.

    Raises:
        TooLarge: beyond ``max_states`` nodes.
    """
    signature = walk.set_function.signature
    paths = [(s,) for s in walk.starts]
    index = {(p[-1], signature(p)): i for i, p in enumerate(paths)}
    cells, moves = [torch.tensor([p[-1] for p in paths])], []
    total = len(paths)
    for _ in range(walk.horizon - 1):
        index, longer, table = {}, [], []
        for path in paths:
            row = []
            for target in walk.neighbours[path[-1]].tolist():
                new = (*path, target)
                key = (target, signature(new))
                if key not in index:
                    index[key] = len(longer)
                    longer.append(new)
                row.append(index[key])
            table.append(row)
        total += len(longer)
        _check_size(total, max_states)
        paths = longer
        cells.append(torch.tensor([p[-1] for p in paths]))
        moves.append(torch.tensor(table))
    values = torch.tensor([walk.set_function.value(p) for p in paths], dtype=torch.float64)
    initial = torch.full((len(walk.starts),), 1.0 / len(walk.starts), dtype=torch.float64)
    return Tree(cells, moves, values, initial, float(walk.params.slip))


def dp_augmented(walk: Any, max_states: int = MAX_STATES) -> float:
    """The best expected F of any policy, history dependent ones included.

    Backward induction over time, place and what was visited.

    Raises:
        TooLarge: beyond ``max_states`` of these.
    """
    tree = tree_of(walk, max_states)
    value = tree.values
    for moves in reversed(tree.moves):
        q = value[moves]
        value = (1.0 - tree.slip) * q.amax(1) + tree.slip * q.mean(1)
    return float(value @ tree.initial)


def exact_return(tree: Tree, policy: Tensor) -> Tensor:
    """Expected F of a time-indexed Markov policy (horizon - 1, cells, A), differentiable."""
    value = tree.values
    for t in range(len(tree.moves) - 1, -1, -1):
        chosen = policy[t][tree.cells[t]]
        actual = (1.0 - tree.slip) * chosen + tree.slip / chosen.shape[1]
        value = (actual * value[tree.moves[t]]).sum(1)
    return value @ tree.initial


def best_markov(
    walk: Any, restarts: int = 8, steps: int = 300, seed: int = 0, max_policies: int = 100_000
) -> float:
    """The best expected F of policies of place and time.

    Some deterministic one is best (F's expectation is linear in each place's and time's choice), so
    up to ``max_policies`` of them are tried one by one; where there are more, gradient ascent on
    the exact return from ``restarts`` random policies gives a lower bound.
    """
    tree = tree_of(walk)
    spots = [(t, int(c)) for t, cells in enumerate(tree.cells[:-1]) for c in cells.unique()]
    shape = (walk.horizon - 1, walk.cells, walk.actions)
    if walk.actions ** len(spots) <= max_policies:
        best = -np.inf
        for choice in itertools.product(range(walk.actions), repeat=len(spots)):
            policy = torch.zeros(shape, dtype=torch.float64)
            for (t, cell), action in zip(spots, choice, strict=True):
                policy[t, cell, action] = 1.0
            best = max(best, float(exact_return(tree, policy)))
        return best
    generator = torch.Generator().manual_seed(seed)
    best = -np.inf
    for _ in range(restarts):
        logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.2)
        for _ in range(steps):
            value = exact_return(tree, logits.softmax(-1))
            optimizer.zero_grad()
            (-value).backward()
            optimizer.step()
        certain = torch.nn.functional.one_hot(logits.argmax(-1), walk.actions).double()
        best = max(best, float(exact_return(tree, certain)))
    return best


def modular_bound(walk: Any) -> float:
    """An upper bound on the expected F of any policy: every step is paid as if it were the first.

    ``F(S) <= sum of F({s})``, maximised by dynamic programming over place and time, and never more
    than F of all cells.
    """
    weights = walk.set_function.singles()
    moves, slip = torch.tensor(walk.neighbours), float(walk.params.slip)
    value = torch.zeros(walk.cells, dtype=torch.float64)
    for _ in range(walk.horizon - 1):
        q = (weights + value)[moves]
        value = (1.0 - slip) * q.amax(1) + slip * q.mean(1)
    start = torch.tensor(walk.starts)
    return min(float((weights + value)[start].mean()), _whole(walk.set_function))


def step_bound(walk: Any) -> float:
    """An upper bound by what one move can add: for the walks whose moves reach the next cell.

    A step from ``a`` to ``b`` adds at most ``F(b | {a})``, since ``a`` was visited; maximised by
    dynamic programming. With overlapping footprints it is far below ``modular_bound``.
    """
    function = walk.set_function
    moves, slip = torch.tensor(walk.neighbours), float(walk.params.slip)
    cells = torch.arange(walk.cells)
    memory, alone = function.add(function.empty(walk.cells), cells)
    gains = torch.stack([function.gain(memory, target) for target in moves.unbind(1)], 1)
    value = torch.zeros(walk.cells, dtype=torch.float64)
    for _ in range(walk.horizon - 1):
        q = gains + value[moves]
        value = (1.0 - slip) * q.amax(1) + slip * q.mean(1)
    start = torch.tensor(walk.starts)
    return min(float((alone + value)[start].mean()), _whole(function))


def _whole(function: SetFunction) -> float:
    return function.value(range(function.size))


def _check_size(count: int, limit: int) -> None:
    if count > limit:
        raise TooLarge(
            f"max_states={limit}: the walk has more pairs of place and visited set; a smaller "
            "grid or horizon can be solved exactly"
        )


# ---- sets ----------------------------------------------------------------------------------------


def greedy_set(function: SetFunction, count: int) -> tuple[list[int], float]:
    """``count`` elements, each the one that adds most; at least ``1 - 1/e`` of the optimum."""
    memory, value = function.empty(1), 0.0
    chosen: list[int] = []
    for _ in range(count):
        gains = function.gains(memory)[0]
        chosen.append(int(gains.argmax()))
        value += float(gains.max())
        memory, _ = function.add(memory, torch.tensor(chosen[-1:]))
    return chosen, value


def lazy_greedy(function: SetFunction, count: int) -> tuple[list[int], float]:
    """``greedy_set``, asking for gains only where an old one, which bounds it, is the best."""
    memory, value = function.empty(1), 0.0
    chosen: list[int] = []
    queue = [(-g, v, 0) for v, g in enumerate(function.singles().tolist())]
    heapq.heapify(queue)
    for _ in range(count):
        while True:
            bound, v, asked = heapq.heappop(queue)
            if asked == len(chosen):
                break
            gain = float(function.gain(memory, torch.tensor([v])))
            heapq.heappush(queue, (-gain, v, len(chosen)))
        chosen.append(v)
        value -= bound
        memory, _ = function.add(memory, torch.tensor([v]))
        heapq.heappush(queue, (bound, v, -1))
    return chosen, value


def greedy_partition(
    function: SetFunction, parts: Sequence[Sequence[int]]
) -> tuple[list[int], float]:
    """One element of each part in turn, the one that adds most; at least 1/2 of the optimum."""
    memory, value = function.empty(1), 0.0
    chosen: list[int] = []
    for part in parts:
        gains = function.gains(memory)[0][torch.tensor(part)]
        chosen.append(int(part[int(gains.argmax())]))
        value += float(gains.max())
        memory, _ = function.add(memory, torch.tensor(chosen[-1:]))
    return chosen, value


def best_set(function: SetFunction, count: int) -> tuple[list[int], float]:
    """The best ``count`` elements, by trying all."""
    best = max(itertools.combinations(range(function.size), count), key=function.value)
    return list(best), function.value(best)


def best_partition(function: SetFunction, parts: Sequence[Sequence[int]]) -> float:
    """The best choice of one element of each part, by trying all."""
    return max(function.value(choice) for choice in itertools.product(*parts))


def multilinear(function: SetFunction, probs: Tensor) -> Tensor:
    """Expected F of independent draws, one from each row of ``probs`` (k, size), differentiable.

    By enumeration of all ``size ** k`` outcomes.
    """
    total = probs.new_zeros(())
    for outcome in itertools.product(range(function.size), repeat=len(probs)):
        chance = torch.stack([probs[i, v] for i, v in enumerate(outcome)]).prod()
        total = total + chance * function.value(outcome)
    return total

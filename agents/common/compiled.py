"""Loops of training, compiled: every turn of a rollout or of an update inside one graph.

With few environments, training costs what Python and the dispatcher take for each small operation.
``Loop`` traces one turn of a loop to a graph of plain tensor operations (differentiation included)
and compiles the whole loop around it, so that one call stands for thousands of operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Tensors = list[Tensor]


class Loop:
    """``carry, out = step(carry, x, fixed)`` for every row ``x`` of ``xs``, as one compiled graph.

    The first call traces and compiles, for the shapes that it is given; later calls must have the
    same ones. Other tensors that ``step`` reads (tables, buffers) are read anew at each call, as
    long as they stay the same objects.

    Args:
        step: a function of three lists of tensors to two. It may differentiate inside; it must not
            look at a tensor's value, nor change a tensor in place.
    """

    def __init__(
        self, step: Callable[[Tensors, Tensors, Tensors], tuple[Tensors, Tensors]]
    ) -> None:
        self._step = step
        self._program: Callable[..., tuple[Tensors, Tensors]] | None = None
        self._moves: list[bool] = []  # which parts of the carry a turn changes
        self._constants: Tensors = []

    def __call__(self, carry: Tensors, xs: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """The carry after the last row, and what each row gave, stacked along a new first axis."""
        if self._program is None:
            self._program = self._compile(carry, xs, fixed)
        moving, still = _split(self._moves, carry)
        # What goes into a loop must not be views of one tensor.
        moving = [c.clone(memory_format=torch.contiguous_format) for c in moving]
        with torch.no_grad():
            rest = _apart([*still, *fixed, *self._constants])
            moved, out = self._program(moving, xs, rest)
        return _merge(self._moves, moved, still), out

    def _compile(self, carry: Tensors, xs: Tensors, fixed: Tensors) -> Callable[..., Any]:
        from torch._higher_order_ops.scan import scan

        turn = self._trace(carry, [x[0] for x in xs], fixed)

        def program(moving: Tensors, xs: Tensors, rest: Tensors) -> tuple[Tensors, Tensors]:
            def body(moving: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
                moved, out = turn(*moving, *x, *rest)
                # What a loop carries, takes and gives must not be one tensor.
                return [m.clone() for m in moved], [o.clone() for o in out]

            return scan(body, moving, xs)  # type: ignore[no-any-return]

        # The C++ wrapper: calling the kernels from Python would cost more than most of them.
        options = {"cpp_wrapper": True} if xs[0].device.type == "cpu" else None
        return torch.compile(program, fullgraph=True, dynamic=False, options=options)

    def _trace(self, carry: Tensors, x: Tensors, fixed: Tensors) -> torch.fx.GraphModule:
        """One turn as a graph of (moving carry, x, still carry, fixed, constants)."""
        from torch.fx.experimental.proxy_tensor import make_fx

        def turn(*tensors: Tensor) -> tuple[Tensors, Tensors]:
            rest = iter(tensors)
            carry_, x_, fixed_ = ([next(rest) for _ in part] for part in (carry, x, fixed))
            after, out = self._step(carry_, x_, fixed_)
            self._moves = [a is not c for a, c in zip(after, carry_, strict=True)]
            return _split(self._moves, after)[0], out

        with torch.no_grad():
            graph = make_fx(turn)(*carry, *x, *fixed)
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        moving, still = _split(self._moves, nodes[: len(carry)])
        order = [*moving, *nodes[len(carry) : len(carry) + len(x)], *still]
        order += nodes[len(carry) + len(x) :]
        for node in graph.graph.nodes:
            if node.op == "get_attr":
                self._constants.append(getattr(graph, node.target))
                with graph.graph.inserting_before(nodes[0]):
                    constant = graph.graph.placeholder(node.target)
                node.replace_all_uses_with(constant)
                order.append(constant)
        for node in reversed(order):
            first = next(iter(graph.graph.nodes))
            if node is not first:
                first.prepend(node)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph


def _apart(tensors: Tensors) -> Tensors:
    """The tensors, copied where one shares its memory with another."""
    memory = [t.untyped_storage()._cdata for t in tensors]
    return [t.clone() if memory.count(m) > 1 else t for t, m in zip(tensors, memory, strict=True)]


def _split(mask: list[bool], items: list[Any]) -> tuple[list[Any], list[Any]]:
    pairs = list(zip(mask, items, strict=True))
    return [x for yes, x in pairs if yes], [x for yes, x in pairs if not yes]


def _merge(mask: list[bool], yes: list[Any], no: list[Any]) -> list[Any]:
    chosen, others = iter(yes), iter(no)
    return [next(chosen) if m else next(others) for m in mask]


def adam(
    parameters: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    count: Tensor,
    lr: Tensor,
    eps: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> Tensors:
    """A step of ``torch.optim.Adam`` as a pure function.

    Returns:
        The new parameters, ``mean``, ``square`` and ``count``.

    Paper: Kingma, Ba (2015), "Adam: a method for stochastic optimization", algorithm 1.
    """
    count = count + 1.0
    mean = mean + (1.0 - beta1) * (grad - mean)
    square = beta2 * square + (1.0 - beta2) * grad * grad
    steps = count.to(torch.float64)
    size = (lr / (1.0 - beta1**steps)).to(grad.dtype)
    scale = (1.0 - beta2**steps).sqrt().to(grad.dtype)
    return [parameters - size * mean / (square.sqrt() / scale + eps), mean, square, count]

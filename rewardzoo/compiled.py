"""Programs: functions of tensors, and whole loops of them, compiled into one call.

With few environments, a step costs what Python and the dispatcher take for each small operation,
not the arithmetic. A function is traced to a graph of plain tensor operations, differentiation
included, and the graph is compiled: one call then stands for hundreds of operations (``Program``)
or for hundreds of turns of a loop (``Loop``).
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

Tensors = list[Tensor]
Turn = tuple[Tensors, Tensors]  # of a loop: the carry after it, and what it gave


def traced(
    function: Callable[..., Any], *example: Tensor
) -> tuple[torch.fx.GraphModule, Tensors, TreeSpec]:
    """A function of tensors as a graph of plain operations.

    Args:
        function: looks at no tensor's value; returns a tree of tensors.
        *example: tensors of the shapes, dtypes and device that it will be given.

    Returns:
        The graph, a function of ``(*example, *constants)`` to the leaves of what ``function``
        returns; the other tensors that ``function`` reads, in order; the shape of the tree.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    specs: list[TreeSpec] = []

    def flat(*tensors: Tensor) -> Tensors:
        leaves, spec = tree_flatten(function(*tensors))
        specs.append(spec)
        return leaves

    with torch.no_grad():
        graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)
    nodes = graph.graph
    last = [node for node in nodes.nodes if node.op == "placeholder"][-1]
    constants: Tensors = []
    for node in nodes.nodes:
        if node.op == "get_attr":
            constants.append(getattr(graph, node.target))
            with nodes.inserting_after(last):
                last = nodes.placeholder(f"constant_{len(constants)}")
            last.meta["val"] = constants[-1]
            node.replace_all_uses_with(last)
            nodes.erase_node(node)
    graph.recompile()
    return graph, constants, specs[-1]


class Program:
    """``function``, compiled once for each combination of shapes and dtypes that it is given.

    Other tensors that it reads (tables, weights) are read anew at each call, as long as they stay
    the same objects. It must not look at a tensor's value, nor change a tensor in place.

    Args:
        function: of tensors to a tree of tensors.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *tensors: Tensor) -> Any:
        """What ``function`` returns."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self(*tensors)
        if not all([t.is_contiguous() for t in tensors]):
            tensors = tuple([t.contiguous() for t in tensors])
        # The compiled code trusts what it is given: this stands between it and another dtype.
        signature = tuple([(t.shape, t.dtype) for t in tensors])
        compiled = self._compiled.get(signature)
        if compiled is None:
            compiled = self._compiled[signature] = self._compile(*tensors)
        return compiled(*tensors)

    def _compile(self, *tensors: Tensor) -> Callable[..., Any]:
        masks: list[int] = []

        def function(*tensors: Tensor) -> Any:
            leaves, spec = tree_flatten(self._function(*tensors))
            leaves, masks[:] = _packed(leaves)
            return tree_unflatten(leaves, spec)

        graph, constants, spec = traced(function, *tensors)
        # Not ``torch.compile``: its guards would cost more than a small graph.
        call = torch._inductor.compile(
            graph, [*tensors, *constants], options=_options(tensors[0].device)
        )
        build = unflattener(spec, masks)
        return lambda *tensors: build(call(*tensors, *constants))


class Loop:
    """``carry, out = step(carry, x, fixed)`` for every row ``x`` of ``xs``, as one program.

    Compiled at the first call, for its shapes. Other tensors that ``step`` reads are read anew at
    each call, as long as they stay the same objects.

    Args:
        step: a function of three lists of tensors to two. It may differentiate inside; it must not
            look at a tensor's value, nor change a tensor in place.
    """

    def __init__(self, step: Callable[[Tensors, Tensors, Tensors], Turn]) -> None:
        self._step = step
        self._program: Callable[..., Turn] | None = None
        self._moves: list[bool] = []  # which parts of the carry a turn changes
        self._masks: tuple[list[int], list[int]] = ([], [])  # packed, of the carry and of the rest
        self._constants: Tensors = []

    def __call__(self, carry: Tensors, xs: Tensors, fixed: Tensors) -> Turn:
        """The carry after the last row, and what each row gave, stacked along a new first axis."""
        if self._program is None:
            self._program = self._compile(carry, xs, fixed)
        moving, still = _split(self._moves, _as_bytes(carry))
        # What goes into a loop must not be views of one tensor.
        moving = [c.clone(memory_format=torch.contiguous_format) for c in moving]
        with torch.no_grad():
            rest = _apart([*still, *fixed, *self._constants])
            moved, out = self._program(moving, xs, rest)
        carried, given = self._masks
        return _as_masks(_merge(self._moves, moved, still), carried), _as_masks(out, given)

    def _compile(self, carry: Tensors, xs: Tensors, fixed: Tensors) -> Callable[..., Any]:
        from torch._higher_order_ops.scan import scan

        def turn(*tensors: Tensor) -> Turn:
            rest = iter(tensors)
            before, x, given = ([next(rest) for _ in part] for part in (carry, xs, fixed))
            before = [b != 0 if _many(c) else b for b, c in zip(before, carry, strict=True)]
            after, out = self._step(before, x, given)
            self._moves = [a is not b for a, b in zip(after, before, strict=True)]
            (after, carried), (out, gave) = _packed(after), _packed(out)
            self._masks = carried, gave
            return _split(self._moves, after)[0], out

        example = [*_as_bytes(carry), *(x[0] for x in xs), *fixed]
        graph, self._constants, spec = traced(turn, *example)
        moves = self._moves
        kept = moves.count(False)

        def program(moving: Tensors, xs: Tensors, rest: Tensors) -> Turn:
            def body(moving: Tensors, x: Tensors) -> Turn:
                before = _merge(moves, moving, rest[:kept])
                # What a loop carries, takes and gives must not be one tensor.
                leaves = [leaf.clone() for leaf in graph(*before, *x, *rest[kept:])]
                return cast(Turn, tree_unflatten(leaves, spec))

            return cast(Turn, scan(body, moving, xs))

        # A code object of its own: torch.compile counts the versions of a code object, and refuses
        # more than a few.
        own = types.FunctionType(
            program.__code__.replace(), globals(), "program", None, program.__closure__
        )
        return torch.compile(own, fullgraph=True, dynamic=False, options=_options(carry[0].device))


def flattener(spec: TreeSpec) -> Callable[[Any], Tensors]:
    """``tree_flatten`` for trees of one shape, as straight code: a tenth of its time.

    Args:
        spec: of a tree of tuples, named tuples, lists and dicts.
    """
    paths: list[str] = []

    def walk(spec: TreeSpec, path: str) -> None:
        if spec.is_leaf():
            paths.append(path)
        keys = spec.context if spec.type is dict else range(spec.num_children)
        for key, child in zip(keys, spec.children(), strict=True):
            walk(child, f"{path}[{key!r}]")

    walk(spec, "tree")
    return cast("Callable[[Any], Tensors]", eval(f"lambda tree: [{', '.join(paths)}]"))


def unflattener(spec: TreeSpec, masks: Sequence[int] = ()) -> Callable[[Sequence[Tensor]], Any]:
    """``tree_unflatten`` for trees of one shape, as straight code.

    Args:
        spec: of a tree of tuples, named tuples, lists and dicts.
        masks: which leaves are bytes that stand for bools.
    """
    kinds: dict[str, Any] = {"bool": torch.bool}
    count = itertools.count()

    def build(spec: TreeSpec) -> str:
        if spec.is_leaf():
            i = next(count)
            return f"leaves[{i}].view(bool)" if i in masks else f"leaves[{i}]"
        children = [build(child) for child in spec.children()]
        if spec.type is dict:
            pairs = zip(spec.context, children, strict=True)
            return "{" + ", ".join(f"{key!r}: {child}" for key, child in pairs) + "}"
        inside = "".join(f"{child}, " for child in children)
        if spec.type in (tuple, list):
            return f"({inside})" if spec.type is tuple else f"[{inside}]"
        name = f"kind{len(kinds)}"
        kinds[name] = spec.context  # the class of a named tuple
        return f"{name}({inside})"

    return cast("Callable[[Sequence[Tensor]], Any]", eval(f"lambda leaves: {build(spec)}", kinds))


# Compiled code for the CPU writes bools one by one: 8 ns each, which for thousands of rows is more
# than all the arithmetic of a step. It writes bytes by the dozen, and a view makes bools of them.
_MANY = 128


def _many(tensor: Tensor) -> bool:
    return tensor.dtype is torch.bool and tensor.numel() >= _MANY


def _packed(tensors: Tensors) -> tuple[Tensors, list[int]]:
    """The tensors with large masks written as bytes, and where these are; to be compiled."""
    masks = [i for i, t in enumerate(tensors) if _many(t)]
    # By way of int64: the way from a mask to bytes is as slow as that to bools. What is given
    # twice is written once.
    as_bytes = {id(t): torch.where(t, 1, 0).to(torch.uint8) for t in tensors if _many(t)}
    return [as_bytes.get(id(t), t) for t in tensors], masks


def _as_bytes(tensors: Sequence[Tensor]) -> Tensors:
    """Large masks seen as bytes."""
    return [t.view(torch.uint8) if _many(t) else t for t in tensors]


def _as_masks(tensors: Sequence[Tensor], masks: list[int]) -> Tensors:
    return [t.view(torch.bool) if i in masks else t for i, t in enumerate(tensors)]


def _options(device: torch.device) -> dict[str, Any]:
    # Calling the kernels from Python would cost more than most of them.
    return {"cpp_wrapper": True} if device.type == "cpu" else {}


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

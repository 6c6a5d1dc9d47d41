"""Which device holds which part of a run's state: rules by name, then a split by size.

A rule is ``(pattern, axes)``: the first pattern found in a leaf's path decides its axes, one name
a dimension (``-`` for none). Where no rule names ``fsdp``, leaves of at least ``fsdp_min_size``
numbers are also split over ``fsdp``, along their longest dimension that divides evenly. A leaf's
optimizer moments and moving average carry its path, so they are split as it is.

References:
    Rajbhandari et al. 2020, arXiv 1910.02054, §5 (ZeRO stage 3); Shoeybi et al. 2019,
    arXiv 1909.08053, §3 (columns of the first product, rows of the second).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from memjax.core.mesh import AXES, make_mesh, replicated
from memjax.core.names import FSDP_MIN_SIZE, RULES, Rule

BY_SIZE, WHOLE = "by size", "whole"


class Placed(NamedTuple):
    """Where one leaf lies, and why.

    Attributes:
        path: Its names, joined by slashes.
        shape: Its shape.
        spec: Mesh axes by dimension.
        rules: What decided: a rule's pattern, ``by size``, both, or ``whole``.
    """

    path: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    rules: tuple[str, ...]


def check_rules(rules: Sequence[Sequence[Any]]) -> tuple[Rule, ...]:
    """Returns rules as tuples.

    Raises:
        ValueError: Naming the rule that is none, its pattern, or an axis that does not exist.
    """
    checked = []
    for rule in rules:
        if len(rule) != 2 or not isinstance(rule[0], str) or isinstance(rule[1], str):
            raise ValueError(
                f"the sharding rule {rule!r} is none: expected (pattern, (axis, ...)), with '-' "
                "where a dimension is whole."
            )
        pattern, axes = rule[0], tuple(rule[1])
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"the sharding rule {pattern!r} is no regular expression ({error}): mend it."
            ) from error
        for axis in axes:
            if axis != "-" and axis not in AXES:
                raise ValueError(
                    f"the sharding rule {pattern!r} names the axis {axis!r}, expected one of "
                    f"{AXES} or '-'."
                )
        checked.append((pattern, axes))
    return tuple(checked)


def leaf_path(path: Sequence[Any]) -> str:
    """Returns a leaf's names joined by slashes: ``opt_state/1/0/mu/net/conv_in/kernel``."""
    names = (str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)
    return "/".join(names)


def _by_rule(path: str, shape: tuple[int, ...], rules: Sequence[Rule], mesh: Mesh):
    """Returns the axes by dimension and the pattern that decided, or none of both."""
    for pattern, axes in rules:
        if not re.search(pattern, path):
            continue
        if len(axes) > len(shape):
            raise ValueError(
                f"the sharding rule {pattern!r} names {len(axes)} axes, but {path} has shape "
                f"{shape}: give one axis a dimension."
            )
        for size, axis in zip(shape, axes, strict=False):
            if axis != "-" and size % mesh.shape[axis]:
                raise ValueError(
                    f"parallel.{axis}={mesh.shape[axis]} does not divide {size} of {path} "
                    f"{shape} (rule {pattern!r}): choose a divisor, or leave the rule out."
                )
        named = [None if axis == "-" else axis for axis in axes]
        return [*named, *[None] * (len(shape) - len(axes))], pattern
    return [None] * len(shape), None


def placed(
    path: str, shape: tuple[int, ...], rules: Sequence[Rule], mesh: Mesh, min_size: int
) -> Placed:
    """Decides where one leaf lies."""
    axes, pattern = _by_rule(path, shape, rules, mesh)
    decided = [] if pattern is None else [pattern]
    ruled_whole = pattern is not None and not any(axes)
    parts = mesh.shape["fsdp"]
    if parts > 1 and math.prod(shape) >= min_size and "fsdp" not in axes and not ruled_whole:
        free = [i for i, size in enumerate(shape) if axes[i] is None and size % parts == 0]
        if free:
            axes[max(free, key=lambda i: (shape[i], i))] = "fsdp"
            decided.append(BY_SIZE)
    while axes and axes[-1] is None:
        axes.pop()
    return Placed(path, shape, PartitionSpec(*axes), tuple(decided) or (WHOLE,))


def placements(
    tree: PyTree,
    mesh: Mesh,
    rules: Sequence[Rule] = RULES,
    fsdp_min_size: int = FSDP_MIN_SIZE,
) -> list[Placed]:
    """Decides where every leaf of a tree (of arrays or their shapes) lies.

    Raises:
        ValueError: If a rule does not fit a leaf it matches.
    """
    return [
        placed(leaf_path(path), tuple(leaf.shape), rules, mesh, fsdp_min_size)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def shardings_of(
    tree: PyTree,
    mesh: Mesh,
    rules: Sequence[Rule] = RULES,
    fsdp_min_size: int = FSDP_MIN_SIZE,
) -> PyTree:
    """Returns the tree with a sharding in place of every leaf; see :func:`placements`."""
    decided = placements(tree, mesh, rules, fsdp_min_size)
    leaves = [NamedSharding(mesh, one.spec) for one in decided]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def unused_rules(decided: Sequence[Placed], rules: Sequence[Rule] = RULES) -> list[str]:
    """Returns the patterns that decided about no leaf."""
    used = {name for one in decided for name in one.rules}
    return [pattern for pattern, _ in rules if pattern not in used]


def _without_fsdp(sharding: NamedSharding) -> NamedSharding:
    axes = [None if axis == "fsdp" else axis for axis in sharding.spec]
    return NamedSharding(sharding.mesh, PartitionSpec(*axes))


class Sharding(NamedTuple):
    """Mesh and rules of a run; what a step needs to know of them.

    Attributes:
        mesh: The devices.
        rules: See the module.
        fsdp_min_size: Leaves of fewer numbers stay whole.
    """

    mesh: Mesh
    rules: tuple[Rule, ...] = RULES
    fsdp_min_size: int = FSDP_MIN_SIZE

    def of(self, tree: PyTree) -> PyTree:
        """Returns the shardings of a tree of weights or a state."""
        return shardings_of(tree, self.mesh, self.rules, self.fsdp_min_size)

    @property
    def whole(self) -> NamedSharding:
        return replicated(self.mesh)

    def gather(self, params: PyTree) -> PyTree:
        """Brings the parts of each weight together where it is used.

        The gradient goes back split: summing over devices and splitting are one exchange.
        Without this the compiler may move activations instead of weights.
        """
        if self.mesh.shape["fsdp"] == 1:
            return params
        return jax.tree.map(_gathered, params, self.of(params))


def _gathered(leaf: Any, sharding: NamedSharding) -> Any:
    whole = _without_fsdp(sharding)

    @jax.custom_vjp
    def gather(x: Any) -> Any:
        return jax.lax.with_sharding_constraint(x, whole)

    def forward(x: Any) -> tuple[Any, None]:
        return gather(x), None

    def backward(_: None, gradient: Any) -> tuple[Any]:
        return (jax.lax.with_sharding_constraint(gradient, sharding),)

    gather.defvjp(forward, backward)
    return gather(leaf)


def sharding_from(parallel: Mapping[str, Any], devices: Sequence[Any] | None = None) -> Sharding:
    """Builds mesh and rules from the ``parallel`` section of a configuration.

    Raises:
        ValueError: If a number or a rule does not fit.
    """
    mesh = make_mesh(
        parallel["data"],
        parallel["fsdp"],
        parallel["tensor"],
        slices=parallel["slices"],
        devices=devices,
    )
    if parallel["fsdp_min_size"] < 1:
        raise ValueError(
            f"parallel.fsdp_min_size is {parallel['fsdp_min_size']}, expected at least 1."
        )
    return Sharding(mesh, check_rules(parallel["rules"]), parallel["fsdp_min_size"])

"""Sums of losses as one writes them in Python for nvalchemi-toolkit, read as its specs."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

Node = dict[str, Any]


def parse(text: str) -> Node:
    """A composition: calls of nvalchemi's classes, their sums, and products with weights.

    Raises:
        ValueError: for anything else.

    Example:
        >>> parse("10 * ForceMSELoss()")["weights"]
        [10]
    """
    text = text.strip().removeprefix("loss_fn").lstrip().removeprefix("=").strip()
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"'{text}' is no sum of losses: {error.msg}.") from None
    return _loss(_value(tree.body))


def composed(components: Sequence[Any], weights: Sequence[Any], normalize: bool = True) -> Node:
    """Spec of a composition."""
    names = {"components": list(components), "weights": list(weights), "normalize_weights": normalize}
    return {"cls_path": "ComposedLossFunction", **names}


def _value(tree: ast.expr) -> Any:
    if isinstance(tree, ast.Call):
        return _call(tree)
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        return _sum(*(_loss(_value(side)) for side in (tree.left, tree.right)))
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult):
        left, right = _value(tree.left), _value(tree.right)
        return _product(right, left) if _is_loss(left) else _product(left, right)
    if isinstance(tree, (ast.List, ast.Tuple)):
        return [_value(item) for item in tree.elts]
    try:
        return ast.literal_eval(tree)
    except ValueError:
        raise ValueError(f"'{ast.unparse(tree)}' is no loss, weight or sum of them.") from None


def _call(tree: ast.Call) -> Node:
    name = ast.unparse(tree.func).rpartition(".")[2]
    positional = ["components"] if name == "ComposedLossFunction" else []
    if len(tree.args) > len(positional):
        raise ValueError(f"{name} takes its arguments by name, got '{ast.unparse(tree)}'.")
    arguments = dict(zip(positional, map(_value, tree.args), strict=False))
    arguments |= {str(keyword.arg): _value(keyword.value) for keyword in tree.keywords}
    return {"cls_path": name, **arguments}


def _sum(left: Node, right: Node) -> Node:
    parts = [side if _is_composed(side) else composed([side], [1.0]) for side in (left, right)]
    # a single loss goes along with the composition it is added to
    flags = {part.get("normalize_weights", True) for part in (left, right) if _is_composed(part)}
    if len(flags) > 1:
        raise ValueError("Compositions with and without normalize_weights cannot be added.")
    return composed(parts, [1.0, 1.0], flags.pop() if flags else True)


def _product(weight: Any, loss: Any) -> Node:
    if isinstance(weight, bool) or _is_loss(weight):
        raise ValueError(f"A product is of a weight and a loss, got {weight!r} times {loss!r}.")
    return composed([_loss(loss)], [weight], _loss(loss).get("normalize_weights", True))


def _loss(value: Any) -> Node:
    if not _is_loss(value):
        raise ValueError(f"{value!r} is no loss, so that it can neither be added nor be one.")
    return value


def _is_loss(value: Any) -> bool:
    return isinstance(value, dict) and not value["cls_path"].endswith("Weight")


def _is_composed(value: Node) -> bool:
    return value["cls_path"] == "ComposedLossFunction"

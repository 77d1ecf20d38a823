"""Wrong answers made from the right ones of an item, by rule: what a learner forgets, fixes or exchanges.

Whole arguments are dropped by a wrapper (a value seen in a case, zeros, the first row for all), and so are gradients,
where an input asks for one; everything else is one change of one node of the answer's syntax tree.
"""

import ast
import copy
import inspect
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ldm_edu.grading.inputs import copied, same
from ldm_edu.grading.item import Item

SEEN = 20261  # the seed of the cases whose values and sizes get fixed; the grader draws others
SECONDS = 0.5  # of processor time for one call


@dataclass(frozen=True)
class Mutant:
    """``words`` : what was changed, and where. ``origin`` : the right answer that was changed."""

    words: str
    kind: str
    function: Callable[..., Any]
    origin: Callable[..., Any]


def mutants(item: Item) -> Iterator[Mutant]:
    """Wrong answers of one item that is answered by a function."""
    module = inspect.getmodule(item.answer)
    assert module is not None
    cases = replace(item, seed=SEEN).cases()
    yield Mutant("what a check has shown, typed in", "constants typed", _typed(item), item.answer)
    yield from _arguments(item, [case.args for case in cases])
    if any(part.requires_grad for case in cases for part in _leaves(case.args)):
        yield from _cut_off(item.answer)
    for name, tree in _sources(item, module):
        origin = _compiled(copy.deepcopy(tree), module)
        for kind, words, changed in _changes(tree, [case.args for case in cases]):
            yield Mutant(f"{name}: {words}", kind, _ending(_compiled(changed, module)), origin)


def _leaves(args: tuple[Any, ...]) -> list[Tensor]:
    cells = [c.cell_contents for a in args for c in getattr(a, "__closure__", None) or ()]
    return [part for part in (*args, *cells) if isinstance(part, Tensor)]


def _ending(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, stopped where a change made its loop endless; from then on it is not asked again."""
    endless = False

    def stop(*_: object) -> None:
        nonlocal endless
        endless = True
        raise TimeoutError("an endless loop")

    def mutant(*args: Any) -> Any:
        if endless:
            raise TimeoutError("an endless loop")
        before = signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            return function(*args)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    return mutant


# whole arguments


def _arguments(item: Item, seen: list[tuple[Any, ...]]) -> Iterator[Mutant]:
    """The answer as it is when one of its arguments is not looked at."""
    names = list(inspect.signature(item.answer).parameters)
    for place, name in enumerate(names):
        for words, instead in _instead([args[place] for args in seen]):
            yield Mutant(
                f"{name} ignored, {words}", "argument ignored", _without(item.answer, place, instead), item.answer
            )
        if isinstance(seen[0][place], Tensor | list):
            yield Mutant(f"{name} overwritten", "input changed", _overwriting(item.answer, place), item.answer)


def _instead(values: list[Any]) -> list[tuple[str, Callable[[Any], Any]]]:
    """What stands for an argument that is ignored; a value that was seen is right on the case where it was seen."""
    if isinstance(values[0], Tensor) and values[0].ndim:
        return [
            ("zeros for it", torch.zeros_like),
            ("ones for it", torch.ones_like),
            ("its first row for all", lambda x: x[:1].expand_as(x).clone()),
            ("its last row for all", lambda x: x[-1:].expand_as(x).clone()),
        ]
    if callable(values[0]):
        return [("the identity for it", lambda _: lambda x, *_: x)]
    kept: list[Any] = []
    for value in values:
        if not any(value == other for other in kept):
            kept.append(value)
    return [(f"{str(value)[:30]} for it", lambda _, value=value: copy.copy(value)) for value in kept[-4:]]


def _typed(item: Item) -> Callable[..., Any]:
    """Right on every case that was seen, and elsewhere what was expected on the first of them."""
    seen = [(case.args, item.answer(*copied(case.args))) for case in replace(item, seed=SEEN).cases()]

    def mutant(*args: Any) -> Any:
        known = (value for given, value in seen if same(_values(given), _values(args)))
        return copied(next(known, seen[0][1]))

    return mutant


def _values(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.detach() if isinstance(a, Tensor) else a for a in args if not callable(a))


def _without(answer: Callable[..., Any], place: int, instead: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda *args: answer(*args[:place], instead(args[place]), *args[place + 1 :])


def _overwriting(answer: Callable[..., Any], place: int) -> Callable[..., Any]:
    def mutant(*args: Any) -> Any:
        value = answer(*args)
        value = value.clone() if isinstance(value, Tensor) else copy.copy(value)
        if isinstance(args[place], Tensor):
            args[place].data.add_(1)
        else:
            args[place].append(args[place][0] if args[place] else 1)
        return value

    return mutant


def _cut_off(answer: Callable[..., Any]) -> Iterator[Mutant]:
    def plain(*args: Any) -> Any:
        value = answer(*args)
        return value.item() if value.ndim == 0 else value.tolist()

    yield Mutant("under torch.no_grad", "no gradient", torch.no_grad()(answer), answer)
    yield Mutant("detached", "no gradient", lambda *args: answer(*args).detach(), answer)
    yield Mutant("as Python's numbers", "no gradient", plain, answer)


# one node of the syntax tree


def _sources(item: Item, module: ModuleType) -> Iterator[tuple[str, ast.FunctionDef | ast.Lambda]]:
    """The right answers of an item as syntax trees: its own, and those written differently."""
    tree = ast.parse(inspect.getsource(module))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    yield "answer", functions[item.answer.__name__]
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and getattr(node.args[0], "value", None) == item.id
    )
    others = next((word.value for word in call.keywords if word.arg == "others"), None)
    if isinstance(others, ast.Dict):
        for key, value in zip(others.keys, others.values, strict=True):
            node = functions.get(value.id) if isinstance(value, ast.Name) else value
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                yield repr(ast.literal_eval(key)) if key else "other", node


def _compiled(tree: ast.FunctionDef | ast.Lambda, module: ModuleType) -> Callable[..., Any]:
    space = dict(vars(module)) | {"_rounded": _rounded}
    tree = ast.fix_missing_locations(tree)
    if isinstance(tree, ast.Lambda):
        return eval(compile(ast.Expression(tree), "<mutant>", "eval"), space)
    body = ast.Module([tree], [])
    exec(compile(body, "<mutant>", "exec"), space)
    return space[tree.name]


def _rounded(value: Any, how: str) -> Any:
    rounded = getattr(torch, how)(torch.as_tensor(value, dtype=torch.float64)).long()
    return rounded if isinstance(value, Tensor) else int(rounded)


def _changes(tree: Any, seen: list[tuple[Any, ...]]) -> Iterator[tuple[str, str, Any]]:
    """(kind, words, tree) with one node of ``tree`` replaced by another one."""
    sizes = _sizes(seen)
    annotations = {id(n) for n in ast.walk(tree) for a in _annotations(n) for n in ast.walk(a)}
    for place, node in enumerate(ast.walk(tree)):
        if id(node) in annotations:
            continue
        for kind, new in _replacements(node, sizes):
            changed = copy.deepcopy(tree)
            old = list(ast.walk(changed))[place]
            line = getattr(node, "lineno", 0)
            words = f"{ast.unparse(node)} -> {ast.unparse(new)} (line {line})"
            yield kind, words, _Swap(old, new).visit(changed)


def _annotations(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.FunctionDef):
        return [n for n in (node.returns, *(arg.annotation for arg in node.args.args)) if n]
    return [node.annotation] if isinstance(node, ast.AnnAssign) else []


class _Swap(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().visit(node)


def _sizes(seen: list[tuple[Any, ...]]) -> list[int]:
    """Sizes that a learner who looked at the cases could take for granted."""
    found = [n for args in seen[:3] for a in args if isinstance(a, Tensor) for n in a.shape[-4:]]
    return sorted({*found[:6], 3})


OPERATORS = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Div],
    ast.Pow: [ast.Mult],
}
COMPARISONS = {
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.GtE],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE],
    ast.Eq: [ast.NotEq],
}
ROUNDERS = ("round", "floor", "ceil", "trunc", "long", "int")
METHODS = {"cos": "sin", "sin": "cos", "sqrt": "square", "square": "abs", "mean": "sum", "sum": "mean", "std": "var"}
METHODS |= {
    "var": "std",
    "exp": "log",
    "log": "exp",
    "cumprod": "cumsum",
    "cumsum": "cumprod",
    "min": "max",
    "max": "min",
}
METHODS |= {"argmax": "argmin", "relu": "softplus", "triu": "tril", "tril": "triu", "log10": "log", "rsqrt": "sqrt"}
SHAPERS = {"contiguous", "clone", "double", "float", "view", "reshape", "flatten", "expand_as", "tolist", "eq"}


def _replacements(node: ast.AST, sizes: list[int]) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.BinOp):
        yield from _operations(node)
    elif isinstance(node, ast.Compare):
        for other in COMPARISONS.get(type(node.ops[0]), []):
            yield "comparison", ast.Compare(node.left, [other(), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Call):
        yield from _calls(node, sizes)
    elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".shape"):
        for n in sizes:
            yield "size fixed", ast.Constant(n)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign", node.operand


def _operations(node: ast.BinOp) -> Iterator[tuple[str, ast.AST]]:
    for other in OPERATORS.get(type(node.op), []):
        yield "operator", ast.BinOp(node.left, other(), node.right)
    if isinstance(node.op, ast.Sub | ast.Div | ast.Pow | ast.MatMult):
        yield "operands exchanged", ast.BinOp(node.right, node.op, node.left)
    if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Pow):
        yield "operand left out", node.left
    if isinstance(node.op, ast.Add | ast.Mult):
        yield "operand left out", node.right


def _constants(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    value = node.value
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int):
        yield from (("off by one", ast.Constant(value + step)) for step in (1, -1))
    elif isinstance(value, float) and math.isfinite(value):
        yield from (("constant", ast.Constant(value * factor)) for factor in (0.5, 2.0))
    elif isinstance(value, str) and " -> " in value:
        yield from _patterns(value)


def _patterns(pattern: str) -> Iterator[tuple[str, ast.AST]]:
    """einops patterns with two neighbours of the right side exchanged."""
    left, _, right = pattern.partition(" -> ")
    words = right.split(" ")
    for i in range(len(words) - 1):
        one, two = words[i], words[i + 1]
        if one != two and not {one[-1], two[0]} & {"(", ")"} | {one[0], two[-1]} & {")"}:
            yield "axes", ast.Constant(f"{left} -> {' '.join([*words[:i], two, one, *words[i + 2 :]])}")


def _calls(node: ast.Call, sizes: list[int]) -> Iterator[tuple[str, ast.AST]]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name == "len":
        yield from (("size fixed", ast.Constant(n)) for n in sizes)
    if name in ROUNDERS and len(node.args) <= 1:
        yield from _roundings(node, name)
    if name in METHODS and isinstance(node.func, ast.Attribute):
        yield "method", ast.Call(ast.Attribute(node.func.value, METHODS[name], node.func.ctx), node.args, node.keywords)
    elif name in METHODS:
        yield "method", ast.Call(ast.Name(METHODS[name], ast.Load()), node.args, node.keywords)
    method = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in ("torch", "math", "F")
    if method and name not in SHAPERS and isinstance(node.func, ast.Attribute):
        yield "call left out", node.func.value
    if len(node.args) > 1 and not any(isinstance(arg, ast.Starred) for arg in node.args):
        yield "arguments exchanged", ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)


def _roundings(node: ast.Call, name: str) -> Iterator[tuple[str, ast.AST]]:
    """The same number rounded down, up, and to the nearest, in float64 or on a tensor."""
    inner = node.args[0] if node.args else node.func.value if isinstance(node.func, ast.Attribute) else None
    if inner is None:
        return
    for other in ("floor", "ceil", "round"):
        if other != name and not (other == "floor" and name in ("int", "long", "trunc")):
            rounded = ast.Call(ast.Name("_rounded", ast.Load()), [inner, ast.Constant(other)], [])
            yield "rounding", rounded

"""Read a learner's code without running it: who reaches into the grader, or changes a library, gets no marks for it."""

import ast
from collections.abc import Iterator

# Ways to look at, or to change, what runs the check. No item needs them.
TOOLS = frozenset(
    (
        *("setprofile", "getprofile", "settrace", "gettrace", "addaudithook", "import_module", "__import__"),
        *("__subclasses__", "__globals__", "__builtins__", "f_back", "currentframe", "_getframe", "get_referrers"),
        *("get_objects", "reload", "ctypes"),
    )
)
BUILTINS = frozenset(("exec", "eval", "compile"))  # as names only: a network has a method `eval` too
MODULES = frozenset(("builtins", "ctypes", "_posixsubprocess", "runpy"))  # lead round what is refused, or under it
PUBLIC = ("check", "hint")


def complaints(source: str) -> list[str]:
    """What an answer may not do, with the line: ["line 3: ..."]; empty for honest code, and for code with errors."""
    try:
        tree = ast.parse(_without_magics(source))
    except (RecursionError, MemoryError, UnicodeError) as error:
        return [f"line 1: it is not to be read as Python ({type(error).__name__})"]
    except (SyntaxError, ValueError):
        return []  # it will not run either
    modules = {alias.asname or alias.name.split(".")[0] for alias in _imports(tree)}
    return [f"line {node.lineno}: {what}" for node, what in _findings(tree, modules)]


def _imports(tree: ast.AST) -> Iterator[ast.alias]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from node.names


def _findings(tree: ast.AST, modules: set[str]) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ldm_edu.grading"):
            if node.module != "ldm_edu.grading" or any(alias.name not in PUBLIC for alias in node.names):
                yield node, "only `check` and `hint` are imported from ldm_edu.grading"
        elif isinstance(node, ast.Import) and any(a.name.startswith("ldm_edu.grading") for a in node.names):
            yield node, "only `check` and `hint` are imported from ldm_edu.grading"
        elif isinstance(node, ast.Import | ast.ImportFrom) and (unwanted := _modules(node) & MODULES):
            yield node, f"`{min(unwanted)}` is not needed for any item"
        elif isinstance(node, ast.Attribute) and node.attr == "grading":
            yield node, "it reaches into ldm_edu.grading"
        elif isinstance(node, ast.Name | ast.Attribute) and (
            _name(node) in TOOLS or (isinstance(node, ast.Name) and node.id in BUILTINS)
        ):
            yield node, f"`{_name(node)}` is not needed for any item"
        elif isinstance(node, ast.Attribute) and node.attr == "modules" and _root(node) == "sys":
            yield node, "`sys.modules` is not needed for any item"
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.Delete | ast.AnnAssign):
            for target in _targets(node):
                if isinstance(target, ast.Attribute) and _root(target) in modules:
                    yield node, f"it changes `{_root(target)}`, a library, from outside"
        elif isinstance(node, ast.Call) and _name(node.func) in ("setattr", "delattr"):
            yield from (
                (node, f"it changes `{_root(a)}`, a library, from outside")
                for a in node.args[:1]
                if _root(a) in modules
            )


def _modules(node: ast.Import | ast.ImportFrom) -> set[str]:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return {name.split(".")[0] for name in names}


def _targets(node: ast.Assign | ast.AugAssign | ast.Delete | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _without_magics(source: str) -> str:
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())

"""The names of ``import ldm_edu`` are those it promises, and come in only when they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ldm_edu


def test_every_public_name_is_there() -> None:
    for name in ldm_edu.__all__:
        assert getattr(ldm_edu, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(ldm_edu.__file__).read_text(encoding="utf-8"))
    seen = {
        (f"{node.module}", alias.name)
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {(module, name) for name, module in ldm_edu._MODULE.items()}


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"'dpmpp2m'.*dpmpp_2m"):
        ldm_edu.dpmpp2m  # noqa: B018


@pytest.mark.slow
def test_star_import_and_submodules() -> None:
    code = "from ldm_edu import *; import ldm_edu.nn.attention; assert LatentDiffusion and cfg and levels"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

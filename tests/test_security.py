"""What the product's code never does with what it reads."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import Template

ROOT = Path(__file__).parents[1]
ROOMS = ("conf", "features", "afm", "reporting", "jobs", "tools")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]

CALLS = {
    *("eval", "exec", "compile", "__import__", "breakpoint"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.FullLoader"),
    *("torch.load", "torch.jit.load", "np.load", "numpy.load", "pd.read_pickle", "os.system"),
    *("os.popen", "subprocess.getoutput", "joblib.load", "shelve.open", "marshal.loads"),
}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PICKLES = {
    "afm/plan_report.py": {"dumps"},  # to know how many bytes a task gets
    "jobs/scoring_tasks.py": {"dumps", "loads"},  # from driver to task, of one digest
}
"""Where pickle is used nevertheless, and of it what."""


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """All calls, by dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def offences(text: str, path: str = "") -> list[str]:
    """What a file does that it should not."""
    tree, found = ast.parse(text), []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
        found += [f"imports {n}" for n in names if n in MODULES and path not in PICKLES]
    for name, call in called(tree):
        if name in CALLS:
            found.append(f"calls {name}")
        module, _, function = name.rpartition(".")
        if module in MODULES and function not in PICKLES.get(path, set()):
            found.append(f"calls {name}")
        for keyword in call.keywords:
            if (keyword.arg, ast.unparse(keyword.value)) in (
                ("shell", "True"),
                ("allow_pickle", "True"),
                ("autoescape", "False"),
                ("weights_only", "False"),
            ):
                found.append(f"{name}({keyword.arg}={ast.unparse(keyword.value)})")
        if name.endswith((".sql", "F.expr", "selectExpr")) and any(
            isinstance(argument, ast.JoinedStr | ast.BinOp) for argument in call.args
        ):
            found.append(f"makes SQL of a text: {ast.unparse(call)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch; torch.load('x')",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "eval('1')",
        "import yaml; yaml.load('x', yaml.Loader)",
        "import subprocess; subprocess.run('x', shell=True)",
        "spark.sql(f'select {x}')",
        "F.expr('a = ' + x)",
        "Environment(autoescape=False)",
    ],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert offences(text)


def test_the_page_is_escaped_but_for_what_we_wrote() -> None:
    template = (ROOT / "reporting/page.html.j2").read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe|autoescape", template)
    assert Template("{{ x }}", autoescape=True).render(x="<b>") == "&lt;b&gt;"

"""What the documents say is there, is there, and every command in them is run or checked."""

import functools
import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from conf.load import load
from conf.schema import Config
from conf.synthetic import Synthetic
from jobs.cli import main as afm
from tests.documents import PAGES, ROOT, blocks, commands, commands_in_text
from tests.jobs.cluster import MASTER, WORKER
from tests.jobs.commands import command
from tools import command_reference, configuration_reference

RUN = ROOT / "docs" / "tutorial.md"
"""Its commands are run by tests/jobs/test_movielens.py, each as it stands there."""
RUN_PYTHON = {
    "README.md": "tests/jobs/test_movielens.py",
    "docs/tutorial.md": "tests/jobs/test_movielens.py",
    "docs/reference/python.md": "tests/jobs/test_movielens.py",
    "docs/howto/own-log.md": "tests/jobs/test_movielens.py",
    "docs/howto/query.md": "tests/jobs/test_query.py",
}
"""Pages with recipes in Python, and the test that runs them."""
LIKE_TESTED = {"docs/ecosystem.md": ("tests/afm/test_mlflow_model.py", "tests/test_ecosystem.py")}
"""Pages with recipes for other programs, and the tests of what the recipes use."""
BY_OTHER_TESTS = {"jobs/maintain.py": "tests/jobs/test_maintain.py"}
"""Jobs of the README that are no steps of the tutorial, and their tests."""
ELSEWHERE = ("-H", "--master", "--min-np", "HOROVOD_GPU_OPERATIONS=NCCL", "CUDA_VISIBLE_DEVICES=")
"""A command with one of these needs a cluster, GPUs or several hosts: it is checked, not run."""

OWN_FLAGS = {"train_on_spark": ["-np"]}
"""Jobs that take a flag of their own before the configuration."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_commands_are_found() -> None:
    assert len(commands("README.md")) >= 10
    assert len(commands("docs/tutorial.md")) >= 10
    assert "make report" in commands_in_text("README.md")


@pages
def test_every_command_could_be_run(page: Path) -> None:
    for line in commands(page):
        check(line)
    for span in commands_in_text(page):
        if len(span.split()) > 1 and program(span) in CHECKS:
            check(span)


@pages
def test_values_in_text_are_of_the_schema(page: Path) -> None:
    base = ["history=[{name: liked, of: movie}]"]  # some values need one
    for span in commands_in_text(page):
        section, dot, _ = span.partition(".")
        if dot and section in Config.model_fields and "…" not in span:
            overrides = re.sub(r"^([\w.]+): (.+)", r"\1=\2", span)
            if re.match(r"[\w.]+=", overrides):
                found = re.split(r" (?=[\w.]+=)", overrides)
                load(ROOT / "conf" / "movielens.yaml", [*base, *found])


def test_commands_of_the_readme_are_run() -> None:
    """Those that start a job here, in the words of the tutorial: paths and pipelines aside."""

    def words(line: str) -> str:
        line = re.sub(r"\bconf/\w+\.yaml", "YAML", line)
        return re.sub(r"source\.interactions\.path=\S+", "source.interactions.path=PATH", line)

    run = {words(line) for line in commands(RUN)}
    here = [c for c in commands("README.md") if not any(word in ELSEWHERE for word in c.split())]
    jobs = [line for line in here if program(line) != "make"]
    for job, test in BY_OTHER_TESTS.items():
        assert (ROOT / test).is_file()
        jobs = [line for line in jobs if job not in line]
    assert len(jobs) >= 10
    assert {words(line) for line in jobs} <= run


@pages
def test_recipes_in_python_are_run(page: Path) -> None:
    if name_of(page) in LIKE_TESTED:
        assert all((ROOT / test).is_file() for test in LIKE_TESTED[name_of(page)])
    elif blocks(page, "python"):
        test = ROOT / RUN_PYTHON[name_of(page)]
        assert page.name in test.read_text(encoding="utf-8")


@pages
def test_pieces_of_yaml_are_configuration(page: Path) -> None:
    example = yaml.safe_load((ROOT / "conf" / "movielens.yaml").read_text(encoding="utf-8"))
    for block in blocks(page, "yaml"):
        piece = yaml.safe_load(block)
        if piece.keys() & Config.model_fields.keys():
            Config.model_validate(piece if "source" in piece else example | piece)


def program(line: str) -> str:
    """The first word that is no variable."""
    return next((word for word in line.split() if not re.match(r"[A-Z_]+=", word)), "")


def check(line: str) -> None:
    """Fails if a command names what is not there, or is of a program that no test knows.

    An … ends what is checked: the rest is left to the reader.
    """
    line = line.split("…")[0]
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    assert words[0] in CHECKS, f"no test knows {words[0]}: {line}"
    CHECKS[words[0]](words[1:])


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in words if "=" not in word} <= set(targets)


def check_launcher(launcher: str, words: list[str]) -> None:
    """``spark-submit`` or ``horovodrun``, its flags, and the job that it starts."""
    job = next((n for n, word in enumerate(words) if word.startswith("jobs/")), len(words))
    for flag in [word for word in words[:job] if word.startswith("-")]:
        assert re.search(rf"(^|[\s,]){re.escape(flag)}[\s,]", help_of(launcher)), flag
    check_python(words[job:])


@functools.cache
def help_of(launcher: str) -> str:
    result = command(launcher, "--help")
    return result.stdout + result.stderr


def check_python(words: list[str]) -> None:
    if words[:1] == ["-m"]:
        assert importlib.util.find_spec(words[1]), words
    elif words and words[0] != "-c":
        assert (ROOT / words[0]).is_file(), words[0]
        if words[0].startswith("jobs/"):
            check_job(Path(words[0]).stem, words[1:])


def check_afm(words: list[str]) -> None:
    job, rest = words[0], words[1:]
    if job in ("--help", "-h"):
        return
    flags = {o: p for p in afm.commands[job].params if isinstance(p, click.Option) for o in p.opts}
    rest = [word for word in rest if word != "--json"]  # every job takes it
    while rest and rest[0].startswith("-") and rest[:1] != OWN_FLAGS.get(job):
        assert rest[0] in flags, rest[0]
        rest = rest[2:]
    check_job(job, rest)


def check_job(job: str, words: list[str]) -> None:
    """Loads the configuration; that of a reader's own file is like the demo's."""
    if words[:1] == OWN_FLAGS.get(job):
        words = words[2:]
    if job == "init" or not words:
        return
    source = (ROOT / "jobs" / f"{job}.py").read_text(encoding="utf-8")
    own = re.search(r'own="(\w+)"', source)
    path, *overrides = words
    if not path.startswith("conf/") or path == "conf/yours.yaml":
        path = "conf/movielens.yaml"
    schema = Synthetic if "Synthetic)" in source else Config
    load(ROOT / path, overrides, schema, own[1] if own else None)


def check_docker(words: list[str]) -> None:
    """Building the image, or running a command of ours in it."""
    if words[0] == "build":
        assert (ROOT / words[-1] / "Dockerfile").is_file()
    elif "afm" in words:
        check_afm(words[words.index("afm") + 1 :])
    else:
        assert any(word in (MASTER[0], WORKER[0]) for word in words), words


def check_export(words: list[str]) -> None:
    assert not words  # variables are no words


def check_paths(words: list[str]) -> None:
    assert all((ROOT / word).exists() for word in words), words


def check_pip(words: list[str]) -> None:
    packages = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert words[0] == "install"
    assert all(f"\n{word}==" in packages for word in words[1:]), words


def check_words(*known: str):
    """For programs of which the documents show one command."""

    def check_them(words: list[str]) -> None:
        assert tuple(words) == known

    return check_them


CHECKS = {
    "make": check_make,
    "spark-submit": functools.partial(check_launcher, "spark-submit"),
    "horovodrun": functools.partial(check_launcher, "horovodrun"),
    "python": check_python,
    "afm": check_afm,
    "pytest": check_paths,
    "pip": check_pip,
    "docker": check_docker,
    "export": check_export,
    "source": check_words(".venv/bin/activate"),
    "pre-commit": check_words("install"),
}
"""By program, what looks at the other words of a command."""


@pytest.mark.parametrize(
    "line",
    [
        "make demp",
        "spark-submit --proprties-file conf/spark.conf jobs/score.py conf/movielens.yaml",
        "spark-submit jobs/scor.py conf/movielens.yaml",
        "horovodrun --np-min 2 python jobs/train.py conf/yours.yaml",
        "python jobs/train.py conf/movielens.yaml train.epoch=3",
        "python jobs/train.py conf/none.yaml",
        "afm scor conf/movielens.yaml",
        "afm train --ranks 2 conf/movielens.yaml",
        "airflow dags list",
    ],
)
def test_a_command_that_is_wrong_is_found(line: str) -> None:
    with pytest.raises(Exception):  # noqa: B017  whatever notices it
        check(line)


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert link.startswith("https://") or target.exists(), link
        if anchor and not link.startswith("https://"):
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Those that Markdown gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def test_the_site_has_every_page() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = re.findall(r"[\w/-]+\.md", str(nav))
    assert {f"docs/{name}" for name in named} == {name_of(p) for p in PAGES if p.parent != ROOT}


def test_promises_name_tests_that_exist() -> None:
    promised = re.findall(
        r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/reliability.md").read_text()
    )
    assert len(promised) > 30
    for file, name in promised:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), (file, name)


@pytest.mark.parametrize("reference", [configuration_reference, command_reference])
def test_references_are_those_of_the_code(reference) -> None:
    assert reference.TARGET.read_text(encoding="utf-8") == reference.page()


def test_functions_for_services_need_neither_torch_nor_spark() -> None:
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    modules = {name.rpartition(".")[0] for name in re.findall(r"^::: (\S+)", page, re.MULTILINE)}
    assert len(modules) > 5
    heavy = "{'torch', 'pyspark', 'horovod', 'petastorm'}"
    code = f"import sys, {', '.join(sorted(modules))}; print(sorted({heavy} & set(sys.modules)))"
    assert command("python", "-c", code).stdout == "[]\n"


def test_changelog_leads_with_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version and first
    assert version[1] == first[1]

"""The three rooms: imports point from shell to edges to pure, never back; and what starts quickly stays so."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import rsbatch

ROOT = Path(rsbatch.__file__).parent

# A name that ends in `.*` stands for the rest of its package.
PURE = {
    "asking",
    "body",
    "ceiling",
    "collector",
    "errors",
    "estimate",
    "identity",
    "ledger.__init__",
    "ledger.mend",
    "ledger.records",
    "ledger.replay",
    "ledger.rescue",
    "ledger.state",
    "lifecycle",
    "line",
    "manifest.__init__",
    "manifest.explain",
    "manifest.faults",
    "manifest.matrix",
    "manifest.nodes",
    "manifest.prices",
    "manifest.sandbox",
    "manifest.schema",
    "manifest.templates",
    "model",
    "net.__init__",
    "outline",
    "pacing",
    "planning",
    "png",
    "progress.__init__",
    "progress.interface",
    "progress.words",
    "redo",
    "report.__init__",
    "report.activity",
    "report.cards",
    "report.page",
    "report.plots",
    "retry",
    "scheduler",
    "sidecar",
    "storage.__init__",
    "storage.interface",
    "summary",
    "text",
    "units",
    "wire",
}
EDGES = {
    "clock",
    "disk",
    "images",
    "keys",
    "ledger.*",
    "manifest.*",
    "net.*",
    "progress.*",
    "report.thumbnails",
    "simulator.*",
    "storage.*",
    "unrecorded",
}
SHELL = {
    "__init__",
    "__main__",
    "api",
    "cli",
    "commands.*",
    "notices",
    "preview",
    "report.gather",
    "course",
    "harvester",
    "runner",
    "submitter",
    "saver",
    "session",
}
RANK = {"pure": 0, "edge": 1, "shell": 2}

WORLD = {
    *("aiofiles", "anyio", "asyncio", "dotenv", "fcntl", "glob", "httpx", "io", "jinja2", "logging", "os", "PIL"),
    *("pydantic", "secrets", "shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading"),
    *("time", "tqdm", "trio", "uvicorn", "yaml"),
}
"""What a pure module does not import: clocks, files, networks, threads, and libraries that go there."""
ALLOWED = {
    ("manifest.sandbox", "jinja2"),  # text to text, in a sandbox
    ("manifest.templates", "jinja2"),
    ("report.page", "jinja2"),
    ("manifest.explain", "pydantic"),  # where text comes in
    ("manifest.schema", "pydantic"),
}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    exact = [name for name, names in (("pure", PURE), ("edge", EDGES), ("shell", SHELL)) if module in names]
    package = f"{module.split('.', maxsplit=1)[0]}.*" if "." in module else ""
    rest = [name for name, names in (("pure", PURE), ("edge", EDGES), ("shell", SHELL)) if package in names]
    found = exact or rest
    assert len(found) == 1, f"{module} must be in exactly one of PURE, EDGES and SHELL; it is in {found or 'none'}"
    return found[0]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


class Runtime(ast.NodeVisitor):
    """Gathers imports, those inside functions too, and leaves out what only type checkers see."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(alias.name, "") for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "imports name their whole path"
        self.found += [(node.module or "", alias.name) for alias in node.names]


def imports(module: str) -> Iterator[tuple[str, str]]:
    """Pairs: of what kind (`ours` or `theirs`) and the module's name."""
    visitor = Runtime()
    visitor.visit(tree(module))
    for source, name in visitor.found:
        if source.split(".")[0] != "rsbatch":
            yield "theirs", source.split(".")[0]
            continue
        inner = source.removeprefix("rsbatch").removeprefix(".")
        for candidate in (f"{inner}.{name}".strip("."), inner, f"{inner}.__init__".strip(".")):
            if candidate in MODULES:
                if (candidate, name) != ("__init__", "__version__"):
                    yield "ours", candidate
                break
        else:
            raise AssertionError(f"{module} imports {source} {name}, which is not there")


def imported(module: str, kind: str) -> set[str]:
    return {name for which, name in imports(module) if which == kind}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_in_one_room_and_looks_down_only(module: str) -> None:
    mine = room(module)
    for other in imported(module, "ours"):
        assert RANK[room(other)] <= RANK[mine], f"{module} ({mine}) imports {other} ({room(other)})"


def test_no_list_names_what_is_not_there() -> None:
    for name in PURE | EDGES | SHELL:
        if name.endswith(".*"):
            assert any(module.startswith(name[:-1]) for module in MODULES), name
        else:
            assert name in MODULES, name


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_know_nothing_of_the_world(module: str) -> None:
    bad = imported(module, "theirs") & WORLD
    assert {name for name in bad if (module, name) not in ALLOWED} == set()


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_draw_no_chances_and_read_no_clock(module: str) -> None:
    """`random` is there for its type alone, `datetime` for its arithmetic; both come in as arguments."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            assert [alias.name for alias in node.names] == ["Random"]
        if isinstance(node, ast.Import):
            assert "random" not in [alias.name for alias in node.names]
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"now", "utcnow", "today"}, f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input", "exec", "eval"}, f"line {node.lineno}"


@pytest.mark.parametrize("module", ["course", "harvester", "runner", "saver", "submitter"])
def test_the_runner_knows_no_yaml_no_tqdm_no_httpx(module: str) -> None:
    assert not imported(module, "theirs") & {"httpx", "tqdm", "yaml", "jinja2", "pydantic", "PIL"}
    assert not {name for name in imported(module, "ours") if name.startswith(("manifest", "commands", "simulator"))}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("simulator.")])
def test_the_simulator_shares_nothing_with_the_client(module: str) -> None:
    """So that both cannot be wrong alike."""
    others = {name for name in imported(module, "ours") if not name.startswith("simulator.")}
    assert others <= {"errors"}


@pytest.mark.parametrize("module", MODULES)
def test_only_the_shell_names_implementations(module: str) -> None:
    """Edges meet by their interfaces: a library belongs to its own room."""
    homes: dict[str, str | tuple[str, ...]]
    homes = {"yaml": "manifest.", "tqdm": "progress.", "uvicorn": "simulator.", "fcntl": ""}
    homes["jinja2"] = ("manifest.", "report.page")
    for name in imported(module, "theirs") & set(homes):
        assert module.startswith(homes[name])


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith("__init__")])
def test_each_module_says_its_rule(module: str) -> None:
    text = ast.get_docstring(tree(module)) or ""
    assert text, "it has no docstring"
    if module != "__main__":
        assert "Rule:" in text


@pytest.mark.parametrize("module", MODULES)
def test_no_function_is_longer_than_a_screen(module: str) -> None:
    long = [
        f"{node.name} has {length} lines"
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
    ]
    assert long == []


def loaded_by(words: list[str], cwd: Path) -> set[str]:
    """The top-level modules that a command loads, in a process of its own."""
    code = (
        "import json, sys\n"
        "from rsbatch.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "sys.stdout.flush()\n"
        "sys.stderr.write('\\n' + json.dumps([code, sorted({m.split('.')[0] for m in sys.modules})]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=cwd, check=True)
    exit_code, names = json.loads(done.stderr.splitlines()[-1])
    assert exit_code == 0, done.stderr
    return set(names)


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_what_is_asked_quickly_is_answered_quickly(tmp_path: Path, option: str) -> None:
    heavy = {"httpx", "pydantic", "pydantic_core", "jinja2", "PIL", "yaml", "anyio", "asyncio", "tqdm", "uvicorn"}
    assert not loaded_by([option], tmp_path) & heavy


@pytest.mark.parametrize("command", ["status", "plan"])
def test_what_only_reads_needs_no_http_no_images_and_no_event_loop(tmp_path: Path, command: str) -> None:
    (tmp_path / "m.yaml").write_text("version: 1\ntasks: [{prompt: a cat}]\n")
    heavy = {"httpx", "httpcore", "PIL", "uvicorn", "tqdm", "anyio", "asyncio", "aiofiles"}
    assert not loaded_by([command, "m.yaml"], tmp_path) & heavy

"""Breaks the core in thousands of small ways and asks whether the tests notice; and the branches that they cover.

Rule: one change at a time, made in the syntax tree and imported in place of the file, which stays as it is. A mutant
counts as killed when a test fails, or when the tests do not end in time. What survives and cannot be noticed by
anybody stands in equivalent.txt with its reason and is counted apart: it is neither killed nor a failure.

Why not a tool: mutmut 3 changes bodies of functions only, and half of our core is tables at module level (the
lifecycle, the fold's dispatch, the words of error codes); cosmic-ray starts a process for each.
Here a process that has the libraries loaded is forked for each, and the fitting tests run first.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from torture.rows import Figure, Params

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
GOAL = 0.95
SHORT_COUNT = 30
SHORT_GOAL = 0.9
"""Of a sample so small: at a true share of 97%, chance makes one sample in a hundred fall below this."""
SECONDS, TIMES = 30.0, 10.0
"""A mutant's tests may take this long and, on top, as many times what they take with the sound code."""

NOTICED = {"killed", "timeout"}

TESTS: dict[str, list[str]] = {
    "lifecycle": ["lifecycle", "ledger_state", "ledger_mend", "ledger_rescue", "planning"],
    "ledger/state": ["ledger_state", "redo", "ledger_replay", "ledger_rescue", "ledger_mend", "planning"],
    "ledger/records": ["ledger_records", "redo", "ledger_replay", "ledger_state", "ledger_mend", "ledger_rescue"],
    "wire": ["wire"],
    "planning": ["planning"],
    "redo": ["redo"],
    "scheduler": ["scheduler"],
    "retry": ["retry_pacing"],
    "ledger/rescue": ["ledger_rescue"],
    "ledger/mend": ["ledger_mend"],
    "ledger/replay": ["ledger_replay", "ledger_local", "ledger_plain"],
    "pacing": ["retry_pacing", "scheduler"],
    "ceiling": ["ceiling"],
    "line": ["line"],
    "png": ["png"],
    "summary": ["summary"],
    "identity": ["identity"],
    "saver": [],
}
"""The modules that are mutated, the ones nearest to the money first, and their tests in tests/core.

Those of SLOW have theirs in tests/runner.
"""

SLOW = {"saver"}
"""Left out of the short form: their tests run the whole runner."""

ENUMS = {
    name: tuple(members.split())
    for name, members in {
        "State": "SUBMITTING NOT_SUBMITTED SUBMITTED GENERATED DOWNLOADED SAVED FAILED_SUBMIT FAILED_DOWNLOAD "
        "FAILED_FINAL HELD PARKED RELEASED",
        "Event": "SUBMITTING SUBMITTED NOT_SUBMITTED IN_DOUBT GENERATED DOWNLOADED SAVED FAILED_SUBMIT "
        "FAILED_DOWNLOAD FAILED_FINAL PARKED ATTACHED NOT_SENT RESUBMIT",
        "Bucket": "DELIVERED FAILED UNKNOWN OUT",
        "Fatal": "KEY BALANCE ADDRESS",
        "_Kind": "RATE BALANCE KEY JOB OTHER",
        "Action": "SUBMIT POLL DOWNLOAD SKIP HOLD",
        "Category": "SAVED FAILED HELD PARKED PENDING",
        "Differs": "MISSING ALTERED",
        "Halt": "BUDGET STOP_AFTER MAX_FAILURES MAX_IN_DOUBT KEY BALANCE ADDRESS UNAVAILABLE SIGNAL STORE",
        "Exit": "OK SOME_FAILED USAGE STOPPED STORE BUG BUSY",
    }.items()
}
"""The members of our enumerations, each of which is swapped for the next."""

_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.Pow: ast.Mult,
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: `name` says what it is and does not depend on line numbers; `line` is where it is today."""

    module: str
    number: int
    name: str
    line: int

    @property
    def seed(self) -> int:
        """What `--seed` takes to try it again."""
        return zlib.crc32(self.name.encode())


# What is changed


class _Sites:
    """Walks a module; each site yields a node to replace it with."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[tuple[ast.AST, str, int | None, ast.AST, str]] = []
        self._walk(tree, "")

    def _add(self, parent: ast.AST, name: str, index: int | None, new: ast.AST, where: str) -> None:
        self.found.append((parent, name, index, new, where))

    def _walk(self, node: ast.AST, where: str) -> None:
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "decorator_list", "bases", "type_params"}:
                continue
            if isinstance(value, list):
                for index, child in enumerate(value):
                    if isinstance(child, ast.AST):
                        self._visit(node, name, index, child, where)
            elif isinstance(value, ast.AST):
                self._visit(node, name, None, value, where)

    def _visit(self, parent: ast.AST, name: str, index: int | None, node: ast.AST, where: str) -> None:
        if _is_idle(node):
            return
        for new in _changes(node, parent):
            self._add(parent, name, index, new, where)
        if isinstance(node, ast.JoinedStr | ast.Raise):  # the words of messages are not behaviour that money rests on
            return
        inner = where
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{where}.{node.name}".strip(".")
        self._walk(node, inner)


def _is_idle(node: ast.AST) -> bool:
    """Docstrings, imports and what only type checkers read."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom():
            return True
        case ast.Assign(value=ast.Subscript(value=ast.Name(id="Literal" | "Callable" | "type"))):
            return True
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"))):
            return True
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.BinOp(left=left)) if name[0].isupper():
            return isinstance(left, ast.Name) or (isinstance(left, ast.BinOp) and not name.isupper())
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
    return False


def _changes(node: ast.AST, parent: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left, ops, right):
            for at, op in enumerate(ops):
                for other in _COMPARE[type(op)]:
                    yield ast.Compare(left, [*ops[:at], other(), *ops[at + 1 :]], right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.UnaryOp(ast.USub(), operand):
            yield operand
        case ast.Constant(value):
            yield from _constants(value, parent)
        case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
            yield ast.BinOp(left, _ARITHMETIC[type(op)](), right)
        case ast.AugAssign(target, op, value):
            if type(op) in _ARITHMETIC:
                yield ast.AugAssign(target, _ARITHMETIC[type(op)](), value)
            yield ast.Pass()
        case ast.Return(value) if value is not None and not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None))
        case ast.If(test, body, orelse):
            yield ast.If(_negated(test), body, orelse)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(_negated(test), body, orelse)
        case ast.While(test, body, orelse):
            yield ast.While(ast.Constant(False), body, orelse)
        case ast.Expr(ast.Call() | ast.Await() | ast.Yield() | ast.YieldFrom()) | ast.Raise() | ast.Delete():
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()], _):
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.Attribute(ast.Name(enum), member, ast.Load()) if member in ENUMS.get(enum, ()):
            members = ENUMS[enum]
            yield ast.Attribute(
                ast.Name(enum, ast.Load()), members[(members.index(member) + 1) % len(members)], node.ctx
            )
        case ast.Call(ast.Name(name), args, keywords) if name in _CALLS:
            yield ast.Call(ast.Name(_CALLS[name], ast.Load()), args, keywords)


def _negated(test: ast.expr) -> ast.expr:
    return (
        test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else ast.UnaryOp(ast.Not(), test)
    )


def _constants(value: Any, parent: ast.AST) -> Iterator[ast.AST]:
    if isinstance(parent, ast.FormattedValue):
        return
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str):
        yield ast.Constant(f"{value}X" if value else "X")
    elif isinstance(value, bytes):
        yield ast.Constant(value + b"X")


def mutants_of(module: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its text."""
    tree = _parse(module)
    seen: Counter[str] = Counter()
    found = []
    for number, (parent, name, index, new, where) in enumerate(_Sites(tree).found):
        old = getattr(parent, name) if index is None else getattr(parent, name)[index]
        text = f"{module} {where or 'module'}: {_brief(old)} → {_brief(new)}"
        seen[text] += 1
        if seen[text] > 1:
            text += f" #{seen[text]}"
        found.append(Mutant(module, number, text, getattr(old, "lineno", getattr(parent, "lineno", 0))))
    return found


def _brief(node: ast.AST) -> str:
    if isinstance(node, ast.If):
        return f"if {ast.unparse(node.test)}"
    if isinstance(node, ast.While):
        return f"while {ast.unparse(node.test)}"
    return re.sub(r"\s+", " ", ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))))[:160]


def mutated(module: str, number: int) -> ast.Module:
    """Give the tree of a module with one change."""
    tree = _parse(module)
    parent, name, index, new, _ = _Sites(tree).found[number]
    old = getattr(parent, name) if index is None else getattr(parent, name)[index]
    ast.copy_location(new, old)
    if index is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[index] = new
    return ast.fix_missing_locations(tree)


def _path(module: str) -> Path:
    return ROOT / "rsbatch" / f"{module}.py"


def _parse(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


# The process that is forked for each mutant. It must not have imported anything of rsbatch.


class _Finder:
    """Gives the mutated module where the real one is asked for."""

    def __init__(self, module: str, number: int) -> None:
        self.name = "rsbatch." + module.replace("/", ".")
        self.path = _path(module)
        self.tree = mutated(module, number)

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return importlib.util.spec_from_loader(name, self, origin=str(self.path)) if name == self.name else None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        module.__file__ = str(self.path)
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def _serve() -> None:
    """Read jobs from standard input, `[module, number, [tests]]` a line; answer `[module, number, how, seconds]`."""
    _warm_up()
    jobs = [json.loads(line) for line in sys.stdin]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    limits = {tests: SECONDS + TIMES * _sound(tests) for tests in {tuple(job[2]) for job in jobs}}
    running: dict[int, tuple[list[Any], float]] = {}
    late: set[int] = set()
    waiting = iter(jobs)
    job = next(waiting, None)
    while job is not None or running:
        while job is not None and len(running) < _cores():
            running[_start(job)] = (job, time.monotonic())
            job = next(waiting, None)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            done, since = running.pop(pid)
            how = "timeout" if pid in late else _HOW.get(os.waitstatus_to_exitcode(status), f"status {status}")
            out.write(json.dumps([done[0], done[1], how, round(time.monotonic() - since, 2)]) + "\n")
            out.flush()
            continue
        for other, (one, since) in running.items():
            if other not in late and time.monotonic() - since > limits[tuple(one[2])]:
                late.add(other)
                os.kill(other, signal.SIGKILL)
        time.sleep(0.005)


_HOW = {0: "survived", 1: "killed", 2: "killed"}
"""By pytest's exit codes: 1 is a failed test, 2 a module that cannot be imported; no other proves anything."""


def _cores() -> int:
    return max(1, int(os.environ.get("TORTURE_JOBS", os.cpu_count() or 1)))


def _sound(tests: tuple[str, ...]) -> float:
    """Run the tests with the sound code; gives how long that takes. What fails there could kill no mutant."""
    since = time.monotonic()
    _, status = os.waitpid(_start(["", -1, list(tests)]), 0)
    if status != 0:
        raise SystemExit(f"the tests fail without any mutant: {' '.join(tests)}")
    return time.monotonic() - since


def _warm_up() -> None:
    from hypothesis import Phase, settings

    profile = {"derandomize": True, "database": None, "phases": (Phase.explicit, Phase.generate), "deadline": None}
    settings.register_profile("mutants", **profile)
    settings.load_profile("mutants")
    for name in (
        "pytest",
        "anyio._backends._asyncio",
        "trio",
        "trio.testing",
        "httpx",
        "pydantic",
        "hypothesis.strategies",
        "anyio.pytest_plugin",
    ):
        importlib.import_module(name)


def _start(job: list[Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        null = os.open(os.devnull, os.O_RDWR)
        if "TORTURE_SHOW" not in os.environ:
            for fd in (0, 1, 2):
                os.dup2(null, fd)
        module, number, tests = job
        if number >= 0:
            sys.meta_path.insert(0, _Finder(module, number))
        import pytest

        code = int(
            pytest.main(
                [
                    "-x",
                    "-q",
                    "--no-header",
                    "-p",
                    "no:xdist",
                    "--tb=short",
                    "-W",
                    "ignore::pytest.PytestAssertRewriteWarning",
                    *tests,
                ]
            )
        )
    except BaseException:
        code = 1  # a module that cannot even be made or imported is noticed
    finally:
        os._exit(code)


# The row


def fitting(module: str) -> list[str]:
    """What pytest is given at first; the slowest tests come later, for what has survived the others."""
    if module in SLOW:
        return ["tests/runner/test_order.py", "tests/runner/test_regressions.py"]
    return [f"tests/core/test_{name}.py" for name in TESTS[module]]


def _try(mutants: list[Mutant], tests: dict[str, list[str]], show: bool) -> dict[tuple[str, int], tuple[str, float]]:
    """Give how each ended and its seconds; with `show`, what survived and how far it is are printed as it goes."""
    names = {(m.module, m.number): m.name for m in mutants}
    found: dict[tuple[str, int], tuple[str, float]] = {}
    with tempfile.TemporaryFile("w+") as jobs:
        jobs.writelines(json.dumps([m.module, m.number, tests[m.module]]) + "\n" for m in mutants)
        jobs.seek(0)
        command, env = [sys.executable, "-m", "torture.mutants"], {**os.environ, "PYTHONHASHSEED": "0"}
        with subprocess.Popen(command, stdin=jobs, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env) as process:
            assert process.stdout is not None
            for line in process.stdout:
                module, number, how, seconds = json.loads(line)
                found[module, number] = how, seconds
                if show and how not in NOTICED:
                    print(f"  {how}: {names[module, number]}", flush=True)
                if show and len(found) % 100 == 0:
                    print(f"  {len(found):,} of {len(mutants):,}", flush=True)
    if process.returncode:
        raise SystemExit("the mutants could not be tried: see above")
    return found


def equivalents() -> dict[str, str]:
    """Names of mutants that nobody could notice, each with the reason."""
    found, name = {}, ""
    for line in EQUIVALENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("    ") and name:
            found[name] = line.strip()
        elif line and not line.startswith("#"):
            name = line.strip()
    return found


def run(params: Params) -> Figure:
    """Try the mutants: all of them, a sample in the short form, or the one of a seed."""
    modules = os.environ.get("TORTURE_MODULES", "").split() or list(TESTS)
    every = [mutant for module in modules for mutant in mutants_of(module)]
    if params.seed is not None:
        every = [mutant for mutant in every if mutant.seed == params.seed]
    known = equivalents()
    names = {mutant.name for mutant in every}
    stale = [name for name in known if name.split()[0] in modules and name not in names]
    counted = [mutant for mutant in every if mutant.name not in known]
    if params.short:
        counted = Random(0).sample([m for m in counted if m.module not in SLOW], SHORT_COUNT)
    show = not params.short and params.seed is None
    results = _try(counted, {module: fitting(module) for module in TESTS}, show)
    living = [m for m in counted if results[m.module, m.number][0] not in NOTICED]
    if show and len(living) > (1 - GOAL) * len(counted):  # perhaps other tests notice; it takes a minute for each
        print(f"  {len(living)} once more, with all tests", flush=True)
        more = {module: ["tests/core", "tests/runner"] for module in TESTS}
        second = _try(living, more, show)
        living = [m for m in living if second[m.module, m.number][0] not in NOTICED]
    late = sum(how == "timeout" for how, _ in results.values())
    return _figure(params, counted, living, late, len(every) - len(counted), stale)


def _figure(
    params: Params, counted: list[Mutant], living: list[Mutant], late: int, equal: int, stale: list[str]
) -> Figure:
    total, alive = Counter(m.module for m in counted), Counter(m.module for m in living)
    share = 1 - len(living) / max(1, len(counted))
    text = f"{len(counted) - len(living)} of {len(counted)} mutants killed ({share:.1%}, {late} of them by time)"
    failures = [
        f"survived: {m.name} (rsbatch/{m.module}.py:{m.line}); python -m torture mutants --seed {m.seed}"
        for m in living
    ]
    if params.seed is not None:
        return Figure(text, "killed", failures if counted else ["no mutant has this seed"])
    if params.short:
        return Figure(text, f"{SHORT_GOAL:.0%} of a sample killed", failures if share < SHORT_GOAL else [])
    for module in total:
        print(f"  {module}: {total[module] - alive[module]} of {total[module]}")
    for failure in failures:
        print(f"  {failure}")
    branches, whole = _branches()
    text += f", {equal} equivalent; branch coverage of the core {branches}"
    wrong = [] if share >= GOAL else failures
    wrong += [f"equivalent.txt names what is not there: {name}" for name in stale]
    wrong += [] if whole else ["not every branch of the core is covered: make core"]
    return Figure(text, f"{GOAL:.0%} killed, 100% of the branches", wrong)


def _branches() -> tuple[str, bool]:
    tool = [sys.executable, "-m", "coverage"]
    env = {**os.environ, "COVERAGE_FILE": str(ROOT / ".coverage-torture")}
    for command in (["erase"], ["run", "-m", "pytest", "-q", "tests/core"]):
        subprocess.run([*tool, *command], cwd=ROOT, env=env, capture_output=True)
    done = subprocess.run([*tool, "report", "--format=total", "--precision=2"], cwd=ROOT, env=env, capture_output=True)
    subprocess.run([*tool, "erase"], cwd=ROOT, env=env, capture_output=True)
    text = done.stdout.decode().strip()
    return f"{text}%", text in {"100", "100.00"}


if __name__ == "__main__":
    _serve()

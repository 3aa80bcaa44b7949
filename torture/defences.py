"""Takes every defence out, one at a time, and demands that its tests notice.

Rule: the table is `defences.toml`: a name, the promise or threat of docs/reliability.md that it is for, a file, the
text that is the defence, the text with the defence taken out, and the tests that must fail then. The change is made in
a copy of the package, never here. A defence counts as noticed only if one of its tests was run and failed: a test that
cannot be found or a module that cannot be imported proves nothing. Text that is not there exactly once is a failure,
too: the table must not outlive what it is about. All the tests run with the package as it is, too, and must pass.

What another defence covers, so that nobody could notice that it alone was taken out, stands under `covered` in the
table: where it is, and why it may go unnoticed.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from torture.rows import Figure, Params

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_name("defences.toml")
SHORT_COUNT = 12
SECONDS = 120.0
"""The tests of one defence may take this long; most take less than one second."""
CONTROL_SECONDS = 1200.0
"""The same for all of them together, with the package as it is."""
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Defence:
    """One line of the table; `file` is relative to the package, `tests` are pytest's node ids, relative to tests/.

    `slow` ones start real processes. `seconds` stand where the tests cannot end without the defence: to be at work
    still after so long counts as noticed then.
    """

    name: str
    threat: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    slow: bool = False
    seconds: float = 0.0

    @property
    def seed(self) -> int:
        """What `--seed` takes to try this one alone."""
        return zlib.crc32(self.name.encode())

    def taken_out(self) -> str:
        """Give the file's text without the defence; raises ValueError where it is not there exactly once."""
        text = (ROOT / "rsbatch" / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(
                f"its text stands {text.count(self.old)} times in rsbatch/{self.file}: bring it up to date"
            )
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Covered:
    """A defence that another one covers: `text` stands once in rsbatch/`file`; `why` nobody would notice."""

    file: str
    text: str
    why: str


def table() -> list[Defence]:
    """Read the table."""
    found = tomllib.loads(TABLE.read_text(encoding="utf-8"))["defence"]
    return [Defence(**{**entry, "tests": tuple(entry["tests"])}) for entry in found]


def covered() -> list[Covered]:
    """Read what has no entry, for another defence covers it."""
    return [Covered(**entry) for entry in tomllib.loads(TABLE.read_text(encoding="utf-8"))["covered"]]


# The process that has the libraries loaded, nothing of rsbatch, and is forked for each.


def _serve() -> None:
    """Read one job, `[name, file, text, [tests], seconds]`, a line; answer `[name, verdict, seconds]` a line."""
    jobs = [json.loads(line) for line in sys.stdin]
    _warm_up()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for name, file, text, tests, seconds in jobs:
        since = time.monotonic()
        verdict = _try_one(file, text, tests, seconds)
        out.write(json.dumps([name, verdict, round(time.monotonic() - since, 2)]) + "\n")
        out.flush()


def _warm_up() -> None:
    from hypothesis import Phase, settings

    profile = {"derandomize": True, "database": None, "phases": (Phase.explicit, Phase.generate), "deadline": None}
    settings.register_profile("defences", **profile)
    settings.load_profile("defences")
    names = "pytest anyio._backends._asyncio trio.testing httpx pydantic hypothesis.strategies anyio.pytest_plugin"
    for name in names.split():
        importlib.import_module(name)


def _try_one(file: str, text: str, tests: Sequence[str], seconds: float) -> str:
    with tempfile.TemporaryDirectory(prefix="rsbatch-defences-") as folder:
        package, report = Path(folder) / "rsbatch", Path(folder) / "report"
        shutil.copytree(ROOT / "rsbatch", package)  # with what is compiled, which goes by size and time
        if file:
            (package / file).write_text(text, encoding="utf-8")
        pid = os.fork()
        if not pid:
            _run_tests(Path(folder), file, tests, report)
        if _wait(pid, seconds or SECONDS):
            return f"{NOTICED} {tests[0]}, which did not end" if seconds else "they did not end in time"
        return report.read_text(encoding="utf-8") if report.exists() else "their process came to nothing"


def _wait(pid: int, seconds: float) -> bool:
    """Wait for a process group; true if it had to be killed."""
    until = time.monotonic() + seconds
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True
        time.sleep(0.005)
    return False


class _Listener:
    """Notes how the tests went, for a verdict that pytest's exit code is too coarse for."""

    def __init__(self) -> None:
        self.ran = 0
        self.failed = ""
        self.broken = ""

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.broken = f"{report.nodeid} cannot be collected"

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        if call.when == "call":
            self.ran += 1
        if call.excinfo is None or call.excinfo.typename == "Skipped":
            return
        if call.when == "call" and not call.excinfo.errisinstance((ImportError, NameError, SyntaxError)):
            self.failed = item.nodeid
        else:
            self.broken = f"{item.nodeid} broke: {call.excinfo.exconly(tryshort=True)[:200]}"

    def verdict(self) -> str:
        """Say `noticed by …`, `passed`, or what went wrong."""
        if self.broken:
            return self.broken
        if self.failed:
            return f"{NOTICED} {self.failed.removeprefix('tests/')}"
        return PASSED if self.ran else "no test was run"


NOTICED, PASSED = "noticed by", "passed"


def _run_tests(folder: Path, file: str, tests: Sequence[str], report: Path) -> None:
    """Run the tests with the copy of the package, here and in the processes that they start; never returns."""
    try:
        os.setpgid(0, 0)
        if "TORTURE_SHOW" not in os.environ:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)
        module = "rsbatch." + file.removesuffix(".py").replace("/", ".") if file else "rsbatch.cli"
        if not Path(str(importlib.import_module(module).__file__)).is_relative_to(folder):
            raise AssertionError("the copy is not what was imported")
        import pytest

        listener = _Listener()
        given = [
            "-x",
            "-q",
            "--no-header",
            "--tb=short",
            "-p",
            "no:xdist",
            "-p",
            "no:unraisableexception",  # it ends pytest by an exception for what an aborted test leaves to the collector
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
        ]
        code = pytest.main([*given, *(f"tests/{test}" for test in tests)], plugins=[listener])
        verdict = listener.verdict()
        if verdict == PASSED and code != 0:
            verdict = f"pytest ended with {int(code)}"
        report.write_text(verdict, encoding="utf-8")
    except BaseException as exc:
        report.write_text(f"{file} cannot be imported: {type(exc).__name__}: {exc}", encoding="utf-8")
    finally:
        os._exit(0)


# The row


def _try(jobs: Sequence[tuple[str, str, str, Sequence[str], float]]) -> dict[str, tuple[str, float]]:
    """Try all in PROCESSES processes, the slow spread over them; gives verdict and seconds by name."""
    lines = [json.dumps(job) + "\n" for job in jobs]
    servers = []
    for number in range(PROCESSES):
        process = subprocess.Popen(
            [sys.executable, "-m", "torture.defences"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        assert process.stdin is not None
        process.stdin.write("".join(lines[number::PROCESSES]))
        process.stdin.close()
        servers.append(process)
    found = {}
    for process in servers:
        assert process.stdout is not None
        for line in process.stdout:
            name, verdict, seconds = json.loads(line)
            found[name] = (verdict, seconds)
        process.stdout.close()
        process.wait()
    return found


def _replay(defence: Defence) -> str:
    return f"python -m torture defences --seed {defence.seed}"


def run(params: Params) -> Figure:
    """Take the defences out: all of them, a sample in the short form, or the one of a seed."""
    every = table()
    if params.seed is not None:
        every = [defence for defence in every if defence.seed == params.seed]
        if not every:
            return Figure("none", "noticed", ["no defence has this seed"])
    failures, jobs = [], []
    for defence in every:
        try:
            jobs.append((defence.name, defence.file, defence.taken_out(), defence.tests, defence.seconds))
        except (ValueError, OSError) as exc:
            failures.append(f"{defence.name}: {exc}; {_replay(defence)}")
    chosen = {defence.name for defence in every}
    if params.short:
        chosen = {d.name for d in Random(0).sample([d for d in every if not d.slow], SHORT_COUNT)}
    jobs = [job for job in jobs if job[0] in chosen]
    tests = sorted({test for defence in every if defence.name in chosen for test in defence.tests})
    controls = [
        (f"control {n}", "", "", tests[n::PROCESSES], CONTROL_SECONDS) for n in range(PROCESSES) if tests[n::PROCESSES]
    ]
    results = _try([*controls, *jobs])
    failures += [f"{name}: {results[name][0]}" for name, *_ in controls if results[name][0] != PASSED]
    if not params.short:
        for defence in every:
            if defence.name in results:
                print(f"  {defence.name}: {results[defence.name][0]} ({results[defence.name][1]} s)")
    noticed = {name for name, (verdict, _) in results.items() if verdict.startswith(NOTICED)}
    failures += [
        f"{d.name}: {results[d.name][0]}; {_replay(d)}" for d in every if d.name in results and d.name not in noticed
    ]
    return Figure(f"{len(noticed)} of {len(jobs)} defences noticed when taken out", "every one", failures)


if __name__ == "__main__":
    _serve()

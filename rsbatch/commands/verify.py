"""`rsbatch verify`: saved files against the ledger's size and SHA-256.

Rule: without `--fix` it writes nothing; with it it fetches, and never submits.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rsbatch.commands.common import add_manifest_arguments, print_json, project_of, say
from rsbatch.errors import Exit, UsageError
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import State
from rsbatch.model import SavedFile
from rsbatch.planning import own_sizes
from rsbatch.preview import file_sizes
from rsbatch.progress.work import working
from rsbatch.session import Project
from rsbatch.summary import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rsbatch verify`."""
    add_manifest_arguments(parser)
    parser.add_argument(
        "--fix",
        action="store_true",
        help="fetch missing or altered files again where the job still answers; altered ones are moved aside first",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compare, and mend where asked to; gives the exit code."""
    project = project_of(args)
    state = project.read_state()
    if not state.seq:
        raise UsageError(f"there is no ledger in {project.folder}; verify with the --simulate and --output of the run")
    found = list(differing(project, state))
    if not args.json:
        for history, file, how in found:
            say(f"{how:<8} {file.path}  ({history.task})")
    stopped: Result | None = None
    if found and args.fix:
        result = _fix(project)
        stopped = result if result.halted is not None else None
        state = project.read_state()
        found = list(differing(project, state))
    files = _count(state)
    if args.json:
        rows = [{"task": h.task, "key": h.key, "path": f.path, "differs": how} for h, f, how in found]
        print_json({"files": files, "differ": rows, "output": str(project.folder)})
    elif found and stopped is not None:
        say(f"{files} files, {len(found)} still differ: stopped early: {stopped.message}")
    elif found and args.fix:
        say(
            f"{files} files, {len(found)} still differ: their jobs no longer answer; "
            "`rsbatch run` with --rebuy-missing buys anew what is missing"
        )
    elif found:
        say(f"{files} files, {len(found)} differ; --fix fetches them again where the job still answers")
    else:
        say(f"{files} files, all as saved")
    if found and stopped is not None:
        return stopped.exit_code
    return Exit.SOME_FAILED if found else Exit.OK


def differing(project: Project, state: LedgerState) -> Iterator[tuple[History, SavedFile, str]]:
    """Give every saved file that is not as the ledger has it, with `missing` or `altered`."""
    with working("comparing files", "files", _count(state)) as tick:
        for history in _saved(state.histories()):
            sizes = own_sizes(history, state, file_sizes(project, history.files))
            for file, size in zip(history.files, sizes, strict=True):
                if size is None:
                    yield history, file, "missing"
                elif size != file.bytes or _sha256(project.folder / file.path) != file.sha256:
                    yield history, file, "altered"
                tick(1)


def _count(state: LedgerState) -> int:
    """Tell how many files were saved, without a look at the histories that are settled: there may be a million."""
    return sum(1 for _ in state.settled()) + sum(len(history.files) for history in _saved(state.unsettled()))


def _saved(histories: Iterable[History]) -> Iterator[History]:
    """Give what was saved, also where it is being fetched again and that was cut off."""
    again = State.GENERATED, State.DOWNLOADED
    return (h for h in histories if h.state is State.SAVED or (h.was_saved and h.state in again))


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _fix(project: Project) -> Result:
    import anyio

    from rsbatch.progress.choose import choose
    from rsbatch.session import restore

    def wanted(state: LedgerState) -> list[History]:
        return list(dict.fromkeys(history for history, _, _ in differing(project, state)))

    observer = choose("auto", sys.stderr, False)
    try:
        return anyio.run(restore, project, wanted, observer)
    finally:
        observer.close()

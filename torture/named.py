"""The named cases: what was found once, or is known to break others, each with its outcome in corpus/expected.txt.

Rule: a case is a small file, and its folder says how it is tried. The outcome is one line of words, compared as a
whole; a line of the table is `folder/name: outcome`.
"""

from __future__ import annotations

import io
from collections import Counter
from datetime import date
from pathlib import Path

from rsbatch import wire
from rsbatch.errors import LedgerDamaged, UsageError
from rsbatch.images import BadImage, inspect_image
from rsbatch.ledger.mend import Rebuild, salvage
from rsbatch.ledger.replay import lines, replay
from rsbatch.ledger.state import LedgerState
from rsbatch.manifest.check import check
from rsbatch.manifest.load import load_manifest

CORPUS = Path(__file__).with_name("corpus")
EXPECTED = CORPUS / "expected.txt"
NOW = 1_780_000_000.0


def cases() -> list[str]:
    """Names of all cases, as `folder/name`."""
    return sorted(p.relative_to(CORPUS).as_posix() for p in CORPUS.glob("*/*") if p.is_file())


def expected() -> dict[str, str]:
    """The table: outcomes by name."""
    rows = (row.partition(": ") for row in EXPECTED.read_text(encoding="utf-8").splitlines())
    return {name: outcome for name, mark, outcome in rows if mark and not name.startswith("#")}


def outcome(name: str) -> str:
    """Try a case; gives what comes of it, in words."""
    path = CORPUS / name
    how = {"answers": _answer, "ledgers": _ledger, "manifests": _manifest, "images": _image}
    return how[path.parent.name](path)


def _answer(path: Path) -> str:
    head, _, body = path.read_bytes().partition(b"\n\n")
    status, *rest = head.decode("latin-1").split("\n")
    headers = {name: value for name, _, value in (row.partition(": ") for row in rest)}
    answer = wire.Answer(int(status), headers, body)
    return f"submit {_words(wire.read_submit(answer, NOW))}, query {_words(wire.read_query(answer, NOW))}"


def _words(found: object) -> str:
    name = type(found).__name__
    match found:
        case wire.Accepted(job_id):
            return f"{name} {job_id}"
        case wire.Throttled(_, _, after):
            return f"{name} {after}"
        case wire.Refused(code, _, _, final):
            return f"{name} {code} {'final' if final else 'passing'}"
        case wire.Stop(kind):
            return f"{name} {kind.name}"
        case wire.Waiting(state):
            return f"{name} {state}"
        case wire.Done(images):
            return f"{name} {len(images)}"
        case wire.Failed(code):
            return f"{name} {code}"
    return name


def _ledger(path: Path) -> str:
    data = path.read_bytes()
    try:
        replayed = replay(io.BytesIO(data), "L")
    except LedgerDamaged as damage:
        salvaged = salvage(lines(io.BytesIO(data)))
        rebuild = Rebuild(NOW, "repair")
        for value in salvaged.values:
            rebuild.keep(value)
        rebuild.doubt_the_rest([])
        return f"damaged in line {damage.line}, repaired {_says(rebuild.state)}"
    torn = f", torn {len(replayed.torn)} bytes" if replayed.torn else ""
    return f"sound {_says(replayed.state)}{torn}"


def _says(state: LedgerState) -> str:
    counts = Counter(str(history.state) for history in state.histories())
    jobs = sorted(state.jobs())
    held = " ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing"
    return f"to {held}, spent {state.spend.total.normalize():f}, jobs {' '.join(jobs) if len(jobs) < 6 else len(jobs)}"


def _manifest(path: Path) -> str:
    try:
        manifest = load_manifest(path, today=lambda: date(2026, 5, 29))
        return f"{check(manifest).total} tasks"
    except UsageError:
        return "refused"


def _image(path: Path) -> str:
    try:
        info = inspect_image(path.read_bytes())
    except BadImage:
        return "refused"
    return f"{info.format} {info.width} × {info.height}"

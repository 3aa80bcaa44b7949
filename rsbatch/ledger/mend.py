"""Making a damaged or lost ledger usable again.

Rule: pure. A line is trusted if its checksum fits. Where records are missing, whatever cannot be shown to be
harmless is in doubt: a lost line may have been the intent of any task. No job id that can be read is given up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from rsbatch.ledger import records
from rsbatch.ledger.records import UNDER_REPAIR, BadLine, Record, decode, encode, event_of, seconds_of
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import OUT, Event, State
from rsbatch.model import EXT
from rsbatch.sidecar import Sidecar

LOST = "records of the ledger are lost: it may have been submitted"

_COMMON = {"v", "seq", "ts", "run", "type", "task", "key", "crc"}
_HARMLESS = {State.SAVED, State.FAILED_FINAL, State.HELD}
_UNANSWERED = frozenset({State.SUBMITTING, State.HELD})
_WITH_JOB = {Event.SUBMITTED, Event.ATTACHED, Event.GENERATED, Event.DOWNLOADED, Event.SAVED, Event.PARKED}


@dataclass(slots=True)
class Salvage:
    """What can be read of a damaged ledger: trusted records in their order, and what is wrong with the rest.

    `state` is what those say that come before the first problem.

    `begun`: it was lost, and a repair that did not come to its end left nothing but its mark.
    """

    values: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    state: LedgerState = field(default_factory=LedgerState)
    torn: bytes = b""
    begun: bool = False


def salvage(lines: Iterable[bytes]) -> Salvage:
    """Read all lines (each with its newline, the last perhaps without) that have a good checksum."""
    found, expected = Salvage(), 1
    given = iter(lines)
    first = list(islice(given, 2))
    if first == [UNDER_REPAIR]:
        return Salvage(begun=True)
    for number, line in enumerate(chain(first, given), 1):
        if not line.endswith(b"\n"):
            found.torn = line
            break
        try:
            value = _read(line[:-1], number, found)
        except BadLine as exc:
            found.problems.append(f"line {number}: {exc}")
            expected += 1
            continue
        try:
            if value["seq"] != expected:
                found.problems.append(f"line {number}: record {value['seq']} stands where record {expected} belongs")
            elif not found.problems:
                found.state.apply(value)
        except BadLine as exc:  # sound, and nothing that it could follow: it is kept, as it may name a job
            found.problems.append(f"line {number}: {exc}")
        expected = value["seq"] + 1
        found.values.append(value)
    return found


def _read(line: bytes, number: int, found: Salvage) -> dict[str, Any]:
    """Decode a line; one to which an editor gave a carriage return still has its record, though it is damage."""
    if not line.endswith(b"\r"):
        return decode(line)
    value = decode(line[:-1])
    found.problems.append(f"line {number}: ends in a carriage return")
    return value


def ends_before_a_job(history: History | None) -> bool:
    """Tell if a task's history ends where a job may follow, so that an image of it tells of records that are lost."""
    return history is None or history.submittable or history.state in _UNANSWERED | {State.FAILED_FINAL}


def may_be_given(history: History | None, image: Sidecar) -> bool:
    """Tell if an image that is in no record may be given to its task.

    Where an intent has no answer, known or in doubt, it must be of that very submission, or of a later one: before
    that the doubt was settled, by a record that is lost.
    """
    if history is None or history.state not in _UNANSWERED:
        return ends_before_a_job(history)
    return image.attempt > history.attempt or _is_of_its_submission(history, image)


def _is_of_its_submission(history: History, image: Sidecar) -> bool:
    """Tell if an image is of a history's newest submission, where one run made that and saved it.

    A run makes each attempt once.
    """
    return (history.attempt, history.run) == (image.attempt, image.run)


def job_of(state: LedgerState, image: Sidecar) -> tuple[str, str, str, str]:
    """Give what all images of a job have in common: id (that which the ledger has by now), key, time, the job's id."""
    return state.name_of(image.task, image.key), image.key, image.submitted, image.job_id


def lost_jobs(state: LedgerState, sidecars: Iterable[Sidecar]) -> Iterator[list[Sidecar]]:
    """Give the sidecars of each job whose records `state` lacks, where all its images lie there; by id, key and time.

    Their tasks have the ids that the ledger has for them by now. Of several that say they are of the same image the
    first is taken. A task may have been bought several times.
    """
    groups: defaultdict[tuple[str, str, str, str], dict[int, Sidecar]] = defaultdict(dict)
    for one in sidecars:
        job = job_of(state, one)
        groups[job].setdefault(one.image, replace(one, task=job[0]))
    given = set()
    for (task, key, _, job_id), images in sorted(groups.items(), key=itemgetter(0)):
        found = list(images.values())
        history = state.get(task, key) if (task, key) not in given else None
        taken = state.of_job(job_id) is not None
        if len(found) == found[0].images and not taken and may_be_given(history, found[0]):
            given.add((task, key))
            yield found


class Rebuild:
    """A new ledger in the making: `lines` are its bytes so far, `state` what they say.

    `now` (seconds since 1970) and `run` stamp the records that are added. `unplaced` has the sidecars of jobs that no
    task was given.
    """

    def __init__(self, now: float, run: str) -> None:
        self.state = LedgerState()
        self.lines: list[bytes] = []
        self.left_out = 0
        self.unplaced: list[Sidecar] = []
        self._now = now
        self._run = run
        self._end = 0

    def put(self, record: Record, *, ts: float | None = None, run: str | None = None) -> None:
        """Add a record; raises BadLine, changing nothing, where it cannot follow."""
        stamp = self._now if ts is None else ts
        line, value = encode(record, seq=self.state.seq + 1, ts=stamp, run=run or self._run)
        self.state.apply(value, self._end)
        self.lines.append(line)
        self._end += len(line)

    def keep(self, value: Mapping[str, Any]) -> None:
        """Add a trusted record of the old ledger, bridging what was lost before it; left out where that cannot be."""
        fields = {name: v for name, v in value.items() if name not in _COMMON}
        record = Record(value["type"], value.get("task", ""), value.get("key", ""), fields)
        try:
            ts, run = seconds_of(value["ts"]), value["run"]
            hash((record.task, record.key))
        except (ValueError, TypeError):
            self.left_out += 1
            return
        try:
            self.put(record, ts=ts, run=run)
        except BadLine:
            try:
                if self._bridge(value):
                    self.put(record, ts=ts, run=run)
            except BadLine:
                self.left_out += 1

    def _bridge(self, value: Mapping[str, Any]) -> bool:
        """Put what must come before `value`; False if `value` itself adds nothing then. Raises BadLine."""
        event, task, key = event_of(value), value.get("task", ""), value.get("key", "")
        history = self.state.get(task, key)
        job_id = value.get("job_id")
        if event is Event.FAILED_FINAL:
            self._doubt(task, key)
            return True
        if event not in _WITH_JOB or not isinstance(job_id, str):
            raise BadLine("it says nothing that is worth bridging to")
        if history is None or history.job_id != job_id:
            self._job(history, task, key, job_id)
        files = value.get("files")
        if event in {Event.DOWNLOADED, Event.SAVED} and not isinstance(files, list):
            raise BadLine("it names no files")
        if files is not None:
            self.put(records.generated(task, key, job_id=job_id, images=len(files), waited_s=0, queries=0))
        if event is Event.SAVED:
            self.put(Record("downloaded", task, key, {"job_id": job_id, "files": files}))
        return event not in {Event.SUBMITTED, Event.ATTACHED}

    def _job(self, history: History | None, task: str, key: str, job_id: str) -> None:
        """Give a job whose records are lost to its task, by whatever way is open to it."""
        if history is not None and (history.state in OUT or history.state is State.SAVED):
            if history.state is not State.SAVED:  # it ended, or no other would have been submitted
                self.put(records.failed(task, key, stage="generate", final=True, code="lost", message=LOST))
            attempt, path = history.attempt + 1, history.path
            self.put(records.submitting(task, key, attempt=attempt, request=None, usd=history.usd, path=path))
            self.put(records.submitted(task, key, attempt=attempt, job_id=job_id, request_id=None))
            return
        if history is None or history.state is not State.FAILED_FINAL:
            self._doubt(task, key)
        self.put(records.resolved(task, key, how="attached", job_id=job_id))

    def _doubt(self, task: str, key: str) -> None:
        history = self.state.get(task, key)
        if history is None or history.state is not State.HELD:
            attempt = history.attempt if history is not None else 1
            self.put(records.in_doubt(task, key, attempt=attempt, reason=LOST))

    def doubt_the_rest(self, tasks: Iterable[tuple[str, str]]) -> int:
        """Put in doubt all that may have been submitted by a lost record, `tasks` (id, key) never seen included."""
        suspects = [(h.task, h.key) for h in self.state.histories() if h.state not in _HARMLESS and not h.out]
        suspects += [(task, key) for task, key in tasks if self.state.get(task, key) is None]
        for task, key in suspects:
            self._doubt(task, key)
        self.put(records.repaired())
        return len(suspects)

    def adopt_all(self, sidecars: Iterable[Sidecar]) -> None:
        """Adopt every job whose records are lost and all of whose sidecars are there; each has its true path."""
        images = list(sidecars)
        for found in lost_jobs(self.state, images):
            self.adopt(found)
        self.unplaced = [one for one in images if self.state.of_job(one.job_id) is None]

    def adopt(self, sidecars: Sequence[Sidecar]) -> None:
        """Add one saved job by what lies beside its images: all sidecars of one (task, key), in any order."""
        ordered = sorted(sidecars, key=lambda s: s.image)
        found = ordered[0]
        task, key, job_id = found.task, found.key, found.job_id
        files = [asdict(s.file) for s in ordered]
        self._submit(found)
        self.put(records.generated(task, key, job_id=job_id, images=found.images, waited_s=0, queries=0))
        self.put(Record("downloaded", task, key, {"job_id": job_id, "files": files}))
        self.put(Record("saved", task, key, {"job_id": job_id, "files": files}))

    def _submit(self, one: Sidecar) -> None:
        """Put the submission that an image is of, after whatever is known of its task."""
        task, key = one.task, one.key
        history, intended = self.state.get(task, key), False
        if history is not None and history.state in _UNANSWERED:
            intended = _is_of_its_submission(history, one)
            if intended and history.state is State.HELD:
                self.put(records.resolved(task, key, how="attached", job_id=one.job_id))
                return
            if not intended:
                self._doubt(task, key)
                self.put(records.resolved(task, key, how="resubmit"))
        if not intended:
            path = f"{one.file.path.removesuffix(f'.{one.file.format}')}.{EXT}"
            self.put(records.submitting(task, key, attempt=one.attempt, request=one.request, usd=one.usd, path=path))
        self.put(records.submitted(task, key, attempt=one.attempt, job_id=one.job_id, request_id=one.request_id))

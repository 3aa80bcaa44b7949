"""Judges a night: what the service accepted, what the network saw and what the files are, against the ledger.

Rule: the ledger is never believed where something else can be asked; money is counted anew from the raw records.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from rsbatch import sidecar
from rsbatch.errors import Exit
from rsbatch.ledger.replay import replay
from rsbatch.ledger.rescue import merge
from rsbatch.ledger.state import History, LedgerState
from rsbatch.lifecycle import State
from rsbatch.model import Limits, Rules, Selection, Task
from rsbatch.planning import selects
from rsbatch.simulator.brief import Brief
from rsbatch.simulator.engine import Job
from rsbatch.storage.interface import sidecar_path
from rsbatch.summary import Result
from torture.mishaps import Sent, Weather
from torture.people import tiny
from torture.world import World

_CATCH_UP = 0.05
"""Lateness that a gate makes good, as in `rsbatch.pacing`."""
_ROUNDING = 1e-6


class Judge:
    """Looks before and after each run of a night, and once at its end. `failures` are sentences."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.failures: list[str] = []
        self.accepted: Counter[str] = Counter()
        """Jobs by prompt, as the service accepted them."""
        self.deleted: set[str] = set()
        self.planted: set[bytes] = set()
        self._jobs: dict[str, Job] = {}
        self._forgotten: set[str] = set()
        self._most: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._prompts: dict[str, str] = {}
        self._delivered: dict[str, str] = {}
        self._budgets: dict[int, Decimal | None] = {}
        self._runs = 0
        self._faults: set[str] = set()
        self._before: Counter[bytes] = Counter()
        self._now: tuple[Sequence[Task], Limits, Rules, Selection, Weather]
        world.engine._keep = self._keep

    def wrong(self, text: str) -> None:
        """Take down a failure."""
        self.failures.append(text if not self._runs else f"run {self._runs}: {text}")

    def forget_job(self, job_id: str) -> None:
        """Let the service forget a job."""
        self._forgotten.add(job_id)
        del self._world.engine.jobs[job_id]

    def _keep(self, record: dict[str, Any]) -> None:
        if record["type"] == "job":
            self.accepted[record["brief"]["prompt"]] += 1

    # before a run

    def before(
        self, work: Sequence[Task], limits: Limits, rules: Rules, selection: Selection, weather: Weather
    ) -> None:
        """Take down what this run is asked to do, and what is there."""
        self._runs += 1
        self._now = work, limits, rules, selection, weather
        self._faults |= set(self._world.settings.faults)
        state = self._as_opened()
        self._budgets[state.runs + 1] = rules.budget
        for task in work:
            self._prompts[task.key] = task.body["prompt"]
        self._most |= Counter(task.key for task in work)
        for history in state.histories():
            self._asked[history.key] += self._asks(history, rules, selection)
        self._before = self._kept_files()
        weather.on_submit = self._check_in_flight

    def _as_opened(self) -> LedgerState:
        disk = self._world.disk
        replayed = replay(io.BytesIO(bytes(disk.data)), "memory")
        merge(replayed.state, disk.rescued, replayed.end)
        return replayed.state

    def _asks(self, history: History, rules: Rules, selection: Selection) -> bool:
        """Tell if this run may buy once more what this history has bought, or may have bought."""
        if history.state in {State.HELD, State.SUBMITTING}:
            return rules.in_doubt == "resubmit"
        if history.state is State.FAILED_FINAL:
            return selection.retry_failed
        if history.state is State.SAVED:
            gone = any(f.path not in self._world.storage._files for f in history.files)
            return gone and selection.rebuy_missing
        return False

    def _kept_files(self) -> Counter[bytes]:
        """All that may not vanish: images, and what people put there."""
        files = self._world.storage._files
        return Counter(data for path, data in files.items() if not path.endswith(".json") or data in self.planted)

    # during a run

    def _check_in_flight(self) -> None:
        world, (_, limits, _, _, weather) = self._world, self._now
        assert world.live is not None
        now = world.now()
        out = [h.job_id for h in world.live.jobs_out() if h.state is State.SUBMITTED]
        running = sum(1 for job in out if job in world.engine.jobs and world.engine.jobs[job].end > now)
        if running + weather.open > limits.in_flight:
            self.wrong(f"{running} jobs and {weather.open} submissions at once, of {limits.in_flight} allowed")

    # after a run

    def after(self, result: Result | None) -> None:
        """Look at everything after a run; `result` is None for one that was killed."""
        self._jobs |= self._world.engine.jobs
        state = replay(io.BytesIO(bytes(self._world.disk.data)), "memory").state
        self._check_rates()
        self._check_purchases()
        self._check_money(state)
        self._check_files(state)
        missing = self._before - self._kept_files()
        if missing:
            self.wrong(f"{sum(missing.values())} files were overwritten or lost")
        if result is None:
            return
        for sent in self._now[4].sent:
            if sent.returned and (job_id := _job_id_in(sent)) is not None:
                self._delivered[job_id] = json.loads(sent.body)["prompt"]
        self._check_doubts(state, result)
        self._check_exit(state, result)

    def _check_rates(self) -> None:
        _, limits, _, _, weather = self._now
        late = 0.1 if self._world.disk_latency is not None else 0.0  # an intent waits for at most two syncs
        for name, times, rate, slack in (
            ("submissions", [s.at for s in weather.sent], limits.submits_per_second, _CATCH_UP + late),
            ("queries", weather.queries, limits.queries_per_second, _CATCH_UP),
        ):
            due = float("-inf")  # generic cell rate algorithm
            for at in times:
                if due - at > slack + _ROUNDING:
                    self.wrong(f"{name} came {due - at:.3f} s too early at {at:.3f} s for {rate} per second")
                    break
                due = max(due, at) + 1 / rate

    def _check_purchases(self) -> None:
        for key, prompt in self._prompts.items():
            most = self._most[key] + self._asked[key]
            if self.accepted[prompt] > most:
                self.wrong(f"{prompt!r} was paid {self.accepted[prompt]} times, and {most} were asked for")

    def _check_money(self, state: LedgerState) -> None:
        """Count all money anew: every intent that was not freed."""
        spent, run = Decimal(0), 0
        open_: dict[tuple[str, str], Decimal] = {}
        for value in self._world.records():
            kind = value["type"]
            at = value.get("task", ""), value.get("key", "")
            if kind == "run_started":
                run += 1
            elif kind == "submitting":
                open_[at] = Decimal(value["usd"] or 0)
                spent += open_[at]
                budget = self._budgets.get(run)
                if budget is not None and spent > budget:
                    self.wrong(f"${spent} spent of a budget of ${budget}")
            elif kind == "renamed":
                open_[at] = open_.pop((value["from"], at[1]), Decimal(0))
            elif kind == "not_submitted" or (kind == "resolved" and value["how"] == "not_sent"):
                spent -= open_.pop(at, Decimal(0))
        if spent != state.spend.total:
            self.wrong(f"the ledger says ${state.spend.total} were spent, its records say ${spent}")

    def _check_files(self, state: LedgerState) -> None:
        files = self._world.storage._files
        for history in state.histories():
            if history.state is not State.SAVED:
                continue
            job = self._jobs[history.job_id or ""]
            for number, file in enumerate(history.files):
                data = files.get(file.path)
                if data is None:
                    if file.path not in self.deleted:
                        self.wrong(f"{history.task} is recorded as saved, and {file.path} is not there")
                    continue
                if data in self.planted or (file.path in self.deleted and state.owner_of(file.path) is not history):
                    continue  # a person's, or in the place of what a person deleted
                if data != _image_of(job, number, file.format):
                    self.wrong(f"{file.path} is not image {number} of job {job.job_id}")
                elif hashlib.sha256(data).hexdigest() != file.sha256:
                    self.wrong(f"{file.path} has not the hash that is recorded")
                self._check_sidecar(history, file.path, file.sha256)

    def _check_sidecar(self, history: History, path: str, sha256: str) -> None:
        found = sidecar.parse(self._world.storage._files.get(sidecar_path(path), b""))
        if found is None or found.file.sha256 != sha256 or found.key != history.key:
            self.wrong(f"{path} of {history.task} has no sidecar of its own")

    def _check_doubts(self, state: LedgerState, result: Result) -> None:
        sent = defaultdict(list)
        for one in self._now[4].sent:
            sent[json.loads(one.body)["prompt"]].append(one)
        for value in self._world.records("in_doubt"):
            if value["run"] != result.run or value["reason"].startswith("a crash"):
                continue
            if not any(one.sent for one in sent[self._prompts[value["key"]]]):
                self.wrong(f"{value['task']} is in doubt, and nothing had been sent: {value['reason']}")

    def _check_exit(self, state: LedgerState, result: Result) -> None:
        work, _, _, selection, _ = self._now
        if result.exit_code is not Exit.OK or selection.limit is not None:
            return
        for task in work:
            history = state.get(task.id, task.key)
            if selects(selection, task.id) and (history is None or history.state is not State.SAVED):
                self.wrong(f"exit 0, and {task.id} is {history.state if history else 'new'}")

    # at the end

    def finally_(self) -> None:
        """Look whether the quiet run brought in everything that can be."""
        work, state = self._now[0], self._world.state
        for task in work:
            history = state.get(task.id, task.key)
            if history is None or history.state not in {State.SAVED, State.HELD, State.FAILED_FINAL}:
                self.wrong(f"{task.id} is {history.state if history else 'new'} after the quiet run")
        for history in state.jobs_out():
            self.wrong(f"{history.task} still has job {history.job_id} out after the quiet run")
        ends = self._ends()
        for job_id, prompt in self._delivered.items():
            if job_id not in ends:
                self.wrong(f"the answer with job {job_id} ({prompt}) came and is not recorded")
        for job_id, (kind, code) in ends.items():
            self._check_end(self._jobs[job_id], kind, code)
        for history in state.histories():
            if history.state is State.SAVED and history.job_id not in self._forgotten:
                for file in history.files:
                    if file.path not in self._world.storage._files and self._owned(history, work):
                        self.wrong(f"{file.path} could be fetched again and was not")

    def _owned(self, history: History, work: Sequence[Task]) -> bool:
        return any((task.id, task.key) == (history.task, history.key) for task in work)

    def _ends(self) -> dict[str, tuple[str, str]]:
        """How each recorded job ended: the type of its last record, and the code of a failure."""
        ends: dict[str, tuple[str, str]] = {}
        current: dict[tuple[str, str], str] = {}
        for value in self._world.records():
            at = value.get("task", ""), value.get("key", "")
            kind = value["type"]
            if kind == "renamed" and (value["from"], at[1]) in current:
                current[at] = current.pop((value["from"], at[1]))
            if kind in {"submitted", "resolved"} and value.get("job_id"):
                current[at] = value["job_id"]
            if kind == "submitting":
                current.pop(at, None)
            if at in current and kind not in {"moved", "renamed"}:
                ends[current[at]] = kind, _code_of(value)
        return ends

    def _check_end(self, job: Job, kind: str, code: str) -> None:
        """A recorded job is saved, or ended as the service said."""
        if job.job_id in self._forgotten and (kind, code) == ("failed", "job_not_found"):
            return
        if "query-done-early" in self._faults and (kind, code) == ("failed", "no_images"):
            return  # three times in a row is the word of the service
        wanted = ("saved", "")
        if job.outcome == "FAIL":
            wanted = ("failed", "fail")
        elif job.images == 0:
            wanted = ("failed", "no_images")
        if (kind, code) != wanted:
            self.wrong(f"job {job.job_id} ended as {kind} {code}, and should have as {' '.join(wanted)}")


def _code_of(value: Mapping[str, Any]) -> str:
    return str(value["code"]) if value["type"] == "failed" else ""


def _job_id_in(sent: Sent) -> str | None:
    try:
        value = json.loads(sent.answer)
    except ValueError:
        return None
    return (value.get("job_id") or None) if isinstance(value, dict) else None


def _image_of(job: Job, number: int, ext: str) -> bytes:
    brief = Brief.unpack(job.brief)
    form = {"png": "png", "jpg": "jpeg", "webp": "webp"}[ext]
    return tiny(brief.sha256, brief.variation, number, form)

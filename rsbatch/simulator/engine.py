"""The service itself: what it accepts, when each job runs and ends, what it answers, what was paid.

Rule: pure. It is given the time (`now`, epoch seconds) with every request, does no IO, draws nothing and
knows no event loop. What has to survive a restart goes to `keep`, which returns when it is safe, before the
answer is given back.

A job's whole life is known when it is accepted: jobs run first come, first served, and its service time is
drawn then. So nothing has to happen while time passes, and a restart changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import hmac
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import exp, inf
from statistics import NormalDist
from typing import Any
from urllib.parse import parse_qs

from rsbatch.simulator import answers, mishaps, wire
from rsbatch.simulator.answers import Answer
from rsbatch.simulator.brief import THUMBNAIL, Brief, Picture
from rsbatch.simulator.faults import Fault, compile_faults, draw, fraction
from rsbatch.simulator.references import is_data_url, thumbnail
from rsbatch.simulator.settings import Settings
from rsbatch.simulator.wire import Refusal, Request, invalid

Record = dict[str, Any]
Keep = Callable[[Record], None]

MINUTE = 60.0
_SEVERAL = 3
_FAILURES = (
    "the image could not be generated",
    "generation timed out upstream",
    "the result did not pass review",
)
_OTHER_FORMAT = {"png": "webp", "jpeg": "png", "webp": "png"}


@dataclass(slots=True)
class Job:
    """One accepted order. Times are epoch seconds; only the two counters at the end ever change.

    `shape` is the fault that decides its outcome, `lost` the fault that swallowed the answer with its id;
    empty: none.
    """

    job_id: str
    request_id: str
    sha256: str
    brief: bytes
    accepted: float
    start: float
    end: float
    shape: str = ""
    lost: str = ""
    queries: int = 0
    downloads: int = 0

    def status(self, now: float) -> str:
        """`WAIT`, `RUN`, then `DONE` or `FAIL`."""
        if now < self.start:
            return "WAIT"
        if now < self.end:
            return "RUN"
        return self.outcome

    @property
    def outcome(self) -> str:
        """`DONE` or `FAIL`."""
        return "FAIL" if self.shape.startswith("fail-") else "DONE"

    @property
    def charged(self) -> bool:
        """Whether the order costs an image: all do, but those that end in FAIL."""
        return self.outcome == "DONE"

    @property
    def images(self) -> int:
        """How many images it has in the end."""
        if self.outcome == "FAIL" or self.shape == "done-empty":
            return 0
        return _SEVERAL if self.shape == "done-several" else 1


def _forget(_: Record) -> None:
    """Keep nothing: an engine without a state file."""


class Engine:
    """The simulated service.

    `handle` is all a shell needs; `keep` receives each record that a restart needs back.

    `restarts` is how often the state was opened before, so that a restarted simulator does not repeat its
    faults.
    """

    def __init__(self, settings: Settings | None = None, *, keep: Keep = _forget) -> None:
        self.settings = settings or Settings()
        self.restarts = 0
        self.jobs: dict[str, Job] = {}
        self._keep = keep
        self._chances = compile_faults(self.settings.faults)
        self._sticky = tuple(c for c in self._chances["submit"] if c.name == "moderation")
        self._passing = tuple(c for c in self._chances["submit"] if c.name != "moderation")
        self._thumbnails: dict[str, bytes] = {}
        self._attempts: Counter[str] = Counter()
        self._orders: Counter[str] = Counter()
        self._requests: dict[str, Counter[str]] = {
            "submit": Counter(),
            "query": Counter(),
            "image": Counter(),
        }
        self._struck: Counter[str] = Counter()
        self._slots: list[float] = []  # heap: when each slot is free again
        self._ends: list[float] = []  # heap: when each job in flight ends
        self._lately: deque[float] = deque()  # when those of the last minute were accepted
        self._max_in_flight = 0
        self._charged = 0
        secret = f"rsbatch simulator {self.settings.seed}".encode()
        self._secret = hashlib.sha256(secret).digest()

    # -- requests ----------------------------------------

    def handle(self, request: Request, now: float) -> Answer:
        """Answer any request. Raises only what `keep` raises."""
        if request.path == wire.SUBMIT:
            return self._counted("submit", request, now, self._submit)
        if request.path == wire.QUERY:
            return self._counted("query", request, now, self._query)
        if request.path.startswith(wire.IMAGES):
            return self._counted("image", request, now, self._image)
        if request.path == wire.AUDIT:
            if request.method != "GET":
                return answers.wrong_method("GET")
            return answers.of_json(self.audit(now))
        return answers.not_found()

    def _counted(self, kind: str, request: Request, now: float, answer: Callable[[Request, float], Answer]) -> Answer:
        allowed = "GET" if kind == "image" else "POST"
        if request.method != allowed:
            given = answers.wrong_method(allowed)
        else:
            try:
                given = answer(request, now)
            except Refusal as refusal:
                given = answers.of_refusal(refusal)
        self._requests[kind]["no answer" if given.manner.reset else str(given.status)] += 1
        return given

    # -- submissions ----------------------------------------

    def _submit(self, request: Request, now: float) -> Answer:
        wire.check_key(request.header("authorization"), self.settings.key)
        fields = wire.read_fields(request)
        wire.check_submission(fields)
        model = fields.get("model") or wire.DEFAULT_MODEL
        if not self.settings.knows_model(model):
            raise Refusal(404, "model_not_found", f"model {model} does not exist or is not available to this key")
        sha256 = wire.canonical_sha256(fields)
        brief = self._brief(fields, sha256, model)
        attempt = self._attempts[sha256]
        self._attempts[sha256] += 1
        about = (sha256, self.restarts, attempt)
        fault = draw(self._sticky, self.settings.seed, sha256) or draw(self._passing, self.settings.seed, *about)
        if fault is not None and not fault.accepts:
            return self._strike(fault, now, Answer(), *about)
        self._check_room(now)
        job = self._accept(brief, about, now, lost=fault.name if fault else "")
        good = answers.of_json({"request_id": job.request_id, "job_id": job.job_id})
        return self._strike(fault, now, good, *about) if fault else good

    def _brief(self, fields: wire.Fields, sha256: str, model: str) -> Brief:
        width, height = wire.read_size(fields)
        images = [image for image in fields.get("images", []) if image]
        return Brief(
            sha256=sha256,
            prompt=fields.get("prompt", ""),
            model=model,
            width=width,
            height=height,
            quality=fields.get("quality", ""),
            transparent=fields.get("background") == "transparent",
            format=fields.get("output_format") or "png",
            compression=fields.get("output_compression"),
            logo=fields.get("logo_add", 0) == 1,
            references=tuple(self._reference(f"images[{n}]", url) for n, url in enumerate(images)),
            mask=self._reference("mask", fields["mask"]) if fields.get("mask") else "",
            variation=self._orders[sha256],
        )

    def _reference(self, name: str, url: str) -> str:
        """Return a reference as it stands in the brief; raise Refusal for what is neither URL nor image."""
        if not is_data_url(url):
            if not url.lower().startswith(("http://", "https://")):
                raise invalid(f"{name} must be an http, https or data URL")
            return url
        known = hashlib.sha256(url.encode()).hexdigest()
        if known not in self._thumbnails:
            try:
                small = thumbnail(url)
            except ValueError:
                raise invalid(f"{name} is not an image") from None
            self._keep({"type": "thumbnail", "sha256": known, "webp": base64.b64encode(small).decode()})
            self._thumbnails[known] = small
        return THUMBNAIL + known

    def _check_room(self, now: float) -> None:
        balance, slots = self.settings.balance, self.settings.slots
        if balance is not None and self._charged >= balance:
            raise Refusal(402, "insufficient_balance", "balance is not sufficient")
        if self._accepted_lately(now) >= (self.settings.per_minute or inf):
            most = self.settings.per_minute
            raise Refusal(429, "rate_limit_exceeded", f"at most {most} submissions a minute")
        if not self.settings.queueing and self.in_flight(now) >= slots:
            raise Refusal(429, "concurrency_limit_exceeded", f"at most {slots} tasks at a time")

    def _accept(self, brief: Brief, about: tuple[str, int, int], now: float, lost: str) -> Job:
        seed = self.settings.seed
        shape = draw(self._chances["job"], seed, *about)
        start = max(now, self._slots[0]) if len(self._slots) >= self.settings.slots else now
        job_id, request_id = self._ids(about, now)
        job = Job(
            job_id=job_id,
            request_id=request_id,
            sha256=brief.sha256,
            brief=brief.pack(),
            accepted=now,
            start=start,
            end=start + self._service_time(about),
            shape=shape.name if shape else "",
            lost=lost,
        )
        self._keep(_job_record(job, brief))
        if shape:
            self._struck[shape.name] += 1
        self._enter(job, brief, now)
        return job

    def _enter(self, job: Job, brief: Brief, now: float) -> None:
        self.jobs[job.job_id] = job
        self._orders[brief.sha256] += 1
        self._charged += job.charged
        self._lately.append(job.accepted)
        if len(self._slots) >= self.settings.slots:
            heapq.heappop(self._slots)
        heapq.heappush(self._slots, job.end)
        heapq.heappush(self._ends, job.end)
        self._max_in_flight = max(self._max_in_flight, self.in_flight(now))

    def _service_time(self, about: tuple[str, int, int]) -> float:
        at = fraction(self.settings.seed, "service time", *about)
        normal = NormalDist().inv_cdf(min(max(at, 1e-4), 1 - 1e-4))  # no job takes for ever
        return self.settings.service_time * exp(self.settings.sigma * normal) / self.settings.speed

    def _ids(self, about: tuple[str, int, int], now: float) -> tuple[str, str]:
        day = time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
        salt = 0
        while True:
            text = "\x1f".join(map(str, (self.settings.seed, "id", *about, salt)))
            name = hashlib.sha256(text.encode()).hexdigest()
            job_id = f"task_{day}_{name[:8]}"
            if job_id not in self.jobs:
                return job_id, f"req_{name[8:18]}"
            salt += 1

    def in_flight(self, now: float) -> int:
        """How many jobs are accepted and not ended."""
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        return len(self._ends)

    def _accepted_lately(self, now: float) -> int:
        while self._lately and self._lately[0] <= now - MINUTE / self.settings.speed:
            self._lately.popleft()
        return len(self._lately)

    def _strike(self, fault: Fault, now: float, good: Answer, *about: object, elsewhere: str = "") -> Answer:
        self._struck[fault.name] += 1
        roll = fraction(self.settings.seed, "roll", fault.name, *about)
        return mishaps.strike(fault, mishaps.Scene(self.settings, now, roll, good, elsewhere))

    # -- queries ----------------------------------------

    def _query(self, request: Request, now: float) -> Answer:
        wire.check_key(request.header("authorization"), self.settings.key)
        job_id = wire.read_job_id(wire.read_fields(request))
        job = self.jobs.get(job_id)
        if job is None:
            raise Refusal(404, "job_not_found", "job not found")
        about = (job_id, self.restarts, job.queries)
        job.queries += 1
        good = self._state(job, request.origin, now)
        fault = draw(self._chances["query"], self.settings.seed, *about)
        if fault is None or (fault.name == "query-done-early" and job.status(now) != "DONE"):
            return good
        return self._strike(fault, now, good, *about)

    def _state(self, job: Job, origin: str, now: float) -> Answer:
        status = job.status(now)
        fields: dict[str, Any] = {"status": status, "created": int(job.accepted)}
        if status == "FAIL":
            reason = _FAILURES[int(fraction(self.settings.seed, "reason", job.job_id) * len(_FAILURES))]
            return answers.of_json(fields | _failure(job.shape, reason))
        if status != "DONE":
            return answers.of_json(fields)
        if job.shape == "done-b64":
            return Answer(envelope=fields, pictures=(self._picture(job, 0),))
        urls = [self._url(job, index, origin, now) for index in range(job.images)]
        data = urls if job.shape == "done-strings" else [{"url": url} for url in urls]
        return answers.of_json(fields | {"data": data})

    # -- images ----------------------------------------

    def _format(self, job: Job, brief: Brief) -> str:
        return _OTHER_FORMAT[brief.format] if job.shape == "done-other-format" else brief.format

    def _picture(self, job: Job, index: int) -> Picture:
        brief = Brief.unpack(job.brief)
        brief = replace(brief, index=index, format=self._format(job, brief))
        shown = [self._thumbnails.get(name.removeprefix(THUMBNAIL)) for name in (*brief.references, brief.mask)]
        return Picture(brief, tuple(shown[:-1]), shown[-1])

    def _url(self, job: Job, index: int, origin: str, now: float, hop: int = 0) -> str:
        asked = Brief.unpack(job.brief).format  # the name promises what was asked for, whatever the bytes are
        path = f"{wire.IMAGES}{job.job_id}/{index}.{wire.EXTENSIONS[asked]}"
        expires = int((now + self.settings.url_ttl / self.settings.speed) * 1000)
        return f"{origin}{path}?expires={expires}&hop={hop}&signature={self._sign(path, expires, hop)}"

    def _sign(self, path: str, expires: int, hop: int) -> str:
        text = f"{path}\n{expires}\n{hop}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:40]

    def _image(self, request: Request, now: float) -> Answer:
        signed = {name: values[0] for name, values in parse_qs(request.query).items()}
        try:
            expires, hop = int(signed.get("expires", "")), int(signed.get("hop", ""))
            signature = self._sign(request.path, expires, hop)
            right = hmac.compare_digest(signature.encode(), signed.get("signature", "").encode())
        except ValueError:
            right = False
        if not right:
            return answers.of_store(403, "SignatureDoesNotMatch", "The signature does not match.")
        if now * 1000 >= expires:
            return answers.of_store(403, "AccessDenied", "Request has expired")
        job_id, _, name = request.path.removeprefix(wire.IMAGES).partition("/")
        job, index = self.jobs.get(job_id), int(name.partition(".")[0])
        if job is None:
            return answers.of_store(404, "NoSuchKey", "The specified key does not exist.")
        return self._download(job, index, hop, request.origin, now)

    def _download(self, job: Job, index: int, hop: int, origin: str, now: float) -> Answer:
        about = (job.job_id, index, self.restarts, job.downloads)
        self._keep({"type": "download", "job_id": job.job_id})
        job.downloads += 1
        picture = self._picture(job, index)
        good = Answer(content_type=wire.FORMATS[picture.brief.format], pictures=(picture,))
        fault = draw(self._chances["image"], self.settings.seed, *about)
        if fault is None or (fault.name == "image-redirect" and hop):
            return good
        return self._strike(fault, now, good, *about, elsewhere=self._url(job, index, origin, now, hop=1))

    # -- memory and audit ----------------------------------------

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take back one record that `keep` was given; unknown ones are passed over."""
        match record.get("type"):
            case "opened":
                self.restarts += 1
            case "thumbnail":
                self._thumbnails[record["sha256"]] = base64.b64decode(record["webp"])
            case "job":
                brief = Brief.of(record["brief"])
                facts = {name: record[name] for name in _JOB_FACTS}
                self._enter(Job(brief=brief.pack(), **facts), brief, record["accepted"])
            case "download" if record["job_id"] in self.jobs:
                self.jobs[record["job_id"]].downloads += 1

    def audit(self, now: float) -> dict[str, Any]:
        """Return what was accepted and paid, as JSON values: `{"totals": {…}, "jobs": [{…}, …]}`.

        Counts of requests, queries and faults are those since this process started; the rest survives a
        restart.
        """
        return {"totals": self._totals(now), "jobs": [_audit_line(job, now) for job in self.jobs.values()]}

    def _totals(self, now: float) -> dict[str, Any]:
        jobs = self.jobs.values()
        return {
            "accepted": len(jobs),
            "charged": self._charged,
            "delivered": sum(not job.lost for job in jobs),
            "lost": sum(bool(job.lost) for job in jobs),
            "states": dict(Counter(job.status(now) for job in jobs)),
            "in_flight": self.in_flight(now),
            "max_in_flight": self._max_in_flight,
            "downloads": sum(job.downloads for job in jobs),
            "requests": {kind: dict(counts) for kind, counts in self._requests.items()},
            "faults": dict(self._struck),
            "restarts": self.restarts,
        }


_JOB_FACTS = ("job_id", "request_id", "sha256", "accepted", "start", "end", "shape", "lost")


def _job_record(job: Job, brief: Brief) -> Record:
    return {"type": "job", **{name: getattr(job, name) for name in _JOB_FACTS}, "brief": brief.fields()}


def _failure(shape: str, reason: str) -> dict[str, Any]:
    if shape == "fail-message":
        return {"message": reason}
    if shape == "fail-error-object":
        return {"error": {"message": reason}}
    return {"error_message": reason}


def _audit_line(job: Job, now: float) -> dict[str, Any]:
    brief = Brief.unpack(job.brief)
    return {
        "job_id": job.job_id,
        "request_id": job.request_id,
        "body_sha256": job.sha256,
        "prompt": brief.prompt,
        "model": brief.model,
        "accepted": job.accepted,
        "status": job.status(now),
        "outcome": job.outcome,
        "images": job.images,
        "charged": job.charged,
        "delivered": not job.lost,
        "lost_by": job.lost or None,
        "fault": job.shape or None,
        "queries": job.queries,
        "downloads": job.downloads,
    }

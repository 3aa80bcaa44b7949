"""A batch as a run leaves it: a manifest, a ledger and images, made at once and without a service."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from rsbatch.body import ledger_form
from rsbatch.ledger import records
from rsbatch.ledger.records import Record, encode
from rsbatch.manifest.load import load_manifest
from rsbatch.model import EXT, SavedFile, Task

NOW = 1_780_000_000.0
SIDE = 96


def draw(number: int, text: str) -> bytes:
    image = Image.new("RGB", (SIDE, SIDE), f"hsl({number * 47 % 360}, 60%, {35 + number * 7 % 40}%)")
    ImageDraw.Draw(image).text((6, 6), text[:14], "white")
    data = BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


class Batch:
    """Writes a manifest and what a run of it leaves; `fates` says by id what became of a task (else it is saved)."""

    def __init__(
        self, folder: Path, text: str, fates: dict[str, str] | None = None, *, simulated: bool = False
    ) -> None:
        self.manifest = folder / "batch.yaml"
        self.manifest.write_text(text, "utf-8")
        self.output = folder / "outputs" / ("batch-simulated" if simulated else "batch")
        self.output.mkdir(parents=True, exist_ok=True)
        self.lines: list[bytes] = []
        loaded = load_manifest(self.manifest)
        self.tasks = list(loaded.tasks([]))
        service = "simulator" if simulated else loaded.api.base_url
        start = records.run_started(
            service=service, name=loaded.name, manifest="batch.yaml", manifest_sha256="0", version="1", tasks=1
        )
        self.put(start)
        for number, task in enumerate(self.tasks):
            self.buy(number, task, (fates or {}).get(task.id, "saved"))
        if "sending" not in (fates or {}).values():
            self.put(Record("run_ended", fields={"exit_code": 0}))
        self.write()

    @property
    def ledger(self) -> Path:
        return self.output / "ledger.jsonl"

    def write(self) -> None:
        self.ledger.write_bytes(b"".join(self.lines))

    def put(self, record: Record) -> None:
        number = len(self.lines) + 1
        self.lines.append(encode(record, seq=number, ts=NOW + number, run="r1")[0])

    def buy(self, number: int, task: Task, fate: str) -> None:
        name, job = (task.id, task.key), f"job-{task.id}"
        if fate == "new":
            return
        path = task.path
        self.put(records.submitting(*name, attempt=1, request=ledger_form(task.body), usd=task.usd, path=path))
        if fate == "sending":
            return
        if fate == "held":
            self.put(records.in_doubt(*name, attempt=1, reason="no answer came: timeout"))
            return
        self.put(records.submitted(*name, attempt=1, job_id=job, request_id=f"req-{number}"))
        if fate == "failed":
            failed = records.failed(*name, stage="generate", final=True, code="moderated", message="not allowed")
            self.put(failed)
        if fate == "parked":
            self.put(records.parked(*name, job_id=job, waited_s=1800))
        if fate == "saved":
            self.save(number, task, job)

    def save(self, number: int, task: Task, job: str) -> None:
        data = draw(number, task.id)
        sha256 = hashlib.sha256(data).hexdigest()
        file = SavedFile(task.path.replace(EXT, "png"), len(data), sha256, "png", SIDE, SIDE)
        (self.output / file.path).parent.mkdir(parents=True, exist_ok=True)
        (self.output / file.path).write_bytes(data)
        name = task.id, task.key
        self.put(records.generated(*name, job_id=job, images=1, waited_s=30 + number % 90, queries=3))
        self.put(records.downloaded(*name, job_id=job, files=[file]))
        self.put(records.saved(*name, job_id=job, files=[file]))


GRID = """
version: 1
tasks:
  - id: "{{ animal }}-{{ style }}-{{ light }}"
    prompt: A {{ animal }} in {{ style }} at {{ light }}
    matrix: {animal: [cat, owl, fox], style: [ink, oil], light: [dawn, noon]}
    samples: 2
  - {id: hero, prompt: The hero, size: 64x64}
prices: [{usd: 0.05}]
"""
"""25 tasks: an entry of three axes with two samples, and one alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import anyio
import pytest

from rsbatch.asking import QUERY_INTERVAL, FixedInterval
from rsbatch.errors import Exit
from rsbatch.ledger.records import seconds_of
from rsbatch.ledger.state import Bucket
from rsbatch.lifecycle import State
from rsbatch.model import Limits, Rules, Selection
from rsbatch.net.fetch import FetchError, FetchKind, HttpFetcher, Sink
from rsbatch.planning import Category
from rsbatch.saver import Saver
from rsbatch.scheduler import Halt, Job
from rsbatch.simulator import Settings
from tests.runner.world import World, signal_at, task, tasks

FAST = Limits(submits_per_second=100, queries_per_second=100)


def test_all_is_saved_and_the_second_run_does_nothing(world: World) -> None:
    work = tasks(20)
    result = world.run(work)
    assert (result.exit_code, result.reason) == (Exit.OK, "done")
    assert result.tasks[Category.SAVED] == 20
    assert result.this_run.submitted == 20
    assert len(world.files) == 20
    assert set(world.paid().values()) == {1}
    assert result.spend.usd[Bucket.DELIVERED] == Decimal("0.20")
    again = world.run(work)
    assert (again.exit_code, again.this_run.submitted, again.this_run.queries) == (Exit.OK, 0, 0)
    assert world.audit["totals"]["accepted"] == 20


def test_order_of_a_tasks_records(world: World) -> None:
    world.run([task("a")])
    assert [r["type"] for r in world.records()] == [
        "run_started",
        "submitting",
        "submitted",
        "generated",
        "downloaded",
        "saved",
        "run_ended",
    ]
    summary = world.records("run_ended")[0]
    assert summary["tasks"]["saved"] == 1
    assert summary["spend"] == {"delivered": "0.01", "failed": "0", "unknown": "0", "out": "0", "usd_known": True}


def test_the_sidecar_says_what_the_image_is(world: World) -> None:
    import json

    world.run([task("a", "a fox", quality="low")])
    sidecar = json.loads(world.storage._files["a.png.json"])
    assert sidecar["prompt"] == "a fox"
    assert sidecar["request"] == {"prompt": "a fox", "size": "64x64", "quality": "low"}
    assert sidecar["usd"] == "0.01"
    assert sidecar["job_id"] in world.engine.jobs
    assert sidecar["bytes"] == len(world.files["a.png"])


def test_never_more_in_flight_than_allowed(world: World) -> None:
    world.use(slots=100)
    world.run(tasks(40), limits=replace(FAST, in_flight=5))
    assert world.audit["totals"]["max_in_flight"] == 5


def test_a_slot_is_free_when_the_job_ends_not_when_its_image_is_down() -> None:
    world = World(Settings(service_time=1, sigma=0, slots=100, stall=50, faults={"image-slow": 1.0}))
    result = world.run(tasks(8), limits=replace(FAST, in_flight=1, downloads=8), rules=Rules())
    assert result.tasks[Category.SAVED] == 8
    assert result.seconds < 3 * 50  # eight slow downloads one after another would take 400 s


def test_changed_prompt_buys_once_and_the_old_image_stays(world: World) -> None:
    world.run([task("a", "one"), task("b")])
    old = world.files["a.png"]
    key = task("a", "one").key
    result = world.run([task("a", "two"), task("b")])
    assert (result.exit_code, result.this_run.submitted, result.orphaned) == (Exit.OK, 1, 1)
    assert world.files[f"a~{key[:8]}.png"] == old
    assert world.files["a.png"] != old
    assert f"a~{key[:8]}.png.json" in world.storage._files
    back = world.run([task("a", "one"), task("b")])
    assert (back.exit_code, back.this_run.submitted) == (Exit.OK, 0)


def test_renamed_task_buys_nothing(world: World) -> None:
    world.run([task("a", "one")])
    result = world.run([task("z", "one")])
    assert (result.exit_code, result.this_run.submitted, result.orphaned) == (Exit.OK, 0, 0)
    assert world.records("renamed")[0]["from"] == "a"
    assert world.run([task("z", "one")]).this_run.submitted == 0


def test_deleted_image_is_downloaded_again_not_bought(world: World) -> None:
    world.run(tasks(3))
    data = world.storage._files.pop("t0001.png")
    result = world.run(tasks(3))
    assert (result.exit_code, result.this_run.submitted, result.this_run.saved) == (Exit.OK, 0, 1)
    assert world.files["t0001.png"] == data
    assert world.audit["totals"]["accepted"] == 3


def test_deleted_image_whose_job_is_gone_is_reported_and_bought_only_when_asked(world: World) -> None:
    world.run(tasks(2))
    del world.storage._files["t0001.png"]
    world.engine.jobs.clear()
    result = world.run(tasks(2))
    assert (result.exit_code, result.this_run.submitted) == (Exit.SOME_FAILED, 0)
    assert result.differing.gone == ["t0001"]
    bought = world.run(tasks(2), selection=Selection(rebuy_missing=True))
    assert (bought.exit_code, bought.this_run.submitted) == (Exit.OK, 1)
    assert "t0001.png" in world.files


def test_altered_image_is_left_alone(world: World) -> None:
    world.run(tasks(2))
    world.storage._files["t0000.png"] = b"mine now"
    result = world.run(tasks(2))
    assert (result.exit_code, result.this_run.submitted) == (Exit.SOME_FAILED, 0)
    assert world.files["t0000.png"] == b"mine now"


def test_a_strangers_file_is_moved_aside_not_overwritten(world: World) -> None:
    world.storage._files["a.png"] = b"somebody's"
    world.run([task("a")])
    moved = world.records("moved")[0]
    assert world.files[moved["to"]] == b"somebody's"
    assert moved["to"].startswith("a~")
    assert len(world.files["a.png"]) > 100


@pytest.mark.parametrize("shape", ["fail-error-message", "fail-message", "fail-error-object"])
def test_fail_is_final_and_retried_only_when_asked(shape: str) -> None:
    world = World(Settings(service_time=5, faults={shape: 1.0}))
    result = world.run(tasks(3))
    assert (result.exit_code, result.tasks[Category.FAILED]) == (Exit.SOME_FAILED, 3)
    assert result.spend.usd[Bucket.FAILED] == Decimal("0.03")
    assert world.run(tasks(3)).this_run.submitted == 0
    world.use(faults={})
    retried = world.run(tasks(3), selection=Selection(retry_failed=True))
    assert (retried.exit_code, retried.this_run.submitted) == (Exit.OK, 3)
    assert retried.spend.total == Decimal("0.06")


def test_moderation_is_final() -> None:
    world = World(Settings(faults={"moderation": 1.0}))
    result = world.run(tasks(2))
    assert result.tasks[Category.FAILED] == 2
    assert result.spend.total == 0
    assert all(h.state is State.FAILED_FINAL for h in world.state.histories())
    assert len(world.records("submitting")) == 2, "it is not tried again"


@pytest.mark.parametrize("fault", ["unreadable-json", "unreadable-html", "reset-after", "504-after", "502-html-after"])
def test_a_doubt_is_held_and_never_sent_again_unasked(fault: str) -> None:
    world = World(Settings(service_time=5, faults={fault: 1.0}))
    result = world.run(tasks(2), rules=Rules(max_in_doubt=10))
    assert (result.exit_code, result.tasks[Category.HELD]) == (Exit.SOME_FAILED, 2)
    world.use(faults={})
    again = world.run(tasks(2))
    assert (again.exit_code, again.this_run.submitted) == (Exit.SOME_FAILED, 0)
    assert again.spend.usd[Bucket.UNKNOWN] == Decimal("0.02")
    resent = world.run(tasks(2), rules=Rules(in_doubt="resubmit"))
    assert (resent.exit_code, resent.this_run.submitted) == (Exit.OK, 2)
    assert resent.spend.usd[Bucket.UNKNOWN] == Decimal("0.02")
    assert resent.spend.usd[Bucket.DELIVERED] == Decimal("0.02")


def test_resubmission_happens_at_most_once_a_run() -> None:
    world = World(Settings(faults={"reset-after": 1.0}))
    world.run([task("a")])
    result = world.run([task("a")], rules=Rules(in_doubt="resubmit"))
    assert result.this_run.submitted == 1
    assert result.tasks[Category.HELD] == 1


def test_max_in_doubt_stops_the_run() -> None:
    world = World(Settings(faults={"reset-after": 1.0}))
    result = world.run(tasks(50), limits=replace(Limits(), in_flight=1))
    assert (result.exit_code, result.reason) == (Exit.STOPPED, "max_in_doubt")
    assert result.this_run.submitted == 3


def test_max_failures_stops_the_run() -> None:
    world = World(Settings(faults={"moderation": 1.0}))
    result = world.run(tasks(50), limits=replace(Limits(), in_flight=1), rules=Rules(max_failures=5))
    assert (result.exit_code, result.reason) == (Exit.STOPPED, "max_failures")
    assert result.tasks[Category.FAILED] == 5


@pytest.mark.parametrize("fault", ["429-seconds", "429-date", "429-bare", "5xx-flat", "5xx-nested", "200-error-rate"])
def test_passing_refusals_are_got_over(fault: str) -> None:
    world = World(Settings(service_time=5, faults={fault: 0.2}))
    result = world.run(tasks(30))
    assert result.tasks[Category.SAVED] == 30
    assert set(world.paid().values()) == {1}


def test_five_refusals_by_the_relay_fail_a_task_until_the_next_run() -> None:
    world = World(Settings(service_time=5, faults={"5xx-flat": 1.0}))
    result = world.run([task("a")])
    assert (result.exit_code, result.this_run.submitted) == (Exit.SOME_FAILED, 0)
    assert len(world.records("submitting")) == 5
    assert world.records("failed")[0]["final"] is False
    world.use(faults={})
    assert world.run([task("a")]).exit_code is Exit.OK


def test_a_service_that_never_accepts_is_unavailable_after_15_minutes() -> None:
    world = World(Settings(faults={"429-bare": 1.0}))
    result = world.run(tasks(3))
    assert (result.exit_code, result.reason) == (Exit.STOPPED, "unavailable")
    assert 900 <= result.seconds < 1000
    assert result.tasks[Category.PENDING] == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("bad-key", "key_refused"), ("no-balance", "balance"), ("no-quota", "balance"), ("moved", "wrong_address")],
)
def test_fatal_answers_stop_at_once_and_charge_no_task(fault: str, reason: str) -> None:
    world = World(Settings(service_time=5, faults={fault: 1.0}))
    result = world.run(tasks(20))
    assert (result.exit_code, result.reason) == (Exit.STOPPED, reason)
    assert result.tasks[Category.FAILED] == 0
    assert len(world.records("submitting")) <= 8
    world.use(faults={})
    assert world.run(tasks(20)).tasks[Category.SAVED] == 20


def test_wrong_key_ends_without_waiting_for_jobs_that_are_out(world: World) -> None:
    world.run(tasks(4), signals=signal_at((3.0, signal.SIGINT)), grace=0.0)
    world.key = "nope"
    result = world.run(tasks(4))
    assert (result.exit_code, result.reason) == (Exit.STOPPED, "key_refused")
    assert result.seconds < 60
    world.key = "sk-right"
    assert world.run(tasks(4)).tasks[Category.SAVED] == 4
    assert world.audit["totals"]["accepted"] == 4


def test_budget_is_never_passed(world: World) -> None:
    result = world.run(tasks(20), rules=Rules(budget=Decimal("0.055")))
    assert (result.exit_code, result.reason) == (Exit.STOPPED, "budget")
    assert result.tasks[Category.SAVED] == 5
    assert result.spend.total == Decimal("0.05")
    more = world.run(tasks(20), rules=Rules(budget=Decimal("0.20")))
    assert (more.exit_code, more.spend.total) == (Exit.OK, Decimal("0.20"))


def test_stop_after_stops_submitting_and_harvests(world: World) -> None:
    result = world.run(tasks(100), rules=Rules(stop_after=60))
    assert (result.exit_code, result.reason) == (Exit.STOPPED, "stop_after")
    assert result.tasks[Category.SAVED] == result.this_run.submitted > 0
    assert not list(world.state.jobs_out())


def test_parked_jobs_are_polled_again_and_never_bought_twice() -> None:
    world = World(Settings(service_time=600, sigma=0))
    limits = replace(Limits(), task_timeout=60)
    result = world.run(tasks(3), limits=limits)
    assert (result.exit_code, result.reason) == (Exit.STOPPED, "parked")
    assert result.tasks[Category.PARKED] == 3
    result = world.run(tasks(3))
    assert (result.exit_code, result.this_run.submitted) == (Exit.OK, 0)
    assert world.audit["totals"]["accepted"] == 3


def test_a_service_that_throttles_every_query_parks_the_jobs() -> None:
    world = World(Settings(faults={"query-429-bare": 1.0}))
    result = world.run(tasks(3), limits=replace(Limits(), task_timeout=60))
    assert (result.exit_code, result.reason) == (Exit.STOPPED, "parked")
    assert result.tasks[Category.PARKED] == 3


def test_a_task_without_price_is_not_submitted_under_a_budget(world: World) -> None:
    work = [*tasks(2), replace(task("z"), usd=None)]
    result = world.run(work, rules=Rules(budget=Decimal(1)))
    assert (result.exit_code, result.reason, result.this_run.submitted) == (Exit.STOPPED, "budget", 2)
    assert "z has no price" in result.message


def test_first_signal_harvests_what_is_out(world: World) -> None:
    world.use(service_time=5)
    result = world.run(tasks(100), signals=signal_at((10.0, signal.SIGTERM)))
    assert result.exit_code is Exit.SIGTERM
    assert result.tasks[Category.SAVED] == result.this_run.submitted > 0
    assert result.tasks[Category.HELD] == 0
    rest = world.run(tasks(100))
    assert rest.exit_code is Exit.OK
    assert set(world.paid().values()) == {1}


def test_a_signal_after_which_everything_got_saved_is_exit_0(world: World) -> None:
    world.use(service_time=5)
    result = world.run(tasks(3), signals=signal_at((2.0, signal.SIGINT)))
    assert result.exit_code is Exit.OK


def test_grace_ends_the_harvest_and_nothing_is_lost(world: World) -> None:
    result = world.run(tasks(8), signals=signal_at((3.0, signal.SIGINT)), grace=5.0)
    assert result.exit_code is Exit.SIGINT
    assert result.seconds < 10
    assert result.tasks[Category.PENDING] == 8
    assert world.run(tasks(8)).this_run.submitted == 0
    assert world.audit["totals"]["accepted"] == 8


def test_second_signal_waits_two_seconds_for_open_submissions() -> None:
    world = World(Settings(service_time=5, faults={"hang-after": 1.0}, hang=1000))
    result = world.run(tasks(2), signals=signal_at((3.0, signal.SIGINT), (4.0, signal.SIGINT)))
    assert result.exit_code is Exit.SIGINT
    assert 6.0 <= result.seconds < 6.5
    assert result.tasks[Category.HELD] == 2
    assert world.audit["totals"]["accepted"] == 2


def test_signals_at_every_moment_lose_nothing() -> None:
    for moment in range(60):
        world = World(Settings(service_time=5))
        at = moment / 4
        world.run(tasks(12), signals=signal_at((at, signal.SIGINT), (at + 0.1, signal.SIGINT)))
        result = world.run(tasks(12))
        assert result.exit_code is Exit.OK, moment
        assert set(world.paid().values()) == {1}, moment


def test_orphaned_jobs_are_harvested(world: World) -> None:
    world.run(tasks(4), signals=signal_at((3.0, signal.SIGINT)), grace=0.0)
    result = world.run(tasks(1))
    assert result.exit_code is Exit.OK
    assert result.orphaned == 3
    assert len(world.files) == 4


def test_an_orphan_takes_no_place_from_a_task(world: World) -> None:
    world.run([task("a", "old")], signals=signal_at((3.0, signal.SIGINT)), grace=0.0)
    world.engine.jobs[next(iter(world.engine.jobs))].end += 500  # the old job ends long after the new one
    world.run([task("a", "new")])
    assert set(world.files) == {"a.png", f"a~{task('a', 'old').key[:8]}.png"}
    history = world.state.get("a", task("a", "new").key)
    assert history is not None
    assert history.files[0].path == "a.png"


def test_select_and_limit_restrict_submissions_only(world: World) -> None:
    result = world.run(tasks(10), selection=Selection(patterns=("t0003", "t0004")))
    assert (result.exit_code, result.this_run.submitted) == (Exit.OK, 2)
    result = world.run(tasks(10), selection=Selection(limit=3))
    assert (result.exit_code, result.this_run.submitted) == (Exit.OK, 3)
    assert result.tasks[Category.PENDING] == 5


@pytest.mark.parametrize("fault", ["image-cut-length", "image-cut-clean", "image-html", "image-text", "image-403",
                                   "image-404", "image-5xx", "image-429", "image-reset", "image-redirect"])  # fmt: skip
def test_bad_downloads_are_got_over(fault: str) -> None:
    world = World(Settings(service_time=5, faults={fault: 0.5}))
    result = world.run(tasks(16))
    assert result.tasks[Category.FAILED] <= (0 if fault == "image-429" else 2)
    result = world.run(tasks(16)) if result.tasks[Category.FAILED] else result
    assert result.tasks[Category.SAVED] == 16
    assert set(world.paid().values()) == {1}


def test_a_download_that_never_works_fails_for_now_and_submits_nothing() -> None:
    world = World(Settings(service_time=5, faults={"image-html": 1.0}))
    result = world.run(tasks(2))
    assert (result.exit_code, result.tasks[Category.FAILED]) == (Exit.SOME_FAILED, 2)
    assert result.spend.usd[Bucket.DELIVERED] == Decimal("0.02")
    world.use(faults={})
    result = world.run(tasks(2))
    assert (result.exit_code, result.this_run.submitted) == (Exit.OK, 0)


class StrictHost:
    """The images' host refuses while `refuses` gives how long to wait (0: it does not say) at a time since it began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: Callable[[float, str], float | None]) -> None:
        self.asked: list[str] = []
        self.begun: float | None = None
        fetch = HttpFetcher.fetch

        async def strict(fetcher: HttpFetcher, url: str, sink: Sink, *, max_bytes: int) -> int:
            now = anyio.current_time()
            self.begun = now if self.begun is None else self.begun
            self.asked.append(url)
            wait = refuses(now - self.begun, url)
            if wait is not None:
                raise FetchError("HTTP 429", FetchKind.THROTTLED, wait or None)
            return await fetch(fetcher, url, sink, max_bytes=max_bytes)

        monkeypatch.setattr(HttpFetcher, "fetch", strict)


@pytest.mark.parametrize("wait", [0, 5])
def test_a_host_of_images_that_refuses_for_a_while_uses_up_no_attempts(
    monkeypatch: pytest.MonkeyPatch, wait: float
) -> None:
    """What fails otherwise after it is tried again."""
    shaken: set[str] = set()

    def refuses(now: float, url: str) -> float | None:
        if now < 500:
            return wait
        if url not in shaken:
            shaken.add(url)
            raise FetchError("HTTP 503", FetchKind.TRANSIENT)
        return None

    host, world = StrictHost(monkeypatch, refuses), World(Settings(service_time=5))
    result = world.run(tasks(8))
    assert (result.exit_code, result.tasks[Category.SAVED]) == (Exit.OK, 8)
    assert len(host.asked) < 8 * 20
    assert "downloads: HTTP 429" in {s.paused for s in world.observer.snapshots}


@pytest.mark.parametrize(("wait", "seconds"), [(0, 700), (60, 700), (900, 1000)])
def test_a_host_of_images_that_refuses_for_long_ends_all_its_images_together(
    monkeypatch: pytest.MonkeyPatch, wait: float, seconds: float
) -> None:
    host, world = StrictHost(monkeypatch, lambda now, _: wait if now < 3000 else None), World(Settings(service_time=5))
    result = world.run(tasks(30), limits=replace(FAST, in_flight=30, downloads=2))
    assert result.tasks[Category.FAILED] == 30
    assert len(set(host.asked)) == 30, "each was asked for"
    assert result.seconds < seconds
    monkeypatch.undo()
    result = world.run(tasks(30))
    assert (result.exit_code, result.this_run.submitted) == (Exit.OK, 0)
    assert set(world.paid().values()) == {1}


def test_a_host_of_images_that_asks_for_a_long_pause_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    host = StrictHost(monkeypatch, lambda now, _: 1800 - now if now < 1800 else None)
    result = World(Settings(service_time=5)).run(tasks(100))
    assert (result.exit_code, result.tasks[Category.SAVED]) == (Exit.OK, 100)
    assert len(host.asked) < 110


@pytest.mark.parametrize(("jobs", "faults", "each"), [(200, {}, 5), (1, {"done-several": 1.0}, 500)])
def test_a_host_of_images_that_gives_few_gives_all(
    monkeypatch: pytest.MonkeyPatch, jobs: int, faults: dict[str, float], each: float
) -> None:
    """A thousand seconds for two hundred images, or three of one job, and ten minutes are the end where none comes."""
    opens = 0.0

    def refuses(now: float, _: str) -> float | None:
        nonlocal opens
        if now < opens:
            return 0
        opens = now + each
        return None

    StrictHost(monkeypatch, refuses)
    result = World(Settings(service_time=5, faults=faults)).run(tasks(jobs))
    assert result.seconds > 900
    assert (result.exit_code, result.tasks[Category.SAVED]) == (Exit.OK, jobs)


@pytest.mark.parametrize(
    ("kind", "counts"),
    [(FetchKind.THROTTLED, [1, 1, 2]), (FetchKind.TRANSIENT, [1, 1, 2]), (FetchKind.EXPIRED, [1, 1, 1, 1, 1, 1])],
)
def test_an_image_that_came_is_not_fetched_again_for_the_sake_of_another(
    monkeypatch: pytest.MonkeyPatch, kind: FetchKind, counts: list[int]
) -> None:
    """With fresh addresses all are: nothing says that they are in the same order."""

    def refuses(_: float, url: str) -> float | None:
        if len(host.asked) == 3:
            raise FetchError("for once", kind)
        return None

    host, world = StrictHost(monkeypatch, refuses), World(Settings(service_time=5, faults={"done-several": 1.0}))
    world.run([task("a")])
    assert set(world.files) == {"a.png", "a~2.png", "a~3.png"}
    assert [host.asked.count(url) for url in dict.fromkeys(host.asked)] == counts


@pytest.mark.parametrize(
    "fault",
    [
        "query-429-bare",
        "query-429-date",
        "query-5xx-code",
        "query-504",
        "query-html",
        "query-reset",
        "query-state",
        "query-cut-json",
        "query-done-early",
    ],
)
def test_a_poll_that_fails_never_fails_a_task(fault: str) -> None:
    rate = 0.2 if fault == "query-done-early" else 0.5  # three of these in a row are believed
    world = World(Settings(service_time=10, faults={fault: rate}))
    result = world.run(tasks(12))
    assert result.tasks[Category.SAVED] == 12
    assert set(world.paid().values()) == {1}


def test_a_job_the_service_forgot_fails_after_ten_minutes_with_its_money_unknown(world: World) -> None:
    world.run(tasks(2), signals=signal_at((3.0, signal.SIGINT)), grace=0.0)
    world.engine.jobs.clear()
    result = world.run(tasks(2))
    assert (result.exit_code, result.tasks[Category.FAILED]) == (Exit.SOME_FAILED, 2)
    assert 600 <= result.seconds < 700
    assert world.records("failed")[0]["code"] == "job_not_found"
    assert result.spend.usd[Bucket.UNKNOWN] == Decimal("0.02")


def test_done_without_images_is_final() -> None:
    world = World(Settings(service_time=5, faults={"done-empty": 1.0}))
    result = world.run([task("a")])
    assert result.tasks[Category.FAILED] == 1
    (failed,) = world.records("failed")
    assert failed["code"] == "no_images"
    (job,) = world.engine.jobs.values()
    assert seconds_of(failed["ts"]) - job.end >= 2 * QUERY_INTERVAL, "however soon after its end it was asked for"


def test_several_images_and_inline_ones() -> None:
    world = World(Settings(service_time=5, faults={"done-several": 1.0}))
    world.run([task("a")])
    assert set(world.files) == {"a.png", "a~2.png", "a~3.png"}
    world = World(Settings(service_time=5, faults={"done-b64": 1.0}))
    assert world.run(tasks(30)).tasks[Category.SAVED] == 30


def test_a_grace_that_ends_while_an_inline_image_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The save is inside of the query, and both are broken off: the run has to end all the same."""
    save, slow = Saver.save, [1000.0, 0.0]

    async def slowly(saver: Saver, job: Job) -> None:
        await anyio.sleep(slow.pop(0))
        await save(saver, job)

    monkeypatch.setattr(Saver, "save", slowly)
    world = World(Settings(service_time=5, faults={"done-b64": 1.0}))
    result = world.run([task("a")], signals=signal_at((2.0, signal.SIGINT)), grace=60.0)
    assert (result.exit_code, len(world.files)) == (Exit.SIGINT, 0)
    assert world.run([task("a")]).tasks[Category.SAVED] == 1
    assert set(world.paid().values()) == {1}


def test_where_downloads_are_behind_their_pace_tells_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    save = Saver.save

    async def slowly(saver: Saver, job: Job) -> None:
        await anyio.sleep(10)
        await save(saver, job)

    monkeypatch.setattr(Saver, "save", slowly)
    world = World(Settings(service_time=1))
    assert world.run(tasks(20), limits=replace(FAST, in_flight=8, downloads=1)).seconds > 200
    behind = [s for s in world.observer.snapshots if s.downloading > 1]
    assert {s.paused for s in behind} >= {None, "downloads are behind"}
    assert all((s.eta is None) == (s.saved == 0) for s in behind)
    late = [s for s in behind if s.saved >= 5]
    assert late
    for s in late:
        assert s.eta is not None
        assert s.elapsed + s.eta == pytest.approx(204, abs=40)


def test_extension_is_what_the_bytes_are() -> None:
    world = World(Settings(service_time=5, faults={"done-other-format": 1.0}))
    world.run([task("a", output_format="png")])
    (name,) = world.files
    magic = {"png": b"\x89PNG", "jpg": b"\xff\xd8", "webp": b"RIFF"}
    assert world.files[name].startswith(magic[name.rpartition(".")[2]])
    assert name != "a.png"


def test_every_fault_at_once_and_the_summary_is_true() -> None:
    world = World(Settings(service_time=20, faults={"all": 0.05}))
    work = tasks(200)
    rules = Rules(max_in_doubt=1000, max_failures=1000)
    for _ in range(3):
        result = world.run(work, rules=rules)
    totals = world.audit["totals"]
    assert max(world.paid().values()) == 1
    saved = {h.job_id for h in world.state.histories() if h.state is State.SAVED}
    assert len(saved) == result.tasks[Category.SAVED]
    assert saved <= set(world.engine.jobs)
    out_of_sight = sum(not job["delivered"] for job in world.audit["jobs"])
    assert out_of_sight == totals["lost"] <= result.tasks[Category.HELD]
    assert result.tasks[Category.PENDING] == result.tasks[Category.PARKED] == 0
    assert sum(result.tasks.values()) == 200
    delivered = sum(job["delivered"] for job in world.audit["jobs"])
    assert result.spend.usd[Bucket.DELIVERED] + result.spend.usd[Bucket.FAILED] == Decimal("0.01") * delivered


def test_a_refusing_service_with_one_slot_is_used_without_failures() -> None:
    world = World(Settings(service_time=10, slots=1, queueing=False))
    result = world.run(tasks(20))
    assert result.tasks[Category.SAVED] == 20
    assert world.audit["totals"]["max_in_flight"] == 1


def test_many_jobs_in_flight(world: World) -> None:
    world.use(slots=3000, service_time=60)
    limits = Limits(in_flight=3000, submits_per_second=1000, queries_per_second=2000, downloads=16)
    result = world.run(tasks(1000), limits=limits, schedule=FixedInterval(30.0))
    assert result.tasks[Category.SAVED] == 1000
    assert world.audit["totals"]["max_in_flight"] > 900


def test_restore_fetches_altered_files_beside_the_originals(world: World) -> None:
    world.run(tasks(2))
    good = world.files["t0000.png"]
    world.storage._files["t0000.png"] = b"x" * len(good)
    world.run(tasks(2), restore=lambda state: [h for h in state.histories() if h.task == "t0000"], harvest=False)
    assert world.files["t0000.png"] == good
    assert b"x" * len(good) in world.files.values()


def test_reported_counts_add_up_at_every_moment(world: World) -> None:
    world.use(service_time=5, faults={"all": 0.05})
    world.run(tasks(60), rules=Rules(max_in_doubt=100))
    assert {s.total for s in world.observer.snapshots} == {60}
    times = [s.elapsed for s in world.observer.snapshots]
    assert all(after - before > 0.099 for before, after in pairwise(times[:-1]))
    for s in world.observer.snapshots:
        assert min(s.saved, s.failed, s.held, s.parked, s.out, s.downloading, s.pending) >= 0


def test_stop_reason_of_a_budget_survives_a_later_signal(world: World) -> None:
    result = world.run(
        tasks(20), rules=Rules(budget=Decimal("0.05")), signals=signal_at((20.0, signal.SIGHUP)), grace=0.0
    )
    assert result.exit_code is Exit.SIGHUP
    assert result.halted is Halt.BUDGET


def test_a_task_that_a_table_edited_meanwhile_gives_twice_is_bought_once(world: World) -> None:
    one = task("a")
    world.run([one], tasks=iter([one, one, one]))
    assert world.paid() == {"picture a": 1}
    assert world.run([one]).exit_code is Exit.OK


def test_the_next_run_starts_from_what_this_one_learned(world: World) -> None:
    world.use(slots=4, queueing=False, service_time=40.0)
    limits = replace(FAST, in_flight=16)
    world.run(tasks(20), limits=limits)
    (ended,) = world.records("run_ended")
    assert ended["learned"]["ceiling"] == {"holds": 4, "runs": None}
    (times,) = ended["learned"]["times"].values()
    assert 30 < times["mean_s"] < 55
    before = len(world.records("not_submitted"))
    assert before >= 1
    result = world.run(tasks(32), limits=limits)
    assert result.tasks[Category.SAVED] == 32
    assert len(world.records("not_submitted")) == before, (
        "the ceiling was known, and is not tried within 16 submissions"
    )
    assert result.this_run.queries < 40 * 12, "when to ask was known, too"


def test_a_limit_of_submissions_a_minute_is_left_to_the_next_run(world: World) -> None:
    world.use(per_minute=5)
    world.run(tasks(30))
    (ended,) = world.records("run_ended")
    assert ended["learned"]["per_minute"] == 5
    assert ended["learned"]["ceiling"]["holds"] is None
    before = len(world.records("not_submitted"))
    world.elapsed += 3600
    result = world.run(tasks(60))
    assert result.tasks[Category.SAVED] == 60
    assert set(world.paid().values()) == {1}
    assert len(world.records("not_submitted")) - before < before, "it is known, and only tried now and then"
    taken = [job.accepted for job in world.engine.jobs.values()]
    assert taken[59] - taken[30] < 5 * 60 + 2, "and nothing is lost by that"


def test_where_the_service_queues_a_few_jobs_wait_there(world: World) -> None:
    world.use(slots=4, queueing=True, service_time=40.0)
    world.run(tasks(60), limits=replace(FAST, in_flight=30, submits_per_second=1.0))
    (ended,) = world.records("run_ended")
    assert 4 <= ended["learned"]["ceiling"]["runs"] <= 6
    assert not world.records("not_submitted")

"""The page without a browser: what its cards, figures and plots say, and that nothing from outside becomes markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from core_help import NOW, Book, Steps, key_of, saved_file, started, task
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.ledger import records
from rsbatch.ledger.records import decode
from rsbatch.model import LocalImage
from rsbatch.planning import Differs
from rsbatch.report.activity import Activity
from rsbatch.report.cards import (
    MOST_VALUES,
    Card,
    Entry,
    Judged,
    Picture,
    Seen,
    card_of,
    href_of,
    orphan,
    references,
    visible,
)
from rsbatch.report.page import LISTED, Assets, Report, embedded, render, troubles
from rsbatch.report.plots import HEIGHT, WIDTH, histogram, quantile, steps

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[2J\u202e=cmd|' /C calc'!A0&lt;\ud800\u2028<!--"
ASSETS = Assets(*((files("rsbatch.report") / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js")))


def bought(*, files: bool = True) -> Book:
    """A ledger with one task that is saved, or generated."""
    book = Book()
    book.put(
        records.run_started(service="s", name="n", manifest="m", manifest_sha256="0", version="1", tasks=1),
        records.submitting("cat", key_of("cat"), attempt=1, request={"prompt": "cat"}, usd=Decimal("0.05"), path="p"),
        records.submitted("cat", key_of("cat"), attempt=1, job_id="job-cat", request_id="req-cat"),
        records.generated("cat", key_of("cat"), job_id="job-cat", images=1, waited_s=12.5, queries=2),
    )
    if files:
        book.put(
            records.downloaded("cat", key_of("cat"), job_id="job-cat", files=[saved_file()]),
            records.saved("cat", key_of("cat"), job_id="job-cat", files=[saved_file()]),
        )
    return book


def activity_of(book: Book) -> Activity:
    made = Activity()
    for line in book.lines:
        made.take(decode(line[:-1]))
    return made


def card(**changes: Any) -> Card:
    book = bought()
    made = card_of(task(), book.the(), Judged(), [Picture(saved_file(), "./cat.png", there=True)], Seen(12.5, "t"))
    return replace(made, **changes)


def report(*cards: Card, **changes: Any) -> Report:
    book = bought()
    made = Report(
        name="batch", command="m.yaml", made="today", page_id="1", simulated=False, going_on=False,
        entries=[Entry("cats")], cards=cards, spend=book.state.spend, budget=None, runs=activity_of(book).runs,
        thumbnails={},
    )  # fmt: skip
    return replace(made, **changes)


class Page(HTMLParser):
    """Every element and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def data(self) -> Any:
        return json.loads(next(text for text in self.texts if text.startswith('{"id"')))


def page(*cards: Card, **changes: Any) -> Page:
    return Page(render(report(*cards, **changes), ASSETS))


# cards


def test_a_saved_task() -> None:
    made = card()
    assert (made.task, made.state, made.usd, made.job_id, made.request_id) == (
        "cat", "saved", Decimal("0.05"), "job-cat", "req-cat",
    )  # fmt: skip
    assert made.size == "10×20"
    assert made.alt == "cat"
    assert made.waited == 12.5


def test_a_task_without_history_says_what_is_asked_for() -> None:
    asked = replace(task(), body={"prompt": " a\n cat ", "size": "64x32", "extra_body": {"seed": 1}}, axes={"n": 7})
    made = card_of(asked, None, Judged(reason="not submitted yet"), [], Seen())
    assert (made.state, made.size, made.alt, made.axes) == ("pending", "64×32", "a cat", {"n": "7"})
    assert made.params == {"size": "64x32", "extra_body": '{"seed": 1}'}
    assert replace(made, prompt="").alt == "cat"
    assert replace(made, prompt="x" * 300).alt == "x" * 199 + "…"


@pytest.mark.parametrize(
    ("judged", "state"),
    [
        (Judged(differs=Differs.MISSING), "gone"),
        (Judged(differs=Differs.ALTERED), "altered"),
        (Judged(again="cat-r2"), "redone"),
    ],
)
def test_what_became_of_a_saved_task(judged: Judged, state: str) -> None:
    assert card_of(task(), bought().the(), judged, [], Seen()).state == state


def test_an_orphan_is_known_by_its_recorded_request() -> None:
    history = bought().the()
    made = orphan(history, {"prompt": "an old cat", "size": "8x8"}, [], Seen())
    assert (made.entry, made.state, made.prompt, made.params) == (None, "orphaned", "an old cat", {"size": "8x8"})
    history.message = "it broke"
    assert orphan(history, None, [], Seen()).reason.endswith(": it broke")


def test_references() -> None:
    sha = "cd" * 32
    body = {
        "images": [LocalImage(sha, "image/png", 3, Path("/x/a.png")), "https://x.example/a.png?sig=1", "sha256:ab"],
        "mask": LocalImage(sha, "image/png", 3, None, b"abc"),
    }
    made = list(references(body))
    assert [(r.role, r.name, r.sha256, r.href) for r in made] == [
        ("reference", "a.png", sha, ""),
        ("reference", "https://x.example/a.png?…", "", ""),
        ("reference", "sha256:ab", "", ""),
        ("mask", "an image in the manifest", sha, ""),
    ]
    assert next(references({"images": ["https://x.example/a.png"]})).href == "https://x.example/a.png"
    assert next(references({"images": ["https://x.example/\x07"]})).href == ""
    assert list(references({"images": "no list"})) == []


def test_a_card_shows_no_signed_address() -> None:
    secret = "https://x.example/a.png?sig=canary"
    steps = Steps()
    book = Book().put(started(), steps.submitting(), steps.submitted(job=secret), steps.failed(code=secret))
    request = {"prompt": "p", "extra": {"from": secret}, "images": [secret]}
    made = card_of(replace(task(), body=request), book.the(), Judged(reason=f"failed: {secret}"), [], Seen())
    gone = orphan(book.the(), request, [], Seen())
    assert "canary" not in repr(made) + repr(gone)
    assert made.reason.startswith("failed: https://x.example/a.png?")


def test_text_is_made_visible_and_stays_readable() -> None:
    assert visible("a\r\nb\tc 👩‍🎨 می‌خواهم") == "a\nb\tc 👩‍🎨 می‌خواهم"
    assert visible("\x1b[2J\u202e\ud800\x00") == "\\x1b[2J\\u202e\\ud800\\x00"


@given(st.text())
def test_what_is_visible_can_be_written(text: str) -> None:
    visible(text).encode()


def test_an_address_is_never_anything_but_a_path() -> None:
    assert href_of("a b/c#1?.png", "../out/") == "./../out/a%20b/c%231%3F.png"
    assert href_of("javascript:alert(1)", "") == "./javascript%3Aalert%281%29"


def test_axes_are_those_with_a_choice() -> None:
    entry = Entry("e")
    for n in range(MOST_VALUES + 1):
        entry.take({"one": "a", "two": "ab"[n % 2], "many": str(n)})
    assert [(axis.name, axis.values) for axis in entry.axes] == [("two", ("a", "b"))]


# time


def test_jobs_out_over_a_run() -> None:
    book = bought()
    book.put(records.run_ended({"exit_code": 0}))
    made = activity_of(book)
    assert [(run.points, run.submitted, run.peak, run.whole) for run in made.runs] == [
        ([(NOW, 0), (NOW + 2, 1), (NOW + 3, 0)], 1, 1, True)
    ]
    assert made.of("cat", key_of("cat")) == Seen(12.5, records.timestamp(NOW + 5))


def test_a_later_run_begins_with_what_is_out_and_follows_a_new_name() -> None:
    started = records.run_started(service="s", name="n", manifest="m", manifest_sha256="0", version="1", tasks=1)
    book, key = Book(), key_of("cat")
    book.put(started, records.submitting("cat", key, attempt=1, request=None, usd=None, path="p"))
    book.put(records.submitted("cat", key, attempt=1, job_id="j", request_id=None))
    book.put(started, records.renamed("dog", key, from_="cat"), run="r2")
    book.put(records.generated("dog", key, job_id="j", images=1, waited_s=3, queries=1), run="r2")
    book.put(records.downloaded("dog", key, job_id="j", files=[saved_file()]), run="r2")
    book.put(records.saved("dog", key, job_id="j", files=[saved_file()]), run="r2")
    book.put(records.renamed("owl", key, from_="dog"), run="by hand")
    made = activity_of(book)
    assert [[count for _, count in run.points] for run in made.runs] == [[0, 1], [1, 0]]
    assert made.runs[1].submitted == 0
    assert not made.runs[0].whole
    assert made.of("owl", key).waited == 3


def test_a_job_attached_by_hand_is_of_no_run() -> None:
    key = key_of("cat")
    book = Book().put(records.in_doubt("cat", key, attempt=1, reason="?"))
    book.put(records.resolved("cat", key, how="attached", job_id="j"))
    assert activity_of(book).runs == []


# plots


def test_steps_keep_a_short_peak() -> None:
    plot = steps([(0, 0), (50, 8), (50.001, 1), (100, 0)], 0, 100)
    assert plot.path == f"M0 {HEIGHT}H0V{HEIGHT:.1f}H{WIDTH // 2}V0.0H{WIDTH // 2 + 1}V131.2H{WIDTH}V{HEIGHT}Z"
    assert plot.ticks == [(150, "0"), (75, "4"), (0, "8")]
    assert steps([(0, 0), (0, 1)], 0, 0).ticks == [(150, "0"), (0, "1")]


def test_a_histogram_has_round_bars_that_count_all() -> None:
    assert histogram([]) == []
    bars = histogram([31.0, 32.0, 90.0, 179.0])
    assert [(bar.least, bar.count) for bar in bars if bar.count] == [(30, 2), (90, 1), (170, 1)]
    assert max(bar.height for bar in bars) == HEIGHT
    assert histogram([2000.0])[0].most == 100
    far = histogram([*[10.0] * 20, 2000.0])
    assert [(bar.least, bar.most, bar.count) for bar in far if bar.count] == [(10, 12, 20), (30, 2000, 1)]


@given(st.lists(st.floats(0.001, 1e6), min_size=1))
def test_every_value_is_in_a_bar(values: list[float]) -> None:
    bars = histogram(values)
    assert sum(bar.count for bar in bars) == len(values)
    assert len(bars) <= 26


def test_quantiles() -> None:
    assert [quantile([1, 2, 3, 4], part) for part in (0, 0.5, 0.9, 1)] == [1, 2, 4, 4]


# the page


def test_nothing_from_outside_becomes_markup() -> None:
    asked = replace(task(), id=HOSTILE, body={"prompt": HOSTILE, "extra": {HOSTILE: 1}}, axes={"x": HOSTILE})
    history = bought().the()
    history.code = history.message = history.job_id = HOSTILE
    made = card_of(asked, history, Judged(reason=HOSTILE), [], Seen())
    made = replace(made, task=visible(HOSTILE), state="failed")
    entry = Entry(visible(HOSTILE))
    shown = page(made, name=visible(HOSTILE), command=visible(HOSTILE), entries=[entry])
    plain = page(replace(card(), state="failed", reason="r"))
    assert [tag for tag, _ in shown.tags if tag in {"script", "img"}] == ["script", "script"]
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)
    assert shown.data["cards"][0]["p"] == visible(HOSTILE)
    assert {tag for tag, _ in shown.tags} <= {tag for tag, _ in plain.tags} | {"bdi", "p"}


def test_data_holds_no_markup_and_reads_back() -> None:
    value = {"a": HOSTILE.replace("\ud800", "") + "]]>"}
    text = embedded(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_the_policy_names_the_one_script() -> None:
    text = render(report(card()), ASSETS)
    policy = next(a["content"] for tag, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert re.findall(r"script-src ([^;]+);", policy) == [re.search(r"'sha256-[^']+'", policy)[0]]  # type: ignore[index]
    assert "http:" not in text.replace("http://www.w3.org", "")
    assert 'style="' not in text


def test_what_a_list_without_scripts_has() -> None:
    made = page(card(), replace(card(), task="dog", pictures=()), thumbnails={saved_file().sha256: "./t.webp"})
    images = [a for tag, a in made.tags if tag == "img"]
    assert [(a["src"], a["alt"], a["loading"]) for a in images] == [("./t.webp", "cat", "lazy")]
    assert made.data["cards"][0]["f"][0]["t"] == "./t.webp"
    assert "t" not in page(card(pictures=[Picture(saved_file(), "./c", there=False)])).data["cards"][0]["f"][0]


def test_a_list_that_is_too_long_says_so() -> None:
    text = render(report(*[card(pictures=())] * (LISTED + 1)), ASSETS)
    assert f"after {LISTED} of {LISTED + 1} tasks" in text


def test_references_have_their_small_picture_or_their_address() -> None:
    local = LocalImage("cd" * 32, "image/png", 3, Path("/x/a.png"))
    asked = replace(task(), body={"prompt": "p", "images": [local, "https://x.example/b.png"]})
    made = page(card_of(asked, None, Judged(), [], Seen()), thumbnails={"cd" * 32: "./r.webp"})
    assert made.data["cards"][0]["m"] == [
        {"r": "reference", "n": "a.png", "t": "./r.webp"},
        {"r": "reference", "n": "https://x.example/b.png", "h": "https://x.example/b.png"},
    ]


def test_troubles_are_gathered_and_name_what_settles_them() -> None:
    cards = [
        *(replace(card(), task=f"f{n}", state="failed", reason="moderated") for n in range(3)),
        replace(card(), task="h", state="held", reason="no answer"),
        replace(card(), task="g", state="gone", reason="g.png is gone"),
        replace(card(), task="a", state="altered", reason="other size"),
        replace(card(), task="p", state="parked", reason="job 1 is out"),
        replace(card(), task="n", state="pending", reason="not submitted yet"),
        card(),
    ]
    found = list(troubles(report(*cards)))
    assert [(t.state, t.size, t.reason) for t in found] == [
        ("held", 1, "no answer"),
        ("failed", 3, "moderated"),
        ("gone", 1, "g.png is gone"),
        ("altered", 1, "other size"),
        ("parked", 1, "job 1 is out"),
        ("pending", 1, "not submitted yet"),
    ]
    assert found[0].remedies[0][0] == "rsbatch resolve m.yaml h --attach JOB_ID"
    assert "likewise" not in found[0].remedies[0][1]
    held = replace(card(), task="h", state="held", reason="no answer")
    two = next(troubles(report(held, replace(held, task="i"), command="'a TASK/m.yaml'")))
    assert two.remedies[1][0] == "rsbatch resolve 'a TASK/m.yaml' h --not-sent"
    assert two.remedies[1][1].endswith("(here for h, likewise for each)")
    assert found[1].remedies[-1][0] == "rsbatch run m.yaml --retry-failed"
    text = render(report(*cards, budget=Decimal(5), simulated=True, going_on=True, stamp=(3, "./s.svg")), ASSETS)
    assert "rsbatch verify m.yaml --fix" in text
    assert "of a budget of $5.00" in text
    assert Page(text).data["stamp"] == [3, "./s.svg"]


def test_figures_by_entry_have_what_is_no_more_in_the_manifest() -> None:
    text = render(
        report(card(), orphan(bought().the(), None, [], Seen()), entries=[Entry("cats"), Entry("dogs")]), ASSETS
    )
    assert "no more in the manifest" in text
    assert "median" in text
    assert "dogs" in text


def test_an_empty_manifest_and_an_empty_ledger() -> None:
    text = render(report(runs=[], spend=Book().state.spend), ASSETS)
    assert "Nothing needs you" in text
    assert "<svg" not in text

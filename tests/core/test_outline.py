"""A plan for people: short for a dozen tasks, short for a hundred thousand, and plain about money paid again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from core_help import Book, Steps, at, task

from rsbatch.lifecycle import State
from rsbatch.model import InDoubt, Origin, Selection
from rsbatch.outline import LISTED, SHOWN, Totals, outline, total_lines
from rsbatch.planning import Action, Planned, Terms, decide


def new(name: str, entry: int = 0, usd: str | None = "0.05") -> Planned:
    it = replace(task(name, usd=usd), origin=Origin(entry, entry + 3))
    return Planned(it, None, "new", Action.SUBMIT, "not submitted yet")


def lines_of(tasks: Iterable[Planned], book: Book | None = None, **selection: Any) -> list[str]:
    totals, state = Totals(), (book or Book()).state

    def counted() -> Iterable[Planned]:
        for planned in tasks:
            totals.add(planned, state, Selection(**selection))
            yield planned

    lines = list(outline(counted(), lambda index: f"entry-{index}", totals))
    return [*lines, *total_lines(totals)]


def judged(book: Book, in_doubt: InDoubt = "hold", sizes: tuple[int | None, ...] = (), **selection: Any) -> Planned:
    it = task()
    return decide(it, book.state.get(it.id, it.key), book.state, Terms(Selection(**selection), in_doubt), sizes)


def test_a_dozen_tasks_are_listed_under_their_entries() -> None:
    assert lines_of([new("hero"), new("a", 1), new("long-id", 1), new("x", 2, None)]) == [
        "submit   hero  $0.05  not submitted yet",
        "entry-1: 2 tasks to submit, $0.10",
        "  submit   a        $0.05  not submitted yet",
        "  submit   long-id  $0.05  not submitted yet",
        "submit   x  price unknown  not submitted yet",
        "4 tasks: 4 to submit",
        "cost: $0.15, and 1 submissions without a known price (`prices` in the manifest gives it)",
    ]


def test_a_hundred_thousand_are_counted_by_kind() -> None:
    saved = judged(at(State.SAVED), sizes=(100,))
    failed = judged(at(State.FAILED_FINAL))
    kept = Planned(task("kept"), None, "new", Action.SKIP, "beyond --limit (not submitted yet)")
    out = judged(at(State.SUBMITTED))
    many = [new(f"t{n:05}") for n in range(99_990)]
    lines = lines_of([*many, saved, saved, failed, kept, out, new("u", usd=None)])
    assert lines == [
        "entry-0: 99,996 tasks, 99,991 to submit, 4 to skip, 1 to poll, $4,999.50 and 1 without a known price",
        "  submit   99,991  $4,999.50 and 1 without a known price  not submitted yet: t00000, t00001, t00002, …",
        "  skip     2  saved: cat, cat",
        f"  skip     1  failed: {failed.history and failed.history.code}: cat",
        "  skip     1  beyond --limit: kept",
        "  poll     1  the job is out: cat",
        "99,996 tasks: 99,991 to submit, 1 to poll, 4 to skip",
        "cost: $4,999.50, and 1 submissions without a known price (`prices` in the manifest gives it)",
    ]


def test_as_many_as_fit_are_listed_and_one_more_is_counted() -> None:
    assert len(lines_of(new(str(n)) for n in range(LISTED))) == 1 + LISTED + 2
    assert len(lines_of(new(str(n)) for n in range(LISTED + 1))) == 1 + 1 + 2


def test_entries_without_end_are_cut_off_and_counted() -> None:
    lines = lines_of(new(f"t{n}", entry=n, usd=None) for n in range(1000))
    assert lines[SHOWN:] == [
        "… and 800 more of the 1,000 tasks (--json prints all)",
        "1,000 tasks: 1,000 to submit",
        "cost: unknown: 1,000 submissions without a known price (`prices` in the manifest gives it)",
    ]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((None,), "saved, its file is gone; fetched again if the job still answers"),
        ((7,), "saved, its file has another size now; left alone"),
    ],
)
def test_files_that_are_not_as_saved_are_a_kind_of_their_own(sizes: tuple[int | None, ...], words: str) -> None:
    planned = judged(at(State.SAVED), sizes=sizes)
    lines = lines_of([planned] * (LISTED + 1))
    assert f"{words}: cat, cat, cat, …" in lines[1]


def again(planned: Planned, book: Book, **selection: Any) -> list[str]:
    return [line for line in lines_of([planned], book, **selection) if "paid again" in line]


def test_what_would_be_paid_again_is_told_with_its_reason() -> None:
    doubt, failed = at(State.HELD), at(State.FAILED_FINAL)
    assert again(judged(doubt, "resubmit"), doubt) == ["paid again: 1 in doubt and resubmitted, $0.05 of the cost"]
    assert again(judged(failed, retry_failed=True), failed) == [
        "paid again: 1 failed and retried (--retry-failed), $0.05 of the cost"
    ]
    changed = Book().put(Steps("cat", key="ab" * 32).submitting())
    assert again(judged(changed), changed) == ["paid again: 1 with another request than before, $0.05 of the cost"]
    gone = at(State.SAVED)
    assert again(judged(gone, sizes=(None,), rebuy_missing=True), gone, rebuy_missing=True) == [
        "may be paid again: 1 saved files are gone, and are bought again where the job no longer answers "
        "(--rebuy-missing), up to $0.05"
    ]
    free = Planned(replace(task(), usd=Decimal(0)), doubt.the(), "held", Action.SUBMIT, "in doubt")
    assert again(free, doubt) == ["paid again: 1 in doubt and resubmitted"]
    unpriced = replace(judged(gone, sizes=(None,)), task=task(usd="0"))
    assert again(unpriced, gone, rebuy_missing=True)[0].endswith("(--rebuy-missing)")


def test_what_is_not_paid_twice_is_not_called_so() -> None:
    for book in (Book(), at(State.NOT_SUBMITTED), at(State.HELD), at(State.SAVED)):
        assert again(judged(book, sizes=(None,)), book) == []
    refused = Book().put(Steps("cat", key="ab" * 32).submitting(), Steps("cat", key="ab" * 32).not_submitted())
    assert judged(refused).state == "changed"
    assert again(judged(refused), refused) == []


def test_nothing_to_do() -> None:
    assert lines_of([]) == ["0 tasks: nothing"]


def test_an_unknown_price_is_not_0() -> None:
    lines = lines_of(new(str(n), usd=None) for n in range(LISTED + 1))
    assert lines[0] == "entry-0: 21 tasks to submit, price unknown"

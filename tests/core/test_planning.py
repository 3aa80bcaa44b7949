"""What a run would do with each task: every row of the table, and who owns which history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from core_help import Book, Steps, at, key_of, task

from rsbatch.lifecycle import State
from rsbatch.model import InDoubt, Selection
from rsbatch.planning import (
    ORPHANED,
    STATE_NAMES,
    Action,
    Category,
    Differs,
    Matcher,
    Planned,
    Terms,
    category,
    decide,
    selects,
    unfinished,
)
from rsbatch.runner import judge as run_judge


def judge(book: Book, sizes: Any = (100,), in_doubt: InDoubt = "hold", **selection: Any) -> Planned:
    it = task()
    history = book.state.get(it.id, it.key)
    known = sizes if history is not None and history.state is State.SAVED else ()
    return decide(it, history, book.state, Terms(Selection(**selection), in_doubt), known)


def test_an_image_that_was_rejected_may_be_deleted() -> None:
    state = at(State.SAVED).state
    for replaced, action in ((True, Action.SKIP), (False, Action.DOWNLOAD)):
        one = replace(task(), replaced=replaced)
        planned = decide(one, state.get("cat", one.key), state, Terms(Selection(), "hold"), [None])
        assert (planned.action, planned.differs is None) == (action, replaced)
        assert planned.reason.startswith("cat.png is gone; " + ("it was rejected" if replaced else "fetched again"))


ROWS: list[tuple[str, Book, dict[str, Any], str, Action, str]] = [
    ("new", at(None), {}, "new", Action.SUBMIT, "not submitted yet"),
    (
        "changed",
        Book().put(Steps("cat", key="other").submitting()),
        {},
        "changed",
        Action.SUBMIT,
        "its request is another one",
    ),
    ("submitting", at(State.SUBMITTING), {}, "submitting", Action.HOLD, "in doubt: a crash came between"),
    ("not submitted", at(State.NOT_SUBMITTED), {}, "not_submitted", Action.SUBMIT, "no job came of the last attempt"),
    ("submitted", at(State.SUBMITTED), {}, "submitted", Action.POLL, "job job-cat is out"),
    ("generated", at(State.GENERATED), {}, "generated", Action.DOWNLOAD, "job job-cat is done"),
    ("downloaded", at(State.DOWNLOADED), {}, "downloaded", Action.DOWNLOAD, "job job-cat is done"),
    ("saved", at(State.SAVED), {}, "saved", Action.SKIP, "saved"),
    (
        "saved, missing",
        at(State.SAVED),
        {"sizes": [None]},
        "saved",
        Action.DOWNLOAD,
        "cat.png is gone; fetched again if",
    ),
    (
        "saved, another size",
        at(State.SAVED),
        {"sizes": [99]},
        "saved",
        Action.SKIP,
        "cat.png has another size than was saved; left alone",
    ),
    ("failed, submit", at(State.FAILED_SUBMIT), {}, "failed", Action.SUBMIT, "no job came of the last attempt"),
    (
        "failed, download",
        at(State.FAILED_DOWNLOAD),
        {},
        "failed",
        Action.DOWNLOAD,
        "job job-cat is done, its image is not saved (why)",
    ),
    ("failed, final", at(State.FAILED_FINAL), {}, "failed", Action.SKIP, "failed: fail: why"),
    (
        "failed, final, retried",
        at(State.FAILED_FINAL),
        {"retry_failed": True},
        "failed",
        Action.SUBMIT,
        "failed: fail: why; retried as asked",
    ),
    ("held", at(State.HELD), {}, "held", Action.HOLD, "in doubt: reset"),
    (
        "held, resubmitted",
        at(State.HELD),
        {"in_doubt": "resubmit"},
        "held",
        Action.SUBMIT,
        "in doubt, resubmitted as asked: reset",
    ),
    (
        "submitting, resubmitted",
        at(State.SUBMITTING),
        {"in_doubt": "resubmit"},
        "submitting",
        Action.SUBMIT,
        "in doubt, resubmitted as asked: a crash",
    ),
    ("held, released", at(State.RELEASED), {}, "held", Action.SUBMIT, "settled by hand: submit again"),
    ("parked", at(State.PARKED), {}, "parked", Action.POLL, "job job-cat is out"),
]


@pytest.mark.parametrize(
    ("book", "more", "state", "action", "reason"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_the_table(book: Book, more: dict[str, Any], state: str, action: Action, reason: str) -> None:
    planned = judge(book, **more)
    assert (planned.state, planned.action) == (state, action)
    assert planned.reason.startswith(reason)
    assert planned.usd == (Decimal("0.05") if action is Action.SUBMIT else 0)


def test_every_state_is_in_the_table() -> None:
    histories = [h.state for row in ROWS for h in row[1].state.histories()]
    assert set(State) <= set(histories)


def test_how_files_differ() -> None:
    assert judge(at(State.SAVED)).differs is None
    assert judge(at(State.SAVED), [None]).differs is Differs.MISSING
    assert judge(at(State.SAVED), [-1]).differs is Differs.ALTERED


def test_a_refusal_without_a_reason() -> None:
    book = Book().put(Steps().submitting(), Steps().not_submitted(reason=""))
    assert judge(book).reason == "no job came of it"


def test_an_unknown_price_is_none() -> None:
    it = task(usd=None)
    assert decide(it, None, Book().state, Terms(Selection(), "hold")).usd is None


def test_a_history_that_never_began_is_new() -> None:
    """The fold makes none, but a judgement must not depend on that."""
    history = at(State.SUBMITTING).the()
    history.state = None
    assert decide(task(), history, Book().state, Terms(Selection(), "hold")).state == "new"


@pytest.mark.parametrize("state", [None, *State])
def test_what_is_not_selected_is_not_submitted_but_harvested(state: State | None) -> None:
    book = at(state)
    free, kept = judge(book), judge(book, patterns=("dog*",))
    if free.action is Action.SUBMIT:
        assert (kept.action, kept.reason) == (Action.SKIP, f"not selected ({free.reason})")
    else:
        assert kept == free


@pytest.mark.parametrize(
    ("patterns", "selected"),
    [((), True), (("cat",), True), (("c*",), True), (("x", "c?t"), True), (("CAT",), False), (("ca",), False)],
)
def test_selection(patterns: tuple[str, ...], selected: bool) -> None:
    assert selects(Selection(patterns=patterns), "cat") is selected


# whose is a history


def matcher(book: Book, *names: tuple[str, str]) -> Matcher:
    found = Matcher(book.state)
    for name, key in names:
        found.visit(task(name, key=key, path=f"{name}-now.{{ext}}"))
    return found


def test_its_own_history_first() -> None:
    book = Book().put(Steps("old", "K").submitting(), Steps("cat", "K").submitting())
    found = matcher(book, ("cat", "K"))
    assert found.settle() == []
    assert found.of(task("cat", key="K")) is book.the("cat", "K")
    assert found.owns(book.the("cat", "K"))
    assert not found.owns(book.the("old", "K")), "it is orphaned"
    assert found.total == 1


def test_whose_key_the_ledger_has_by_other_ids_alone() -> None:
    book = Book().put(Steps("cat", "K").submitting(), Steps("old", "L").submitting())
    found = Matcher(book.state)
    asked = [("cat", "K"), ("new", "L"), ("more", "L"), ("dog", "M")]
    assert [found.visit(task(name, key=key, path=f"{name}.{{ext}}")) for name, key in asked] == [
        True,
        True,
        True,
        False,
    ]
    found.settle()
    found.settle()
    assert found.sought == [("new", "L", "new.{ext}"), ("more", "L", "more.{ext}")]
    assert [found.named(name, key) for name, key in asked] == [book.the("cat", "K"), book.the("old", "L"), None, None]


def test_who_is_selected_is_told_of_each_history_by_the_task_that_has_it() -> None:
    book = Book().put(*(Steps(name, name.upper()).submitting() for name in ("cat", "cow", "old", "lost")))
    found = Matcher(book.state, Selection(patterns=("c*", "*-new")))
    for name, key in (("cat", "CAT"), ("dog", "COW"), ("old-new", "OLD"), ("crab", "CRAB")):
        found.visit(task(name, key=key))
    found.settle()
    crab = book.put(Steps("crab", "CRAB").submitting()).the("crab", "CRAB")
    assert found.claims(crab.since) == (False, False)
    found.adopt(crab)
    assert (found.total, found.selected) == (4, 3)
    assert {h.task: found.claims(h.since) for h in book.state.histories()} == {
        "cat": (True, True),
        "cow": (True, False),
        "old": (True, True),
        "lost": (False, False),
        "crab": (True, True),
    }


@pytest.mark.parametrize("state", State)
def test_a_renamed_task_gets_the_oldest_history_of_its_key_in_any_state(state: State) -> None:
    book = Book().put(*Steps("first", "K").to(state), *Steps("second", "K", job="j2").to(State.SAVED))
    found = matcher(book, ("new", "K"))
    for _ in range(3):  # asking again gives the same: the second must not take the first one's place
        assert found.settle() == [("new", book.the("first", "K"))]
    assert found.of(task("new", key="K")) is book.the("first", "K")
    assert not found.owns(book.the("second", "K"))


def test_all_tasks_at_once() -> None:
    book = Book().put(Steps("cat", "K").submitting(), Steps("old", "L").submitting())
    found = Matcher.over(book.state, iter([task("cat", key="K"), task("new", key="L"), task("dog", key="M")]))
    assert found.total == 3
    assert found.of(task("cat", key="K")) is book.the("cat", "K")
    assert found.of(task("new", key="L")) is book.the("old", "L")
    assert found.of(task("dog", key="M")) is None


def test_two_renamed_tasks_and_one_new() -> None:
    book = Book().put(Steps("a", "K").submitting(), Steps("b", "K").submitting(), Steps("kept", "K").submitting())
    found = matcher(book, ("x", "K"), ("kept", "K"), ("y", "K"), ("z", "K"), ("other", "L"))
    assert [(new, h.task) for new, h in found.settle()] == [("x", "a"), ("y", "b")]
    assert found.of(task("z", key="K")) is None
    assert found.of(task("other", key="L")) is None


def test_where_the_image_of_a_job_that_is_out_goes() -> None:
    book = Book().put(*Steps("own", "K").to(State.SUBMITTED), *Steps("old", "L").to(State.SUBMITTED))
    book.put(
        *Steps("orphan", "M").to(State.SUBMITTED), Steps("lost", "N").in_doubt(), *Steps("done", "O").to(State.SAVED)
    )
    book.put(*Steps("was", "P").to(State.SAVED))
    found = matcher(book, ("own", "K"), ("renamed", "L"), ("done", "O"), ("is", "P"))
    found.settle()
    assert found.path_of(book.the("own", "K")) == "own-now.{ext}"
    assert found.path_of(book.the("old", "L")) == "renamed-now.{ext}"
    assert found.path_of(book.the("orphan", "M")) == "orphan.{ext}"
    assert found.path_of(book.the("done", "O")) == "done.{ext}"
    assert found.path_of(book.the("was", "P")) == "was.{ext}"
    assert found.path_of(book.the("lost", "N")) == "lost.{ext}", "a repaired ledger may know no path"


def test_a_history_that_begins_is_adopted() -> None:
    book = Book()
    found = matcher(book, ("cat", key_of("cat")))
    book.put(Steps().submitting())
    assert not found.owns(book.the())
    found.adopt(book.the())
    assert found.owns(book.the())


COUNTED = {
    Category.SAVED: {State.SAVED},
    Category.FAILED: {State.FAILED_SUBMIT, State.FAILED_DOWNLOAD, State.FAILED_FINAL},
    Category.HELD: {State.HELD, State.SUBMITTING},
    Category.PARKED: {State.PARKED},
    Category.PENDING: {
        None,
        State.NOT_SUBMITTED,
        State.SUBMITTED,
        State.GENERATED,
        State.DOWNLOADED,
        State.RELEASED,
    },
}


def test_how_states_are_counted_and_named() -> None:
    assert {s: category(s) for s in (None, *State)} == {s: c for c, states in COUNTED.items() for s in states}
    assert set(STATE_NAMES) == set(State)


def test_unfinished_histories() -> None:
    book = Book().put(Steps("a").submitting(), *Steps("b").to(State.HELD))
    assert [h.task for h in unfinished(book.state)] == ["a"]


def test_words_that_scripts_rest_on() -> None:
    """They stand in the output of `plan --json` and in summaries."""
    assert [action.value for action in Action] == ["submit", "poll", "download", "skip", "hold"]
    assert [differs.value for differs in Differs] == ["missing", "altered"]
    assert [one.value for one in Category] == ["saved", "failed", "held", "parked", "pending"]
    assert ORPHANED == "orphaned"


def test_reasons_word_for_word() -> None:
    assert judge(at(None)).reason == "not submitted yet"
    changed = judge(Book().put(Steps("cat", key="other").submitting()))
    assert changed.reason == "its request is another one than before; what the earlier one brought stays"
    assert judge(at(State.SUBMITTING)).reason == "in doubt: a crash came between its submission and the answer"
    assert judge(at(State.RELEASED)).reason == "settled by hand: submit again"
    assert judge(at(State.SAVED)).reason == "saved"


def test_every_file_has_its_size() -> None:
    for sizes in ([], [100, 100], [99, 99], [None, None]):
        with pytest.raises(ValueError, match="zip"):
            judge(at(State.SAVED), sizes)


def test_a_run_may_be_for_a_few_ids_alone() -> None:
    assert [name for name in ("a", "b") if selects(Selection(only=frozenset({"b"})), name)] == ["b"]


async def _judged_while(book: Book, goes_on: Callable[[], object], size: int | None) -> Planned:
    """Judge the task of a book, to which something happens while the storage is asked."""

    class Asked:
        async def sizes(self, paths: Sequence[str]) -> list[int | None]:
            goes_on()
            return [size for _ in paths]

    it = task()
    matcher = Matcher(book.state)
    matcher.visit(it)
    matcher.settle()
    ledger = SimpleNamespace(state=book.state)
    (planned,) = await run_judge([it], matcher, ledger, Terms(Selection(), "hold"), Asked())  # type: ignore[arg-type]
    return planned


def test_what_is_saved_while_the_storage_is_asked_is_saved() -> None:
    """A run ends a download that a crash cut off while it judges the task."""
    book = at(State.DOWNLOADED)
    planned = anyio.run(_judged_while, book, lambda: book.put(Steps().saved()), None)
    assert (planned.action, planned.differs) == (Action.SKIP, None)


def test_what_is_moved_while_the_storage_is_asked_is_not_missing() -> None:
    book = at(State.SAVED)
    planned = anyio.run(_judged_while, book, lambda: book.put(Steps().moved("cat.png", "cat~1.png")), None)
    assert (planned.action, planned.differs) == (Action.SKIP, None)
    assert anyio.run(_judged_while, book, lambda: None, None).differs is Differs.MISSING

"""New samples of rejected images: which are wanted, and under which ids, keys and paths."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest
from core_help import Book, key_of, saved_file, task

from rsbatch.identity import task_key
from rsbatch.ledger import records
from rsbatch.ledger.records import BadLine
from rsbatch.model import EXT, Task
from rsbatch.planning import Matcher
from rsbatch.redo import REDO_STEP, Reject, Verdict, again, judge, read_rejects, sample_of

SHA = saved_file().sha256


def bought(*names: tuple[str, str]) -> Book:
    book = Book()
    for name, key in names:
        job = f"job-{name}"
        book.put(
            records.submitting(name, key, attempt=1, request={}, usd=None, path="p"),
            records.submitted(name, key, attempt=1, job_id=job, request_id=None),
            records.generated(name, key, job_id=job, images=1, waited_s=1, queries=1),
            records.downloaded(name, key, job_id=job, files=[saved_file(f"{name}.png")]),
            records.saved(name, key, job_id=job, files=[saved_file(f"{name}.png")]),
        )
    return book


CAT, DOG = task("cat"), task("dog")
CAT_2 = again(CAT, 1, CAT.body, CAT.usd)


def verdict(tasks: list[Task], book: Book, *rejects: Reject) -> Verdict:
    matcher = Matcher(book.state)
    for one in tasks:
        matcher.visit(one)
    matcher.settle()
    return judge(tasks, matcher, rejects)


def test_a_new_sample_is_a_task_of_its_own() -> None:
    made = again(task("cat", path=f"a/cat.{EXT}"), 2, {"prompt": "p"}, Decimal(1))
    assert (made.id, made.path, made.sample, made.usd) == ("cat-r3", f"a/cat-r3.{EXT}", 20_001, 1)
    assert made.key == task_key({"prompt": "p"}, 20_001)
    assert again(task(path=f"{EXT}/cat"), 1, {}, None).path == f"{EXT}/cat-r2"
    assert again(task(path=f"a.{EXT}/cat"), 1, {}, None).path == f"a.{EXT}/cat-r2"


def test_no_two_samples_share_a_number() -> None:
    numbers = {sample_of(sample, number) for sample in (1, 2, REDO_STEP) for number in (1, 2, 3)}
    assert len(numbers) == 9
    assert min(numbers) > REDO_STEP


def test_a_rejected_image_gets_one_new_sample_however_often_it_is_asked_for() -> None:
    book = bought(("cat", CAT.key), ("dog", DOG.key))
    reject = Reject("cat", CAT.key, SHA)
    first = verdict([CAT, DOG], book, reject)
    assert (first.new, first.asked, first.left) == ([("cat", CAT.key, 1)], {"cat-r2"}, [])
    assert first.redos == {("cat", CAT.key): 1}
    again_ = verdict([CAT, CAT_2, DOG], book, reject)
    assert (again_.new, again_.asked, again_.left) == ([], {"cat-r2"}, [])


def test_the_new_sample_may_be_rejected_too() -> None:
    book = bought(("cat", CAT.key), ("cat-r2", CAT_2.key))
    found = verdict([CAT, CAT_2], book, Reject("cat", CAT.key, SHA), Reject("cat-r2", CAT_2.key, SHA))
    assert found.new == [("cat", CAT.key, 2)]
    assert found.asked == {"cat-r2", "cat-r3"}


@pytest.mark.parametrize("others", [[], [Reject("cat", CAT.key, "00" * 32)]])
def test_the_new_sample_alone_may_be_rejected(others: list[Reject]) -> None:
    book = bought(("cat", CAT.key), ("cat-r2", CAT_2.key))
    found = verdict([CAT, CAT_2], book, *others, Reject("cat-r2", CAT_2.key, SHA))
    assert (found.new, found.asked, len(found.left)) == ([("cat", CAT.key, 2)], {"cat-r3"}, len(others))


def test_the_highest_of_all_samples_is_no_new_one() -> None:
    last = replace(DOG, sample=REDO_STEP)
    found = verdict([CAT, last], bought(("cat", CAT.key), ("dog", DOG.key)), Reject("dog", DOG.key, SHA))
    assert found.new == [("dog", DOG.key, 1)]


def test_what_is_not_the_rejected_image_is_left_alone() -> None:
    book = bought(("cat", CAT.key))
    found = verdict(
        [CAT, DOG],
        book,
        Reject("cat", CAT.key, "00" * 32),
        Reject("dog", DOG.key, SHA),
        Reject("cat", key_of("old"), SHA),
    )
    assert (found.new, found.asked) == ([], set())
    assert [text.split(":")[0] for text in found.left] == ["cat", "dog", "cat"]
    assert verdict([], book).left == []


def test_a_renamed_task_is_recorded_under_the_name_that_the_ledger_has() -> None:
    book = bought(("old", CAT.key))
    found = verdict([CAT], book, Reject("cat", CAT.key, SHA))
    assert found.new == [("old", CAT.key, 1)]
    assert found.redos == {("cat", CAT.key): 1}


def test_the_ledger_counts_and_follows_a_new_name() -> None:
    book = bought(("cat", CAT.key))
    book.put(records.redo("cat", CAT.key, number=1), records.redo("cat", CAT.key, number=2))
    assert book.state.redos == {("cat", CAT.key): 2}
    book.put(records.renamed("tom", CAT.key, from_="cat"))
    assert book.state.redos == {("tom", CAT.key): 2}


@pytest.mark.parametrize(("name", "number"), [("cat", 2), ("cat", 0), ("dog", 1), ("cat", "1"), ("cat", None)])
def test_a_new_sample_that_follows_nothing_is_damage(name: str, number: object) -> None:
    book = bought(("cat", CAT.key))
    with pytest.raises(BadLine):
        book.put(records.redo(name, CAT.key, number=number))  # type: ignore[arg-type]
    assert book.state.redos == {}


def test_what_the_page_writes_is_read() -> None:
    one = {"task": "cat", "key": "k", "sha256": "s"}
    assert read_rejects(json.dumps({"rejects": 1, "rejected": [one]}).encode()) == [Reject("cat", "k", "s")]


@pytest.mark.parametrize(
    "value", [[], {}, {"rejects": 2, "rejected": []}, {"rejects": 1, "rejected": {}}, {"rejects": 1, "rejected": [1]}]
)
def test_what_it_does_not_write_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a list of rejected images"):
        read_rejects(json.dumps(value).encode())


def test_bytes_that_are_no_text_are_refused() -> None:
    for data in (b"\xff", b"[" * 100_000, b""):
        with pytest.raises(ValueError, match="is not a list"):
            read_rejects(data)
    with pytest.raises(ValueError, match="not text"):
        read_rejects(b'{"rejects": 1, "rejected": [{"task": 1, "key": "k", "sha256": "s"}]}')


def test_an_image_from_before_a_repair_may_have_been_rejected_before_it() -> None:
    book = bought(("cat", CAT.key))
    assert book.state.repaired_at is None
    book.put(records.repaired())
    history = book.state.get("cat", CAT.key)
    assert history is not None
    assert book.state.repaired_at is not None
    matcher = Matcher(book.state)
    matcher.visit(CAT)
    matcher.settle()
    for later, doubtful in ((0.0, {"cat-r2"}), (0.001, set())):
        history.submitted_at = book.state.repaired_at + later
        found = judge([CAT], matcher, [Reject("cat", CAT.key, SHA)], book.state.repaired_at)
        assert (found.doubtful, found.asked) == (doubtful, {"cat-r2"})

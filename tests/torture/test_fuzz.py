"""The short form of the fuzzing, that its oracles bite, and that a seed gives the same case again."""

from __future__ import annotations

from random import Random

import pytest

from rsbatch import wire
from torture import answers, fuzz, ledgers, sockets, texts
from torture.answers import Case
from torture.rows import Params


@pytest.mark.slow
def test_the_short_form() -> None:
    figure = fuzz.run(Params(short=True))
    assert figure.failures == []
    assert figure.ok


@pytest.mark.parametrize("seed", [11, 12, 13, 14, 15])
def test_a_seed_is_one_case(seed: int) -> None:
    kind = seed % 10
    assert list(fuzz._try(kind, [seed])) == []
    assert fuzz.run(Params(seed=9)).failures, "no kind ends in 9"


def test_a_case_depends_on_its_seed_alone() -> None:
    assert answers.make(Random(7)) == answers.make(Random(7))
    assert sockets.draw(Random(7)) == sockets.draw(Random(7))
    assert texts.make_manifest(Random(7)) == texts.make_manifest(Random(7))
    found = ledgers.base(3)
    ledgers.base.cache_clear()
    assert ledgers.base(3) == found
    assert ledgers.mutate(found, Random(7)) == ledgers.mutate(found, Random(7))


REFUSED = wire.Refused("x", "m", 400, final=True)


@pytest.mark.parametrize(
    ("status", "body", "wrong"),
    [
        (400, b'{"job_id":"task_1"}', REFUSED),
        (400, b'{"a":[{"job_id":"task_1"}]}', wire.Throttled("x", 400)),
        (504, b'{"code":"x"}', REFUSED),
        (408, b'{"code":"x"}', REFUSED),
        (500, b'{"message":"x"}', REFUSED),
        (200, b"{}", REFUSED),
        (200, b'{"job_id":"task_1"}', wire.Doubt("x")),
        (200, b'{"job_id":"task_1"}', wire.Accepted("task_2", None)),
        (400, b'{"job_id":"task_1"}', wire.Accepted("task_1", None)),
        (429, b"", wire.Doubt("x")),
        (401, b"", REFUSED),
        (429, b"", wire.Throttled("x", 429, 1e9)),
        (200, b"", wire.NotSent("x")),
    ],
)
def test_the_oracle_of_submissions_bites(status: int, body: bytes, wrong: wire.SubmitOutcome) -> None:
    assert answers.judge_submit(Case(status, {}, body), wrong)


@pytest.mark.parametrize(
    ("status", "body", "wrong"),
    [
        (200, b'{"status":"WAIT"}', wire.Done(())),
        (200, b'{"status":"WAIT"}', wire.Failed("x", "m")),
        (500, b'{"status":"FAIL"}', wire.Failed("x", "m")),
        (200, b'{"status":"DONE"}', wire.Waiting("DONE")),
        (200, b'{"status":"FAIL"}', wire.Trouble("x")),
        (200, b'{"status":"DONE","data":[{"url":"a"}]}', wire.Done(("b",))),
        (502, b"", wire.UnknownJob("x")),
    ],
)
def test_the_oracle_of_queries_bites(status: int, body: bytes, wrong: wire.QueryOutcome) -> None:
    assert answers.judge_query(Case(status, {}, body), wrong)


def test_the_oracle_of_ledgers_bites() -> None:
    found = ledgers.base(0)
    whole = b"".join(found.lines)
    assert ledgers.judge(found, whole) == ""
    other = ledgers.Base(found.lines, ((), *found.states[:-1]), found.tasks)
    assert ledgers.judge(other, whole) == f"it is not the state of its first {len(found.lines)} lines"
    values = ledgers._sound(found.lines)
    assert ledgers.spent(values) == sum((v for _, v in found.states[-1][6][0]), start=ledgers.Decimal(0))


def test_the_oracle_of_images_bites() -> None:
    assert texts.judge_image(texts.pictures()[0].data) == ""
    assert texts.judge_image(texts.pictures()[0].data, cut=True)

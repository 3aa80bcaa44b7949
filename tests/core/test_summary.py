"""How a run ended: exit codes in their order, the JSON object, and remedies that can be typed."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from rsbatch.errors import Exit
from rsbatch.ledger.state import Bucket, Spend
from rsbatch.planning import Category
from rsbatch.scheduler import Halt
from rsbatch.summary import Differing, Result, ThisRun, in_words, quoted, remedies, spend_json, spend_words

ONE = {c: Counter({c: 1}) for c in Category}
SAVED, FAILED, HELD, PARKED, PENDING = (ONE[c] for c in Category)


def result(tasks: Counter[Category] = SAVED, **more: Any) -> Result:
    fields: dict[str, Any] = {
        "manifest": "m.yaml",
        "run": "r",
        "ledger": "L",
        "output": "O",
        "tasks": tasks,
        "selected": tasks,
        "orphaned": 0,
        "this_run": ThisRun(1, 2, 3, 4),
        "seconds": 1.23456,
        "spend": Spend(),
        "differing": Differing(),
    }
    return Result(**{**fields, **more})


@pytest.mark.parametrize(
    ("it", "code", "reason"),
    [
        (result(), 0, "done"),
        (result(Counter()), 0, "done"),
        (result(FAILED), 1, "failed"),
        (result(HELD), 1, "failed"),
        (result(PARKED), 3, "parked"),
        (result(PENDING), 3, "pending"),
        (result(PARKED + PENDING), 3, "parked"),
        (result(FAILED + PARKED), 3, "parked"),
        (result(differing=Differing(altered=["a"])), 1, "failed"),
        (result(differing=Differing(gone=["a"])), 1, "failed"),
        (result(FAILED, selected=SAVED), 0, "done"),
        (result(PENDING, selected=Counter()), 0, "done"),
        (result(PENDING, halted=Halt.BUDGET), 3, "budget"),
        (result(FAILED, halted=Halt.MAX_FAILURES), 3, "max_failures"),
        (result(HELD, halted=Halt.MAX_IN_DOUBT), 3, "max_in_doubt"),
        (result(PENDING, halted=Halt.STOP_AFTER), 3, "stop_after"),
        (result(PENDING, halted=Halt.UNAVAILABLE), 3, "unavailable"),
        (result(halted=Halt.STOP_AFTER), 0, "done"),
        (result(halted=Halt.KEY), 3, "key_refused"),
        (result(halted=Halt.BALANCE), 3, "balance"),
        (result(halted=Halt.ADDRESS), 3, "wrong_address"),
        (result(halted=Halt.STORE), 4, "store"),
        (result(PENDING, halted=Halt.STORE, signal=2), 4, "store"),
        (result(PENDING, halted=Halt.SIGNAL, signal=1), 129, "signal"),
        (result(PENDING, halted=Halt.SIGNAL, signal=2), 130, "signal"),
        (result(PARKED, halted=Halt.BUDGET, signal=15), 143, "signal"),
        (result(halted=Halt.SIGNAL, signal=2), 0, "done"),
        (result(halted=Halt.SIGNAL, signal=2, differing=Differing(gone=["a"])), 1, "failed"),
    ],
)
def test_the_exit_code_and_its_reason(it: Result, code: int, reason: str) -> None:
    assert (it.exit_code, it.reason) == (code, reason)


@pytest.mark.parametrize(
    ("tasks", "halted", "signal"),
    list(product([SAVED, FAILED, HELD, PARKED, PENDING, FAILED + PARKED], [None, *Halt], [None, 1, 2, 15])),
)
def test_the_order_of_exit_codes(tasks: Counter[Category], halted: Halt | None, signal: int | None) -> None:
    it = result(tasks, halted=halted, signal=signal)
    code = it.exit_code
    assert (code == Exit.STORE) == (halted is Halt.STORE)
    assert (code == Exit.OK) <= (tasks == SAVED)
    if code > Exit.BUSY:
        assert code == 128 + (signal or 0)
    if signal and tasks != SAVED and halted is not Halt.STORE:
        assert code > Exit.BUSY
    assert it.reason
    assert in_words(it, "m.yaml", "run m.yaml --limit 9")


def test_the_json_object() -> None:
    spend = Spend()
    spend.move(Decimal("0.10"), None, Bucket.DELIVERED)
    assert result(SAVED + HELD, orphaned=2, spend=spend).as_json() == {
        "manifest": "m.yaml",
        "run": "r",
        "exit_code": 1,
        "reason": "failed",
        "tasks": {"total": 2, "saved": 1, "failed": 0, "held": 1, "parked": 0, "pending": 0, "orphaned": 2},
        "this_run": {"submitted": 1, "queries": 2, "saved": 3, "failed": 4, "seconds": 1.235},
        "spend": {"delivered": "0.1", "failed": "0", "unknown": "0", "out": "0", "usd_known": True},
        "ledger": "L",
        "output": "O",
    }


def test_the_spend_object_tells_of_unknown_prices() -> None:
    spend = Spend()
    spend.move(None, None, Bucket.OUT)
    assert spend_json(spend)["usd_known"] is False


@pytest.mark.parametrize(
    ("known", "unknown", "words"),
    [
        ({}, 0, "spent: $0.00"),
        ({}, 1, "spent: unknown (the manifest gives no prices)"),
        ({Bucket.DELIVERED: "0.5"}, 0, "spent: $0.50 ($0.50 delivered)"),
        (
            {Bucket.DELIVERED: "0.5", Bucket.FAILED: "1", Bucket.OUT: "2", Bucket.UNKNOWN: "3"},
            2,
            "spent: $6.50 ($0.50 delivered, $1.00 for jobs that failed, $3.00 unknown, $2.00 for jobs still out), "
            "and 2 submissions without a known price",
        ),
    ],
)
def test_spend_in_words(known: dict[Bucket, str], unknown: int, words: str) -> None:
    spend = Spend()
    for bucket, usd in known.items():
        spend.move(Decimal(usd), None, bucket)
    for _ in range(unknown):
        spend.move(None, None, Bucket.OUT)
    assert spend_words(spend) == words


def test_money_moves_and_is_freed() -> None:
    spend = Spend()
    spend.move(Decimal("0.1"), None, Bucket.UNKNOWN)
    spend.move(Decimal("0.1"), Bucket.UNKNOWN, Bucket.OUT)
    spend.move(Decimal("0.1"), Bucket.OUT, None)
    spend.move(Decimal("0.1"), None, None)
    spend.move(None, None, None)
    assert spend == Spend()


def test_a_quiet_end_in_words() -> None:
    assert in_words(result(), "m.yaml", "run m.yaml") == [
        "1 of 1 saved; this run submitted 1 and saved 3 in 1 s",
        "spent: $0.00",
    ]


def test_a_stopped_run_in_words() -> None:
    it = result(SAVED + PENDING, orphaned=2, halted=Halt.BUDGET, message="cat costs $1")
    assert in_words(it, "m.yaml", "run m.yaml --limit 9") == [
        "1 of 2 saved, 1 pending, 2 orphaned; this run submitted 1 and saved 3 in 1 s",
        "spent: $0.00",
        "stopped early: cat costs $1",
        "raise run.budget (or --budget) and run again: rsbatch run m.yaml --limit 9",
    ]


@pytest.mark.parametrize(
    ("it", "remedy"),
    [
        (result(PENDING), "nothing is lost; to go on: rsbatch run m.yaml --limit 9"),
        (result(PENDING, signal=2, halted=Halt.SIGNAL), "nothing is lost; to go on: rsbatch run m.yaml --limit 9"),
        (result(halted=Halt.KEY), "check the key"),
        (result(halted=Halt.BALANCE), "top up the account"),
        (result(halted=Halt.ADDRESS), "check api.base_url"),
        (result(halted=Halt.STORE), "make room"),
        (result(HELD), "1 held: they may have been charged"),
        (result(FAILED), "1 failed: `rsbatch status m.yaml` says why"),
        (
            result(FAILED, undelivered=1),
            "1 not downloaded, though paid: every `rsbatch run m.yaml --limit 9` tries again while the job answers. "
            "Give an image up, and order another at its price, with `rsbatch resolve m.yaml TASK --resubmit`",
        ),
        (result(differing=Differing(altered=["a", "b"])), "2 saved files differ"),
        (result(differing=Differing(gone=["a"])), "1 saved files are gone"),
    ],
)
def test_each_trouble_has_its_remedy(it: Result, remedy: str) -> None:
    lines = remedies(it, "m.yaml", "run m.yaml --limit 9")
    assert len(lines) == 1
    assert lines[0].startswith(remedy)
    assert "rsbatch" in lines[0]
    assert "m.yaml" in lines[0]


def test_braces_in_a_command_are_left_alone() -> None:
    assert remedies(result(halted=Halt.KEY), "x", "run '{x}.yaml'") == [
        "check the key in the environment or .env, then: rsbatch run '{x}.yaml'"
    ]


def test_commands_are_quoted() -> None:
    assert quoted(["my file.yaml", "--var", "a=b"]) == "'my file.yaml' --var a=b"


def test_a_run_begins_with_nothing_done() -> None:
    assert vars_of(ThisRun()) == {"submitted": 0, "queries": 0, "saved": 0, "failed": 0}


def vars_of(run: ThisRun) -> dict[str, int]:
    return {name: getattr(run, name) for name in ThisRun.__slots__}


@pytest.mark.parametrize(
    ("halted", "remedy"),
    [
        (Halt.BUDGET, "raise run.budget (or --budget) and run again: rsbatch run m.yaml -q"),
        (Halt.KEY, "check the key in the environment or .env, then: rsbatch run m.yaml -q"),
        (Halt.BALANCE, "top up the account, then: rsbatch run m.yaml -q"),
        (Halt.ADDRESS, "check api.base_url, then: rsbatch run m.yaml -q"),
        (
            Halt.STORE,
            "make room or mend the disk, then: rsbatch run m.yaml -q (paid jobs are fetched, not bought again)",
        ),
    ],
)
def test_remedies_word_for_word(halted: Halt, remedy: str) -> None:
    assert remedies(result(halted=halted), "m.yaml", "run m.yaml -q")[0] == remedy


def test_an_interruption_after_which_all_is_saved_is_no_early_stop() -> None:
    lines = in_words(result(SAVED, message="interrupted", signal=15), "m.yaml", "run m.yaml")
    assert "interrupted, and all is saved" in lines
    assert not [line for line in lines if "stopped early" in line]

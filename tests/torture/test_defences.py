"""The short form of taking defences out, and that the table is whole and about what there is."""

from __future__ import annotations

import pytest

from torture import defences
from torture.rows import Params


@pytest.mark.slow
def test_the_short_form() -> None:
    figure = defences.run(Params(short=True))
    assert figure.ok, figure


@pytest.mark.parametrize("defence", defences.table(), ids=lambda defence: defence.name)
def test_every_defence_is_there_exactly_once(defence: defences.Defence) -> None:
    text = defence.taken_out()
    compile(text, defence.file, "exec")
    for test in defence.tests:
        file, _, name = test.partition("::")
        assert f"def {name}" in (defences.ROOT / "tests" / file).read_text(encoding="utf-8"), test


@pytest.mark.parametrize("one", defences.covered(), ids=lambda one: one.text)
def test_what_another_defence_covers_is_there_and_has_its_reason(one: defences.Covered) -> None:
    text = (defences.ROOT / "rsbatch" / one.file).read_text(encoding="utf-8")
    assert text.count(one.text) == 1
    assert one.why


def test_names_and_seeds_are_apart() -> None:
    every = defences.table()
    assert len({d.name for d in every}) == len({d.seed for d in every}) == len(every)


def test_every_promise_and_every_threat_has_defences() -> None:
    page = (defences.ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = page.split("| threat | defence |")[1].split("\n\n")[0].splitlines()[2:]
    threats = {d.threat for d in defences.table()}
    for row in table:
        assert any(row.removeprefix("| ").startswith(threat) for threat in threats), row
    for threat in threats:
        assert threat in page, threat

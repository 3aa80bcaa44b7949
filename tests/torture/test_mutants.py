"""The short form of the mutation testing, and that a mutant is what it says."""

from __future__ import annotations

import ast

import pytest

from torture import mutants
from torture.rows import Params


@pytest.mark.slow
def test_the_short_form() -> None:
    figure = mutants.run(Params(short=True))
    assert figure.ok, figure


@pytest.mark.parametrize("module", mutants.TESTS)
def test_every_mutant_is_another_module_and_has_a_name_of_its_own(module: str) -> None:
    found = mutants.mutants_of(module)
    whole = ast.unparse(mutants._parse(module))
    assert len({mutant.name for mutant in found}) == len(found)
    for mutant in found[:: max(1, len(found) // 20)]:
        assert ast.unparse(mutants.mutated(module, mutant.number)) != whole


def test_seeds_are_apart() -> None:
    seeds = [mutant.seed for module in mutants.TESTS for mutant in mutants.mutants_of(module)]
    assert len(set(seeds)) == len(seeds)


def test_every_equivalent_mutant_is_there_and_has_its_reason() -> None:
    names = {mutant.name for module in mutants.TESTS for mutant in mutants.mutants_of(module)}
    known = mutants.equivalents()
    assert set(known) <= names
    assert all(known.values())

"""docs/simulator.md says what the code does. `python tests/simulator/test_simulator_docs.py` writes its table anew."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rsbatch.commands import simulate
from rsbatch.simulator.faults import FAMILIES, GROUPS, parse_faults, table

PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"
PLACE = re.compile(r"(<!-- faults: .*? -->\n).*?(\n<!-- end of faults -->)", re.DOTALL)


def fresh(text: str) -> str:
    return PLACE.sub(lambda found: found[1] + table() + found[2], text)


def test_the_table_of_faults_is_fresh() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert PLACE.search(text)
    assert fresh(text) == text


def test_every_option_and_group_is_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    parser = argparse.ArgumentParser(add_help=False)
    simulate.add_arguments(parser)
    for action in parser._actions:
        assert f"`{action.option_strings[0]}" in text
    for name in (*GROUPS, *FAMILIES):
        assert f"`{name}`" in text


def test_the_examples_of_faults_are_right() -> None:
    examples = re.findall(r"--faults (\S+=\S+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        assert parse_faults(example)


if __name__ == "__main__":
    PAGE.write_text(fresh(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

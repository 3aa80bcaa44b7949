"""Templates render as Jinja2 does, say what is wrong, and cost a bounded amount."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsbatch.manifest import templates
from rsbatch.manifest.faults import Fault
from rsbatch.manifest.sandbox import Row
from rsbatch.manifest.templates import Template, is_name, template

NAMES: dict[str, Any] = {
    "x": "Cat",
    "n": 7,
    "f": 1.5,
    "none": "shadowed",
    "nothing": None,
    "yes": True,
    "d": {"y": "deep", "items": "own", "z": {"q": 1}},
    "row": Row({"sku": "A1", "x y": "spaced", "items": "column", "keys": "k", "empty": None}),
    "list": ["b", "a"],
    "run": {"date": "2026-05-29"},
}


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("plain", "plain"),
        ("plain } }} %} #}\r\n", "plain } }} %} #}\r\n"),
        ("{{ x }}", "Cat"),
        ("{{x}}-{{n}}\n", "Cat-7\n"),
        ("{{ x | slug }}{{ x|upper }}{{ x|lower }}", "catCATcat"),
        ("{{ f }}", "1.5"),
        ("{{ nothing }}|{{ yes }}", "|true"),
        ("{{ nothing ~ yes }}{{ [nothing, 1] | join('-') }}", "true-1"),
        ("{{ d.y }}{{ d.z.q }}{{ d['y'] }}", "deep1deep"),
        ("{{ row.sku }} {{ row['x y'] }} {{ row.items }} {{ row.keys }} {{ row.empty }}", "A1 spaced column k "),
        ("{{ row.get('nope', 'z') }}{{ d.items }}", "zown"),
        ("{{ q | default('medium') }}", "medium"),
        ("{{ row.q | default('none') }}", "none"),
        ("{% if q is defined %}a{% else %}b{% endif %}\n", "b\n"),
        ("{% for v in list %}{{ loop.index }}{{ v }}{{ ',' if not loop.last }}{% endfor %}", "1b,2a"),
        ("{% set y = x ~ n %}{{ y }}", "Cat7"),
        ("{# comment #}a", "a"),
        ("{{- x -}} b", "Catb"),
        ("{{ '%03d' % n }} {{ '%03d' | format(n) }}", "007 007"),
        ("{{ list | sort | join(', ') }}", "a, b"),
        ("{{ list | map('upper') | list | tojson }}", '["B", "A"]'),
        ("{{ {'a': '<猫>'} | tojson }}", '{"a": "<猫>"}'),
        ("{{ x.replace('C', 'B') }}{{ x | replace('a', 'o') }}{{ x | replace('a', 'o', 0) }}", "BatCotCat"),
        ("{{ x.split('a')[0] }}{{ x[1:] }}{{ x | length }}", "Cat3"),
        ("{{ run.date }}", "2026-05-29"),
        ("{{ range(3) | list }}{{ dict(a=1).a }}", "[0, 1, 2]1"),
        ("{{ 2 ** 10 + 3 * 4 - 7 % 4 }}", "1033"),
        ("{{ none_such is defined }} {{ 'a' if nothing }}{{ yes | slug }}", "false true"),
        ("{{ n * 'ab' }}{{ 'ab' * 2 }}{{ [1] + [2] }}{{ 1.5 * 2 }}", "ababababababababab" + "[1, 2]3.0"),
        ("{{ row | dictsort | first | first }}{{ [1, 2] | sum }}", "empty3"),
        ("{{ list.index('a') }}{{ (1, 2).count(2) }}", "11"),
        ("{{ x | format }}{{ '%(a)s' | format(a=1) }}", "Cat1"),
        ("{{ [d, d] | join('|', attribute='y') }}", "deep|deep"),
    ],
)
def test_rendering(source: str, made: str) -> None:
    assert Template(source).render(NAMES) == made
    assert template(source).render(NAMES) == made


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ nope }}", "the name 'nope' is not known here; known: x, n"),
        ("{{ nope.more }}", "'nope' is not known"),
        ("{{ nope + 1 }}", "'nope' is not known"),
        ("{{ row.nope }}", "no column 'nope'; it has: sku, x y, items, keys, empty"),
        ("{{ row['no pe'] }}", "no column 'no pe'; it has: sku"),
        ("{{ d.nope }}", "no 'nope' here; there is: y, items, z"),
        ("{{ d.nope.more }}", "no 'nope' here"),
        ("{{ list.nope }}", "has no attribute"),
        ("{{ x.upper.nope }}", "has no attribute 'nope'"),
        ("{{ x.upper }}", "not called"),
        ("{{ x ~ range }}", "not called"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ 'a' + 1 }}", "template"),
        ("{{ x.index('q') }}", "template"),
    ],
)
def test_what_cannot_be_rendered(source: str, message: str) -> None:
    with pytest.raises(Fault, match=r"\w") as caught:
        Template(source).render(NAMES)
    assert message in str(caught.value)


def test_a_row_without_columns_is_described() -> None:
    with pytest.raises(Fault, match="it has: nothing"):
        Template("{{ row.x }}").render({"row": Row()})
    with pytest.raises(Fault, match="c29, …"):
        Template("{{ row.x }}").render({"row": Row({f"c{i}": 1 for i in range(40)})})


@pytest.mark.parametrize(
    "source",
    [
        "{{ x",
        "{{ }}",
        "{% if x %}",
        "line\n{{ x ! }}",
        "{% include 'a' %}",
        "{% import 'a' as b %}",
        "{% from 'a' import b %}",
        "{% extends 'a' %}",
        "{% block b %}{% endblock %}",
        "{% macro m() %}{% endmacro %}",
        "{% call x() %}{% endcall %}",
        "{% filter upper %}{% endfilter %}",
        "{% set a %}x{% endset %}",
        "{% set ns = namespace() %}{% set ns.a = 1 %}",
        "{% for a in list recursive %}{% endfor %}",
        "{{ x | random }}",
        "{{ x | nope }}",
        "{{ x is nope }}",
        "{{" + "(" * 5000 + ")" * 5000 + "}}",
    ],
)
def test_what_is_no_template(source: str) -> None:
    with pytest.raises(Fault, match="template"):
        Template(source).render(NAMES)


# What comes first would pass without its limit, and does little harm to the machine that tries it so.
BOMBS = [
    "{{ ('a' * 2000000) | length }}",
    "{{ (2000000 * 'a') | length }}",
    "{{ ([0] * 2000000) | length }}",
    "{{ 10 ** 100000 > 0 }}",
    "{{ (('a' * 1000000) + ('a' * 1000000)) | length }}",
    "{{ (('a' * 1000000) ~ ('a' * 1000000)) | length }}",
    "{{ ('%2000000d' % 1) | length }}",
    "{{ '%2000000d' | format(1) | length }}",
    "{{ ('a' * 2000).replace('a', 'a' * 2000) | length }}",
    "{{ ('a' * 2000) | replace('a', 'a' * 2000) | length }}",
    "{{ (['a'] * 2000) | join('a' * 2000) | length }}",
    "{{ x.center(2000000) | length }}",
    "{% set s = [1] %}" + "{% set s = [s, s] %}" * 18 + "{{ s | string | length }}",
    "{% set s = [1] %}" + "{% set s = [s, s] %}" * 18 + "{{ s }}",
    "{% for a in range(100000) %}{% for b in range(2) %}{% endfor %}{% endfor %}",
    "{% for a in range(20) %}{{ 'a' * 100000 }}{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ [0] * 10**9 }}",
    "{{ 10 ** 100000 }}",
    "{{ (9 ** 999) * (9 ** 999) * (9 ** 999) }}",
    "{{ 2 ** 'a' }}",
    "{{ 'a' * 'b' }}",
    "{{ x" + " | upper" * 5000 + " }}",
    "{{ 2 ** 1000 * 2 ** 1000 * 2 ** 1000 * 2 ** 1000 * 2 ** 1000 }}",
    "{{ range(10**9) | list }}",
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{% for a in range(50000) %}{{ 'a' * 100000 }}{% endfor %}",
    "{{ '%099999999d' % 1 }}",
    "{{ '%0*d' % (999999999, 1) }}",
    "{{ '%099999999d' | format(1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ x.format(1) }}",
    "{{ x.format_map({}) }}",
    "{{ 'a' | center(10**9) }}",
    "{{ x.center(10**9) }}",
    "{{ x.ljust(10**9) }}",
    "{{ ('a' * 100000).replace('a', 'a' * 100000) }}",
    "{{ ('a' * 100000) | replace('a', 'a' * 100000) }}",
    "{{ (['a'] * 100000) | join('a' * 100000) }}",
    "{{ ('a' * 1000000) ~ ('a' * 1000000) }}",
    "{{ ('a' * 1000000) + ('a' * 1000000) }}",
    "{% set s = 'a' %}" + "{% set s = s ~ s %}" * 60 + "{{ s }}",
    "{% set s = [1] %}" + "{% set s = [s, s] %}" * 40 + "{{ s }}",
    "{% set s = [1] %}" + "{% set s = [s, s] %}" * 40 + "{{ s | upper }}",
    "{% set s = {'a': 1} %}" + "{% set s = {'a': s, 'b': s} %}" * 40 + "{{ s | tojson }}",
    "{{ '9' * 5000 | int }}{{ ('9' * 5000) | int + 10 ** 5000 }}",
    "{{ ''.__class__ }}",
    "{{ x.__class__.__mro__ }}",
    "{{ x['__class__'] }}",
    "{{ x | attr('__class__') }}",
    "{{ row.__init__ }}",
    "{{ [].append(1) }}",
    "{{ d.update({}) }}",
    "{{ d.pop('y') }}",
    "{{ d.clear() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ lipsum() }}",
    "{{ cycler('a').next() }}",
    "{{ (1).bit_length() }}",
    "{{ self.__init__ }}",
    "{{ dict.__subclasses__() }}",
    "{{ loop.__class__ }}",
    "{% for a in list %}{{ loop.__class__ }}{% endfor %}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_bombs_and_escapes_are_refused_at_once(source: str) -> None:
    tracemalloc.start()
    with pytest.raises(Fault):
        Template(source).render(NAMES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_rendering_changes_none_of_the_names() -> None:
    before = repr(NAMES)
    for source in BOMBS:
        with contextlib.suppress(Fault):
            Template(source).render(NAMES)
    assert repr(NAMES) == before


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("plain", set()),
        ("{{ a }}{{ b.c }}", {"a", "b"}),
        ("{{ a | default(b) }}{% for i in c %}{{ i }}{{ range(2) }}{% endfor %}", {"a", "b", "c"}),
    ],
)
def test_names_that_a_template_uses(source: str, names: set[str]) -> None:
    assert Template(source).names == names


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("a", True),
        ("größe", True),
        ("_a", False),
        ("a-b", False),
        ("1a", False),
        ("loop", False),
        ("if", False),
        ("", False),
    ],
)
def test_what_can_be_a_name(text: str, fits: bool) -> None:
    assert is_name(text) is fits


def test_the_cache_does_not_grow_without_end() -> None:
    for index in range(1100):
        template(f"{{{{ x }}}} {index}")
    assert len(templates._CACHE) <= 1000


PIECES = st.sampled_from(
    [
        "{{ x }}",
        "{{x}}",
        "{{ d.y }}",
        "{{ x|upper }}",
        "{{ n }}",
        "{{ x | lower }}",
        " ",
        "a",
        "}}",
        "}",
        "\n",
        "{",
        "%}",
        "é",
    ]
)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_the_short_way_gives_what_jinja_gives(source: str) -> None:
    jinja = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined, autoescape=False)
    try:
        expected = jinja.from_string(source).render(NAMES)
    except jinja2.TemplateError:
        with pytest.raises(Fault):
            Template(source).render(NAMES)
    else:
        assert Template(source).render(NAMES) == expected


@given(st.text(st.sampled_from("{}%# xn.|()[]'\"~+-*\n0a_"), max_size=40))
def test_any_text_renders_or_is_a_fault(source: str) -> None:
    with contextlib.suppress(Fault):
        Template(source).render(NAMES)

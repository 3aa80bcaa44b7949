"""The line of jobs that are out: ranks, who waits, and when their work began."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rsbatch.line import Line, Place


def test_ranks_follow_what_leaves() -> None:
    line = Line()
    a, b, c = (line.enter("k", t, t) for t in range(3))
    assert [line.rank(p) for p in (a, b, c)] == [1, 2, 3]
    assert line.leave(a, 5) is None
    assert [line.rank(p) for p in (b, c)] == [1, 2]


def test_the_end_of_one_begins_the_first_that_waits() -> None:
    line = Line()
    a, b, c = (line.enter("k", 0, 0) for _ in range(3))
    line.wait(c)
    line.wait(b)
    assert (b.began, b.age) == (None, 0.0)
    a.alive = 10
    assert line.leave(a, 20) is b
    assert b.began == 15
    b.alive = 18
    assert b.age == 3
    c.alive = 40
    assert line.leave(b, 30) is c
    assert c.began == 40, "it was seen to wait until then"


def test_one_that_runs_tells_of_those_before_it() -> None:
    line = Line()
    a, b, c = (line.enter("k", 0, 0) for _ in range(3))
    for place in (a, b, c):
        line.wait(place)
    line.wait(a)
    line.run(b, 8)
    assert (a.began, b.began, c.began) == (4, 4, None)
    assert (line.running, b.running) == (1, True)
    line.run(b, 9)
    assert line.running == 1
    line.wait(b)
    assert (line.running, b.began) == (0, None)
    assert line.leave(c, 10) is None, "the end of one that waited frees no place of work"
    assert line.leave(a, 10) is b


@given(st.lists(st.tuples(st.sampled_from(["enter", "wait", "run", "leave"]), st.integers(0, 20)), max_size=80))
def test_any_order_of_events_keeps_the_counts(events: list[tuple[str, int]]) -> None:
    line, out, now = Line(), list[Place](), 0.0
    for what, which in events:
        now += 1
        if what == "enter" or not out:
            out.append(line.enter("k", now, now))
            continue
        place = out[which % len(out)]
        if what == "wait":
            line.wait(place)
        elif what == "run":
            line.run(place, now)
        else:
            out.remove(place)
            line.leave(place, now)
        assert [line.rank(p) for p in out] == list(range(1, len(out) + 1))
        assert line.running == sum(p.running for p in out)
        assert all(p.began is None or p.began <= now for p in out)
        assert all(p.began is not None for p in out if p.running)

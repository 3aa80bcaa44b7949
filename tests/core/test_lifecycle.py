"""The table of states and events is whole, and says what product.md says."""

from __future__ import annotations

from itertools import product

import pytest

from rsbatch.lifecycle import (
    OUT,
    SETTLED_BY_HAND,
    SUBMITTABLE,
    TRANSITIONS,
    Event,
    IllegalTransition,
    State,
    advance,
)


@pytest.mark.parametrize(("state", "event"), list(product([None, *State], Event)))
def test_every_pair_is_in_the_table_or_raises(state: State | None, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert advance(state, event) is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransition) as caught:
            advance(state, event)
        assert (caught.value.state, caught.value.event) == (state, event)
        assert str(caught.value) == f"{event.value} cannot follow {state.value if state else 'nothing'}"


def test_every_state_can_be_reached_from_nothing_and_has_a_row() -> None:
    assert set(TRANSITIONS) == {None, *State}
    reached: set[State | None] = {None}
    while more := {t for s in reached for t in TRANSITIONS[s].values()} - reached:
        reached |= more
    assert reached == {None, *State}


def test_every_event_is_of_use() -> None:
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


@pytest.mark.parametrize("state", State)
def test_an_intent_follows_only_where_no_job_can_be_out(state: State) -> None:
    assert (Event.SUBMITTING in TRANSITIONS[state]) == (state in SUBMITTABLE | {State.SAVED, State.FAILED_FINAL})
    if state in OUT | {State.HELD, State.SUBMITTING}:
        assert Event.SUBMITTING not in TRANSITIONS[state], "it would be paid twice"


@pytest.mark.parametrize("state", State)
def test_what_can_be_settled_by_hand(state: State) -> None:
    settles = {Event.ATTACHED, Event.NOT_SENT, Event.RESUBMIT} <= set(TRANSITIONS[state])
    assert settles == (state in SETTLED_BY_HAND - {State.SUBMITTING}), "`resolve` doubts a SUBMITTING first"


def test_the_sets_are_apart() -> None:
    assert not OUT & SUBMITTABLE
    both = SUBMITTABLE & SETTLED_BY_HAND
    assert both == {State.RELEASED}

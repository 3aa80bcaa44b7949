"""The table of states and events is whole, and says what is written down here once more."""

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
    ways = {Event.ATTACHED, Event.NOT_SENT, Event.RESUBMIT} & set(TRANSITIONS[state])
    assert bool(ways) == (state in SETTLED_BY_HAND - {State.SUBMITTING}), "`resolve` doubts a SUBMITTING first"
    if state is State.FAILED_DOWNLOAD:
        assert ways == {Event.RESUBMIT}, "its job is known and was delivered"
    else:
        assert len(ways) in {0, 3}


def test_the_sets_are_apart() -> None:
    assert not OUT & SUBMITTABLE
    both = SUBMITTABLE & SETTLED_BY_HAND
    assert both == {State.RELEASED}


NO_JOB = {State.SUBMITTING, State.NOT_SUBMITTED, State.FAILED_SUBMIT, State.HELD, State.RELEASED}
BY_HAND = {State.PARKED, State.FAILED_FINAL, State.HELD, State.RELEASED}
DONE = {State.GENERATED, State.DOWNLOADED, State.FAILED_DOWNLOAD}
ARROWS: dict[tuple[Event, State], set[State | None]] = {
    (Event.SUBMITTING, State.SUBMITTING): {None, *SUBMITTABLE, State.SAVED, State.FAILED_FINAL},
    (Event.SUBMITTED, State.SUBMITTED): {State.SUBMITTING},
    (Event.NOT_SUBMITTED, State.NOT_SUBMITTED): {State.SUBMITTING},
    (Event.IN_DOUBT, State.HELD): {None, *NO_JOB},
    (Event.GENERATED, State.GENERATED): {State.SUBMITTED, State.PARKED, State.SAVED, *DONE},
    (Event.PARKED, State.PARKED): {State.SUBMITTED, State.PARKED, *DONE},
    (Event.DOWNLOADED, State.DOWNLOADED): {State.SAVED, *DONE},
    (Event.SAVED, State.SAVED): {State.DOWNLOADED, State.SAVED},
    (Event.FAILED_SUBMIT, State.FAILED_SUBMIT): {State.NOT_SUBMITTED},
    (Event.FAILED_DOWNLOAD, State.FAILED_DOWNLOAD): DONE,
    (Event.FAILED_FINAL, State.FAILED_FINAL): {State.NOT_SUBMITTED, State.SUBMITTED, State.PARKED, State.HELD, *DONE},
    (Event.ATTACHED, State.SUBMITTED): BY_HAND,
    (Event.NOT_SENT, State.NOT_SUBMITTED): BY_HAND,
    (Event.RESUBMIT, State.RELEASED): {*BY_HAND, State.FAILED_DOWNLOAD},
}
"""Where each event leads and from where: the table the other way round, written down apart from it."""


def test_every_arrow() -> None:
    table = {(source, event, target) for source, row in TRANSITIONS.items() for event, target in row.items()}
    assert table == {(source, event, target) for (event, target), sources in ARROWS.items() for source in sources}


def test_the_sets_by_their_names() -> None:
    assert {State.SUBMITTED, State.PARKED, *DONE} == OUT
    assert {State.NOT_SUBMITTED, State.FAILED_SUBMIT, State.RELEASED} == SUBMITTABLE
    assert {State.SUBMITTING, State.FAILED_DOWNLOAD, *BY_HAND} == SETTLED_BY_HAND


def test_the_words_are_the_names() -> None:
    """They stand in ledgers and in the output of `plan`: none may ever change."""
    for member in (*State, *Event):
        assert member.value == member.name.lower()

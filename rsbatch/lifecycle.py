"""What can happen to a task: one table of states and events.

Rule: every change of a task's state, live or replayed, goes through `advance`; a pair that is not in the table is
illegal and raises. This module knows no records, no files and no money.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a task's history ends."""

    SUBMITTING = "submitting"
    NOT_SUBMITTED = "not_submitted"
    SUBMITTED = "submitted"
    GENERATED = "generated"
    DOWNLOADED = "downloaded"
    SAVED = "saved"
    FAILED_SUBMIT = "failed_submit"
    """Transient, before a job existed: submitting again is free of doubt."""
    FAILED_DOWNLOAD = "failed_download"
    """Transient, with a job: the download goes on, nothing is submitted."""
    FAILED_FINAL = "failed_final"
    HELD = "held"
    PARKED = "parked"
    RELEASED = "released"
    """Settled by hand to be submitted again, its money counted unknown."""


class Event(StrEnum):
    """What moves a task from one state to the next; each comes from one record of the ledger."""

    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    NOT_SUBMITTED = "not_submitted"
    IN_DOUBT = "in_doubt"
    GENERATED = "generated"
    DOWNLOADED = "downloaded"
    SAVED = "saved"
    FAILED_SUBMIT = "failed_submit"
    FAILED_DOWNLOAD = "failed_download"
    FAILED_FINAL = "failed_final"
    PARKED = "parked"
    ATTACHED = "attached"
    NOT_SENT = "not_sent"
    RESUBMIT = "resubmit"


class IllegalTransition(Exception):
    """An event that cannot follow the state: a bug, or a ledger that rsbatch did not write."""

    def __init__(self, state: State | None, event: Event) -> None:
        super().__init__(f"{event.value} cannot follow {state.value if state else 'nothing'}")
        self.state = state
        self.event = event


_JOB_GOES_ON = {
    Event.GENERATED: State.GENERATED,
    Event.PARKED: State.PARKED,
    Event.FAILED_FINAL: State.FAILED_FINAL,
}
_IMAGES_COME = {
    **_JOB_GOES_ON,
    Event.DOWNLOADED: State.DOWNLOADED,
    Event.FAILED_DOWNLOAD: State.FAILED_DOWNLOAD,
}
_BY_HAND = {
    Event.ATTACHED: State.SUBMITTED,
    Event.NOT_SENT: State.NOT_SUBMITTED,
    Event.RESUBMIT: State.RELEASED,
}
_START = {Event.SUBMITTING: State.SUBMITTING}
_DOUBT = {Event.IN_DOUBT: State.HELD}
"""`repair` marks as in doubt whatever it cannot prove, so it may follow every state without a job."""

TRANSITIONS: dict[State | None, dict[Event, State]] = {
    None: _START | _DOUBT,
    State.SUBMITTING: {
        Event.SUBMITTED: State.SUBMITTED,
        Event.NOT_SUBMITTED: State.NOT_SUBMITTED,
    }
    | _DOUBT,
    State.NOT_SUBMITTED: {
        Event.FAILED_SUBMIT: State.FAILED_SUBMIT,
        Event.FAILED_FINAL: State.FAILED_FINAL,
    }
    | _START
    | _DOUBT,
    State.SUBMITTED: _JOB_GOES_ON,
    State.PARKED: _JOB_GOES_ON | _BY_HAND,
    State.GENERATED: _IMAGES_COME,
    State.DOWNLOADED: _IMAGES_COME | {Event.SAVED: State.SAVED},
    State.SAVED: _START
    | {
        Event.GENERATED: State.GENERATED,
        Event.DOWNLOADED: State.DOWNLOADED,
        Event.SAVED: State.SAVED,
    },
    State.FAILED_SUBMIT: _START | _DOUBT,
    State.FAILED_DOWNLOAD: _IMAGES_COME | {Event.RESUBMIT: State.RELEASED},
    State.FAILED_FINAL: _START | _BY_HAND,
    State.HELD: _BY_HAND | _DOUBT | {Event.FAILED_FINAL: State.FAILED_FINAL},  # the last by `repair` alone
    State.RELEASED: _START | _BY_HAND | _DOUBT,
}

OUT = frozenset({State.SUBMITTED, State.GENERATED, State.DOWNLOADED, State.FAILED_DOWNLOAD, State.PARKED})
"""A job exists whose image is not saved yet: every run goes on with these."""

SUBMITTABLE = frozenset({State.NOT_SUBMITTED, State.FAILED_SUBMIT, State.RELEASED})
"""A run submits these without being asked: no job came of them, or a person released them."""

SETTLED_BY_HAND = frozenset(
    {State.SUBMITTING, State.HELD, State.PARKED, State.FAILED_FINAL, State.RELEASED, State.FAILED_DOWNLOAD}
)
"""What `resolve` may settle; the last can only be submitted again, as its job is known and was delivered."""


def advance(state: State | None, event: Event) -> State:
    """Give the state that follows `state` on `event`; `None` is a task without history.

    Raises IllegalTransition for a pair that is not in `TRANSITIONS`.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None

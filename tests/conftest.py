"""Interrupts work in the programs that tests start, however the tests themselves were started."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background command ignores it, its children too
    signal.signal(signal.SIGINT, signal.default_int_handler)

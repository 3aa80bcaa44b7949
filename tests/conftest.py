"""Signals work in the programs that tests start, however the tests themselves were started.

`nohup` and a shell's background commands ignore SIGHUP or SIGINT, and so do their children; a handler is not passed on.
"""

from __future__ import annotations

import signal

for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)

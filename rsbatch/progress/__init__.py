"""How a run tells what it does: one interface; silence, a bar and a log behind it."""

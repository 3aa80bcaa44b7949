"""Where images are put: one interface, a real disk and memory behind it."""

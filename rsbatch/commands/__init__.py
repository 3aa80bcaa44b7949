"""One file a command: `add_arguments(parser)` and `run(args) -> exit code`.

Rule: a command turns options into values, calls what does the work, and prints. It catches nothing: errors go to
`rsbatch.cli`, which owns the exit codes.
"""

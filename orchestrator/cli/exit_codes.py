"""The exit codes of ``orch``; they are part of its interface, and ``orch --help`` prints them."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
CHANGES = 100
TIMED_OUT = 124
SIGNALLED = 128
INTERRUPTED = 130
BROKEN_PIPE = 141

DESCRIPTION = """\
exit codes:
  0    it worked; for "plan": there is nothing to do
  1    it failed
  2    bad input: wrong arguments, or a manifest with problems (nothing was changed)
  100  "plan": there are changes to make
  124  "wait": the time was up
  125, 126, 127  "exec" and "run": the program could not be started (126: it cannot be executed,
       127: it does not exist)
  128+N  ended by signal N, as shells have it: 130 after Ctrl-C, 143 after SIGTERM
  "exec", "run", "wait" and "up --exit-code-from" pass on the program's exit code.
"""

"""The command line: the only room that prints or exits.

Every command is a thin client of the service, and a process of its own that should be over in an instant;
so each command's module, and whatever is dear to import, is loaded by that command alone. Nothing here imports
the service (but for its client), asyncio or pyroute2.

In reading order:

- ``main.py``: the entry point; errors become a line on stderr and an exit code (``exit_codes.py``).
- ``parser.py``: the commands by name, their modules, and the options that all of them have.
- ``context.py``: what every command is handed; ``project.py``: which project and services it is about.
- ``up.py``, ``ps.py``, ``logs.py``, ``exec.py``, ...: a module for each group of commands. Each has ``COMMANDS``,
  and each command a function that adds its arguments and one that does it and returns the exit code.
- ``loop.py``: waits for streams, signals and the clock at once; ``progress.py``: shows an operation's progress;
  ``loglines.py``: shows log lines; ``stdio.py``: moves bytes between the terminal and a program in a
  container; ``start.py``: starts the service.
- ``terminal.py``, ``tables.py``, ``times.py``: how things look.
"""

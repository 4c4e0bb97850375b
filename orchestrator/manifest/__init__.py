"""From a manifest's TOML text to a frozen :class:`orchestrator.spec.ProjectSpec`.

Reading order: ``load`` (the way from path to project), ``document`` and ``locate`` (a file, and the line of
each of its keys), ``interpolate`` and ``dotenv`` (variables), ``place`` (where a value stands, and the problems
found there), ``values``, ``mounts`` and ``confinement`` (small values), ``kinds`` (forms that values take),
``schema`` (the one table of keys: the parser walks it, the JSON Schema is derived from it), ``draft`` (a
service's values and their places), ``service`` and ``namespaces`` (they become its spec), ``seccomp`` (profiles
of system calls), ``check`` (what only shows when all services are known), ``host`` (what only shows on the
host), ``dump`` (the way back to text).

Rules of the room: nothing stops at the first problem; every problem says file, line, key, what is wrong and
what is allowed; no code of the manifest is ever run; nothing here imports what a client command can do without,
since it is on the way of every command.
"""

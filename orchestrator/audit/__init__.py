"""What of a container deviates from the secure default, and how risky that is, for ``orch audit``.

Reading order: ``subject`` (what is judged: a spec and, of a running container, what is in force), ``rules`` (the
table of all rules, and the judging), then the rules by subject: ``confinement``, ``privileges``, ``namespaces``,
``files``, ``devices``, ``exposure``, ``kernel`` (what the kernel says against what the spec says). ``host`` looks at
the host's paths.

A rule is a small pure function: a subject -> the findings that it has. A finding says what deviates, why that matters
and the remedy, and never holds a secret.
"""

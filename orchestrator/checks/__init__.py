"""Checks: what this host offers and lacks, for ``orch doctor``. (``orchestrator.doctor`` runs them all.)

In reading order: ``finding`` (the result of a check), ``privileges``, ``kernel``, ``lsm``, ``cgroups``,
``network``, ``storage``, ``limits`` (one subject each), ``trial`` (does in a process of its own, in namespaces of its
own, what orch would do, since only that shows if the kernel lets it).

Rules: a check changes nothing and never raises; it works without root as far as it can, and what it couldn't try
is a warning. Whatever isn't ok says what then doesn't work, and has a remedy. ``missing`` is for what orch can't
do without; everything else is a ``warning``. The command line loads this: no slow import at the top.
"""

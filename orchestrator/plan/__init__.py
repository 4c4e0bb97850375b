"""Deciding what has to be done: from what is wanted and what is there to an ordered list of operations.

Everything here is pure: no input or output, no clock, no randomness. Reading order: ``observed`` (what is
there), ``operations`` (what a plan is made of), ``conditions`` (when a dependency is met), ``graph``
(dependency order), ``changes`` (how two specs differ), ``ordering`` (from decisions to a plan), ``reconcile``
(``up``), ``lifecycle`` (``down``, ``stop``, ``start``, ``restart``, ``scale``), ``one_off`` (``run``). Whoever
executes a plan takes no decision of its own.
"""

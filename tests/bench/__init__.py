"""The benchmarks of ``make bench``: what orch costs, against limits and against crun in the same run.

In reading order: ``measure`` (results, medians, the table), ``crun`` (the peer), ``instance`` (an orch
service with a small image), ``network`` (the bare veth pair), ``suite`` (the benchmarks), ``__main__``.
Everything runs in the tests' sandbox.
"""

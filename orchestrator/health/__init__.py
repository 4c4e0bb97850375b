"""Health checks: one probe gives one result, and a state machine makes health of many.

Reading order: ``probe`` (the way in: one check against one target, within its timeout), ``tcp`` and ``http`` (made
by orch itself, so an image needs no tool for them), ``failure`` (how a check says why it failed), ``monitor`` (pure:
from results to healthy or unhealthy, and when to probe next). Nothing here knows containers; whoever probes
one hands in its address and a way to run a command in it.
"""

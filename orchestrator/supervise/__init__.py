"""Keeping one container as it should be, for as long as its project runs.

``policy`` (what follows an exit; pure), ``supervisor`` (one task per container: start, watch, restart, stop),
``stopping`` (how a container is asked to stop; when asking is futile), ``pressure`` (what waiting too much for too
long is; pure), ``watch`` (its health, its OOM kills, what it waits for).
"""

"""Keeping one container as it should be, for as long as its project runs.

``policy`` (what follows an exit; pure), ``supervisor`` (one task per container: start, watch, restart, stop),
``stopping`` (how a container is asked to stop; when asking is futile), ``watch`` (its health and its OOM kills).
"""

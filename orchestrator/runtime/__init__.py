"""Making one container.

Reading order: ``program`` (a spec becomes a launch program: a flat list of kernel operations; pure),
``spawner`` (the only process that forks; parent of every container), ``child`` and ``child_operations`` (what the new
process does with its program, up to ``execve``), ``child_paths`` (how it finds a path in an image that nobody vouches
for), ``child_files``, ``child_volume``, ``child_user`` and ``child_program`` (the operations themselves), ``protocol``
(what service, spawner and child say to each other), ``handle`` (the service's end of it); ``survey`` (who is in
which namespace) and ``inforce`` (what holds a process) read from the kernel what came of it. ``userns`` and ``idmap``
are about a container's ids; ``seccomp`` is a room within: from a profile to a filter.

``spawner``, ``child`` and ``protocol`` run in a process that must stay small: they import ``kernel`` and the
standard library only.
"""

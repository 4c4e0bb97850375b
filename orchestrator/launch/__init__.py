"""Starting and removing a container: an ordered list of stages, each forwards and backwards.

Reading order: ``container`` (what one container is made of), ``stages`` (cgroup, rootfs, network: each
``prepare``, ``contribute`` to the launch program, and ``remove``), ``launcher`` (walks the stages; first
start and restart are the same way), ``explain`` (a failed operation becomes a sentence with a remedy).
"""

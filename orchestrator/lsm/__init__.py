"""Linux security modules: which labels and profiles a container gets, and what the host offers of them.

In reading order: ``confinement`` (what one container gets), ``selinux`` (contexts, and the categories that keep
containers apart; pure), ``apparmor`` (the names of profiles; pure) with the profile ``orch-default``, ``host`` (what
the kernel and the policy say), ``relabel`` (a folder's label, file by file).
"""

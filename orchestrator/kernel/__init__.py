"""The kernel's doorstep: one typed function per system call or kernel file, and nothing that decides.

Everything here is synchronous and uses the standard library only, because the spawner and the container's
child process load it and must stay small.
"""

"""Which system calls a container may make.

Reading order: ``profile`` (orch's own default, grouped by purpose), ``resolve`` (a profile becomes rules for one
machine, kernel and set of capabilities; pure), ``compile`` (those become BPF, by libseccomp), ``filters`` (each is
compiled once, in a thread, and kept as a descriptor that travels with the launch program).

The manifest's end of it, which reads files, is ``manifest/seccomp``. The child's end is one operation.
"""

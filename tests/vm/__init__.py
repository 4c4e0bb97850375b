"""The second host: runs the tests in a virtual machine with cgroup v2 only, systemd and AppArmor.

``python -m vm --help``, or ``make test-vm``. In reading order: ``layer`` (the guest's own packages, unpacked
and kept), ``guest`` (what the guest does, as text), ``archive`` (files into an initramfs), ``qemu`` (the
command line), ``share`` (the host's files, read-only), ``outcome`` (what the guest said, pure), ``machine``
(runs and watches it), ``__main__``.

There is no disk image: the guest sees this host's files, with the layer above them and a writable layer in
its memory on top, so Python, the virtual environment, the project and every program are there as they are
here.
"""

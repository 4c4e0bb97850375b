"""cgroups: what a container may use, what it has used, and power over all its processes at once.

One interface (:class:`orchestrator.cgroups.group.Cgroup`) for the three kinds of host:

=======  =======================================  ==================================================
kind     limits and counters                      birth, freezing, killing, "is anyone there"
=======  =======================================  ==================================================
v2       the one hierarchy                        the same (clone3 with CLONE_INTO_CGROUP)
hybrid   v1 hierarchies, one for each controller  the v2 hierarchy beside them, as on v2
v1       v1 hierarchies                           the freezer hierarchy; nothing to be born into
=======  =======================================  ==================================================

A hybrid host is not a third implementation: every controller is either on v1 or on v2, each has its table of
files, and a v2 mount, if there is one, is used for what its core files can do without any controller.

Files, in reading order:

- ``host.py``         ``detect()``, what the host can limit and what not, with the remedy; the way to one cgroup
- ``group.py``        one cgroup: operations to make, limit, join and change it; counters, freeze, kill, remove
- ``limits.py``       limits -> text of the kernel's files, for v1 and v2; the order of a live change
- ``devices.py``      the devices that a container may use
- ``hierarchies.py``  which controller is where, which hierarchies a container joins
- ``members.py``      freezing and killing, v2's way and v1's
- ``stats.py``        counters, pressure
- ``mountinfo.py``    what is mounted where;  ``facts.py``  what else the host offers;  ``failure.py``  errors

Rules: what decides is pure and compiles to ``kernel.operations``; nothing here is stored, so a cgroup can be
taken up again by its path alone; nothing outside the path is ever removed. A container's cgroup is made anew
for each start (counters and old limits would live on in one that is used again) and removed when all its
processes are reaped.

The life of a container's cgroup::

    service   compile_parents            once for each service, in a thread
    spawner   compile_prepare            then open clone_into and clone3(CLONE_INTO_CGROUP)
    child     compile_enter              first of all, while it has one thread and sees the host's /sys;
                                         then unshare(CLONE_NEWCGROUP), for that namespace's root is where its
                                         maker is (the parent, if clone3 made it, even with CLONE_INTO_CGROUP)
    exec      compile_join               the same, for a further process
    service   compile_update             limits and device rules of a running container
    service   kill, reap, remove, and remove_if_empty for the levels above

Facts of the kernel that shaped this (its Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/\\*.rst, and source):

- A write to cgroup.procs after a quiet moment takes 4 to 20 ms: it takes cgroup_threadgroup_rwsem for writing,
  which waits out an RCU grace period. A thread that writes "0" to v1's ``tasks`` moves itself alone and skips that:
  0.04 ms instead of 5.6 ms for the first hierarchy, 0.02 ms for each further one. CLONE_INTO_CGROUP skips it too.
- One more v1 hierarchy costs a start 0.05 ms (mkdir and join) and its end 0.02 ms. So a container joins all that have
  a limit or a counter: io is counted, and limits can be set later without moving running processes.
- v2 counts processor time of every cgroup without a controller: with a v2 mount, cpuacct is not joined.
- Every v1 cgroup has files ``tasks`` and ``notify_on_release``: a project may be called so, its directory may not.
- Weights compare siblings only; hence the weights that ``compile_parents`` sets on the service's level.
- v1's OOM event comes before the kill, so the counter in memory.oom_control is what tells; it is the killed
  process's own cgroup that counts. v2's memory.events counts what happens beneath as well.
- v1's blkio counts nothing since Linux 6.8 until a disk has had any limit: ``enable_io_accounting``.
- v2 protects a cgroup's memory (memory.low, memory.min) as far as every level above it is protected: hence
  ``compile_protection``. v1's soft limit protects nobody: the kernel takes back from those that have one.
- A v2 cpuset with processes in it takes no empty list (ENOSPC), so a limit is taken away by naming all there are.
- A burst above the quota is refused at every moment, as memory above memory and swap is on v1: ``limits.changes``.
- A trigger on a pressure file is an event for ever once its cgroup is gone, and closing it waits out an RCU grace
  period (7 to 16 ms). Without CAP_SYS_RESOURCE its window must be a multiple of 2 s, and for one of 2 s its notices
  come 2 to 4 s apart.
- inotify has 128 instances a user; watching v2's event files with an epoll for EPOLLPRI has no such bound.
- Frozen v1 processes take SIGKILL when they thaw; v2's are killed frozen.
- Which devices may be used is ruled by v1's devices controller where it is mounted, else by an eBPF program in the v2
  hierarchy. Both are told the whole set of rules each time and bring about the difference, so that first start,
  restart and a live change are one operation. v1: 0.02 ms (its cgroup, made, joined and removed: 0.05 ms more); v2:
  0.015 ms, and 0.1 ms when the spawner meets a set of rules for the first time.
- Files that only child cgroups have cannot be looked for in the root: ``facts.py`` looks for their companions there.
"""

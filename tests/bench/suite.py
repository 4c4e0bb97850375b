"""The benchmarks. Each takes a fresh instance and returns lines of the table; limits are issue-level goals."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.crun import Crun
from bench.instance import UNTIL_TERM, Instance, finish
from bench.measure import Result, from_samples, interleave, ratio
from bench.network import bare_pair, gigabits, listening
from support.waiting import wait_until

MS = 1000.0
KIB = 1024.0
MIB = 1024.0 * 1024


@dataclass(frozen=True)
class Scale:
    """How much is measured: ``quick`` shows that every benchmark works, its numbers are rough."""

    starts: int = 40
    rounds: int = 5
    many: int = 50
    crowd: int = 200
    seconds: float = 15.0
    traffic_rounds: int = 5
    traffic_seconds: int = 3


FULL = Scale()
QUICK = Scale(starts=5, rounds=1, many=10, crowd=30, seconds=3.0, traffic_rounds=1, traffic_seconds=1)

Benchmark = Callable[[Instance, Scale], list[Result]]
BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(function: Benchmark) -> Benchmark:
    """Register a benchmark under its function's name."""
    BENCHMARKS[function.__name__] = function
    return function


@benchmark
def start(instance: Instance, scale: Scale) -> list[Result]:
    """One more replica on a running network, until its program has exec'd, beside ``crun run true``."""
    instance.up("one", instance.service("web"))
    instance.probe.wait()
    stages: dict[str, list[float]] = {}
    orch = _scaler(instance, "one", stages)
    with Crun(instance.base, instance.rootfs) as crun:
        bundle = crun.bundle("true", "/bin/true")
        ours, peers = interleave(scale.starts, orch, lambda: crun.run(bundle) * MS)
    peer = sorted(peers)[len(peers) // 2]
    what = "start of one container (request until exec'd), crun run"
    result = from_samples("start", what, ours, "ms", 15.0, peer=peer)
    lines = [result, ratio(result, 0.9, "  start : crun run")]
    for name, samples in stages.items():
        lines.append(from_samples("start", f"  stage {name}", [one * MS for one in samples], "ms"))
    return lines


#: From what the kernel isolates by itself to the default, guard by guard: name -> keys of the manifest.
GUARDS = {
    "namespaces and cgroups alone": "userns = 'host'\nseccomp = 'unconfined'\nunmask = 'all'",
    "+ masked and read-only paths": "userns = 'host'\nseccomp = 'unconfined'",
    "+ seccomp": "userns = 'host'",
    "+ user namespace, idmapped mounts: the default": "",
}


@benchmark
def isolation(instance: Instance, scale: Scale) -> list[Result]:
    """What each guard costs a start: one more replica each time, until its program has exec'd, in turns."""
    measures = []
    stages: dict[str, dict[str, list[float]]] = {}
    for number, (guard, keys) in enumerate(GUARDS.items()):
        project = f"guard{number}"
        instance.up(project, instance.service("web", more=keys))
        instance.probe.wait()
        measures.append(_scaler(instance, project, stages.setdefault(guard, {})))
    samples = dict(zip(GUARDS, interleave(scale.starts, *measures), strict=True))
    results = [from_samples("isolation", guard, times, "ms") for guard, times in samples.items()]
    first, *_, last = samples.values()
    extra = sorted(full - plain for plain, full in zip(first, last, strict=True))
    results.append(from_samples("isolation", "  all guards together (median of pairs)", extra, "ms", 3.0))
    for name in next(iter(stages.values())):
        medians = [sorted(known[name])[len(known[name]) // 2] * MS for known in stages.values()]
        text = " -> ".join(f"{median:.2f}" for median in medians)
        results.append(Result("isolation", f"  stage {name}: {text}", medians[-1], "ms"))
    return results


def _scaler(instance: Instance, project: str, stages: dict[str, list[float]]) -> Callable[[], float]:
    """Starts one more replica and removes it; milliseconds until it ran."""
    known = {container.id for container in instance.containers(project)}

    def measure() -> float:
        began = time.perf_counter()
        stream = instance.client.scale(project, {"web": 2})
        instance.probe.wait()
        seconds = time.perf_counter() - began
        finish(stream)
        (new,) = [one for one in instance.containers(project) if one.id not in known]
        for stage in instance.client.inspect(new.id, project).stages:
            stages.setdefault(stage.name, []).append(stage.seconds)
        finish(instance.client.scale(project, {"web": 1}))
        return seconds * MS

    return measure


@benchmark
def up(instance: Instance, scale: Scale) -> list[Result]:
    """``orch up -d`` of many services and ``orch down`` of them, beside as many ``crun run`` in a row."""
    services = [instance.service(f"s{number}") for number in range(scale.many)]
    downs = []

    def orch() -> float:
        seconds = instance.up("many", *services)
        instance.probe.wait(scale.many)  # the shells have set their traps
        downs.append(instance.down("many"))
        return seconds

    with Crun(instance.base, instance.rootfs) as crun:
        bundle = crun.bundle("true", "/bin/true")
        ours, peers = interleave(scale.rounds, orch, lambda: sum(crun.run(bundle) for _ in range(scale.many)))
    peer = sorted(peers)[len(peers) // 2]
    result = from_samples(
        "up", f"orch up -d of {scale.many} services, crun run in a row", ours, "s", 1.2, peer=peer
    )
    return [
        result,
        ratio(result, 1.0, "  up : crun run in a row (aim 0.7)"),
        from_samples("up", f"orch down of {scale.many} services", downs, "s", 0.6),
    ]


@benchmark
def restart(instance: Instance, scale: Scale) -> list[Result]:
    """From kill -9 of a container's program until its replacement has exec'd."""
    again = "restart = { policy = 'always', reset_after = '50ms' }"  # so each restart is a first one
    instance.up("again", instance.service("web", more=again))
    instance.probe.wait()

    def kill() -> float:
        time.sleep(0.1)  # run longer than reset_after
        (container,) = instance.containers("again")
        assert container.pid is not None
        began = time.perf_counter()
        os.kill(container.pid, signal.SIGKILL)
        instance.probe.wait()
        seconds = time.perf_counter() - began
        wait_until(
            "the new program is known",
            lambda: instance.containers("again")[0].pid not in (None, container.pid),
        )
        return seconds * MS

    (samples,) = interleave(scale.starts, kill)
    return [from_samples("restart", "kill -9 until the replacement has exec'd", samples, "ms", 20.0)]


@benchmark
def exec(instance: Instance, scale: Scale) -> list[Result]:
    """exec of ``true`` through the API until its end is reported, beside ``crun exec``."""
    instance.up("host", instance.service("web"))
    instance.probe.wait()
    with Crun(instance.base, instance.rootfs) as crun:
        crun.time("run", "--detach", "--bundle", crun.bundle("sleep", "/bin/sleep", "100000"), "host")
        try:
            ours, peers = interleave(
                scale.starts,
                lambda: instance.exec("host", "web", "/bin/true") * MS,
                lambda: crun.time("exec", "host", "/bin/true") * MS,
            )
        finally:
            crun.time("delete", "--force", "host")
    peer = sorted(peers)[len(peers) // 2]
    return [from_samples("exec", "exec, service side (whole), crun exec", ours, "ms", 20.0, peer=peer)]


@benchmark
def traffic(instance: Instance, scale: Scale) -> list[Result]:
    """TCP from container to container, beside a bare veth pair on a bridge."""
    host = "image = 'host'\n"
    instance.up(
        "net",
        f"[services.server]\n{host}command = ['iperf3', '--server']\nhealthcheck = {{ tcp = 5201, start_period = "
        "'10s', start_interval = '50ms', interval = '1h' }\n",
        f"[services.client]\n{host}command = ['sleep', 'infinity']\n",
    )
    (server,) = [one for one in instance.containers("net") if one.service == "server"]
    assert server.address is not None
    (client,) = [one for one in instance.containers("net") if one.service == "client"]
    words = ("iperf3", "--json", "--time", str(scale.traffic_seconds), "--client")

    def measure(*command: str) -> float:
        return gigabits(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    with bare_pair() as (one, other):
        peer = subprocess.Popen([*one, "iperf3", "--server"], stdout=subprocess.DEVNULL)
        try:
            # Entering the namespace from outside, as for the peer: the same program in the same cgroup.
            inside = ("nsenter", f"--net=/proc/{client.pid}/ns/net")
            address: str = server.address
            wait_until("the peer listens", lambda: listening(one, 5201))
            ours, peers = interleave(
                scale.traffic_rounds,
                lambda: measure(*inside, *words, address),
                lambda: measure(*other, *words, "10.99.0.1"),
            )
        finally:
            peer.kill()
            peer.wait()
    bare = sorted(peers)[len(peers) // 2]
    result = from_samples("traffic", "container to container TCP, bare veth pair", ours, "Gbit/s", peer=bare)
    return [
        result,
        Result("traffic", "  container : bare", result.value / bare, "x", 0.95, at_least=True, peer=1.0),
    ]


@benchmark
def crowd(instance: Instance, scale: Scale) -> list[Result]:
    """Memory per container, and whether one more costs more when there are many."""
    idle_service, idle_spawner = instance.resident()
    few = 10
    instance.up("crowd", instance.service("web", more=f"replicas = {few}"))
    instance.probe.wait(few)

    def one_more_than(count: int) -> list[float]:
        samples = []
        for _ in range(scale.starts):
            began = time.perf_counter()
            stream = instance.client.scale("crowd", {"web": count + 1})
            instance.probe.wait()
            samples.append((time.perf_counter() - began) * MS)
            finish(stream)
            finish(instance.client.scale("crowd", {"web": count}))
        return samples

    at_few = from_samples("crowd", f"  start of one more beside {few}", one_more_than(few), "ms")
    memory_few = sum(instance.resident())
    finish(instance.client.scale("crowd", {"web": scale.crowd}))
    instance.probe.wait(scale.crowd - few)
    memory_many = sum(instance.resident())
    many = one_more_than(scale.crowd)
    at_many = from_samples(
        "crowd", f"  start of one more beside {scale.crowd}", many, "ms", peer=at_few.value
    )
    each = (memory_many - memory_few) / (scale.crowd - few) / KIB
    return [
        Result("crowd", f"memory per container (from {few} to {scale.crowd})", each, "KiB", 100.0),
        Result("crowd", "service, idle (RSS)", idle_service / MIB, "MiB", 90.0),
        Result("crowd", "spawner, idle (RSS)", idle_spawner / MIB, "MiB", 14.0),
        at_few,
        at_many,
        ratio(at_many, 1.3, f"cost per container at {scale.crowd} : at {few}"),
    ]


@contextmanager
def _checked(instance: Instance, project: str, count: int, service: str) -> Iterator[None]:
    services = [service.replace("NAME", f"s{number}") for number in range(count)]
    instance.up(project, *services)
    yield
    instance.kill(project)


def _cpu_percent(instance: Instance, seconds: float) -> float:
    """Of one processor, over ``seconds``."""
    time.sleep(2)  # the start is not what is measured
    used, began = instance.cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    return 100 * (instance.cpu_seconds() - used) / (time.perf_counter() - began)


@benchmark
def checks(instance: Instance, scale: Scale) -> list[Result]:
    """Processor time of service and spawner with health checks every second."""
    every = "interval = '1s', start_period = '10s', start_interval = '100ms'"
    results = []
    tcp = instance.service(
        "NAME", ["/bin/httpd", "-f", "-p", "7000"], f"healthcheck = {{ tcp = 7000, {every} }}\n"
    )
    with _checked(instance, "tcp", 50, tcp):
        percent = _cpu_percent(instance, scale.seconds)
    results.append(Result("checks", "CPU, 50 containers with tcp checks each second", percent, "%", 5.0))
    inside = instance.service(
        "NAME",
        UNTIL_TERM.replace("echo up >/probe/up; ", ""),
        f"healthcheck = {{ test = ['CMD', '/bin/true'], {every} }}\n",
    )
    with _checked(instance, "exec", 20, inside):
        percent = _cpu_percent(instance, scale.seconds)
    results.append(Result("checks", "CPU, 20 containers with exec checks each second", percent, "%", 20.0))
    return results

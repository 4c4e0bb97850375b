"""Networks: nftables, interfaces, forwarding, connection tracking."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from orchestrator.checks.finding import Finding, missing, number_of, ok, text_of, warning
from orchestrator.checks.trial import attempt

_MANY_CONNECTIONS = 65536
_SBIN = ":/usr/sbin:/sbin"


def check() -> Iterator[Finding]:
    """All of it."""
    yield from _interfaces()
    yield _nftables()
    yield _forwarding()
    yield _bridge_filter()
    yield from _tracking()
    yield _neighbours()


def _interfaces() -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield warning("interfaces", "not tried without root", "run `orch doctor` with sudo")
        return
    for kind, option in (("bridge", "CONFIG_BRIDGE"), ("veth", "CONFIG_VETH")):
        if failure := attempt("link", kind):
            remedy = f"modprobe {kind}, or use a kernel with {option}"
            yield missing(f"{kind} interfaces", f"{failure}: only network_mode host and none work", remedy)
        else:
            yield ok(f"{kind} interfaces", "yes")


def _nftables() -> Finding:
    from orchestrator.network import rules

    if shutil.which("nft", path=os.environ.get("PATH", "") + _SBIN) is None:
        return missing(
            "nftables", "the program nft isn't installed", "apt install nftables (or your system's package)"
        )
    if os.geteuid() != 0:
        return warning("nftables", "not tried without root", "run `orch doctor` with sudo")
    if failure := attempt("nft", text=rules.render("orch_trial", rules.empty())):
        modules = "nf_tables nft_chain_nat nft_masq nft_fib_ipv4 nft_reject_ipv4 nft_ct"
        return missing("nftables", f"the kernel refuses orch's rules: {failure}", f"modprobe -a {modules}")
    return ok("nftables", "nft and the kernel take orch's rules")


def _forwarding() -> Finding:
    value = text_of("/proc/sys/net/ipv4/ip_forward")
    if value == "1":
        return ok("IP forwarding", "on")
    if value is None:
        return missing(
            "IP forwarding",
            "the kernel has no IPv4",
            "use a kernel with CONFIG_INET, and don't hide /proc/sys",
        )
    if not os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK):
        detail = "off, and orch may not turn it on: containers can't reach beyond the host"
        return warning("IP forwarding", detail, "sysctl -w net.ipv4.ip_forward=1, or run orch as root")
    return ok(
        "IP forwarding",
        "off; orch turns it on with the first network that isn't internal, and off after the last",
    )


def _bridge_filter() -> Finding:
    if number_of("/proc/sys/net/bridge/bridge-nf-call-iptables") != 1:
        return ok("bridge filter", "off: traffic within a network doesn't pass the host's IP rules")
    detail = "bridge-nf-call-iptables is on: a rule of the host (say, policy drop) can part containers of one network"
    remedy = (
        "sysctl -w net.bridge.bridge-nf-call-iptables=0, unless Docker or Kubernetes on this host needs it"
    )
    return warning("bridge filter", detail, remedy)


def _tracking() -> Iterator[Finding]:
    limit = number_of("/proc/sys/net/netfilter/nf_conntrack_max")
    if limit is None:
        yield ok("connection tracking", "not loaded yet; the first network loads it")
        return
    count = number_of("/proc/sys/net/netfilter/nf_conntrack_count") or 0
    detail = f"{count} of at most {limit} connections"
    remedy = f"sysctl -w net.netfilter.nf_conntrack_max={max(4 * _MANY_CONNECTIONS, 2 * limit)}"
    if count > 0.8 * limit:
        yield warning("connection tracking", f"{detail}: new ones will be dropped", remedy)
    elif limit < _MANY_CONNECTIONS:
        yield warning("connection tracking", f"{detail}: few for many containers", remedy)
    else:
        yield ok("connection tracking", detail)


def _neighbours() -> Finding:
    limit = number_of("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
    if limit is None or limit > 1024:
        return ok("neighbour table", f"at most {limit} entries" if limit else "yes")
    detail = f"at most {limit} entries: some 500 containers that talk to each other fill it"
    return warning("neighbour table", detail, "sysctl -w net.ipv4.neigh.default.gc_thresh3=8192")

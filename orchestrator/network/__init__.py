"""Networks: a bridge for each, an address and a veth pair for each container, names, and published ports.

Reading order: ``model`` (the words), ``ipam`` (which subnet, which address), ``hosts`` (the files in the
container that name things), ``program`` (what the container's child does in its own namespace), ``ports``
(reserving a port of the host), ``rules`` (our nftables table as text), ``ruleset`` (keeping the kernel's copy
of it), ``forwarding`` (the host's IP forwarding switch), ``links`` (bridges, routes, addresses), ``manager``
(all of it together).

Rules of this room: nothing of the host's own rules is touched, all of ours is in tables named ``orch_*``;
everything may be done again after a kill at any point; a container costs one netlink message and, for its
published ports, map elements, never a rule. Bridged traffic meets no rule and no connection tracking unless
the host passes it to them (``net.bridge.bridge-nf-call-iptables``), and then as few as can be.
"""

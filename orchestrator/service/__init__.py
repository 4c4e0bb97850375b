"""The host service: one process that owns every decision, and the client that talks to it.

Reading order: ``main`` (start and end of the process), ``daemon`` (projects and the commands upon them),
``api`` (HTTP and JSON on the Unix socket), ``sessions`` (exec and run, whose descriptors go to the client),
``describe`` (live objects as views), ``usage`` (stats and top), ``isolation`` (namespaces, and what holds containers),
``audit`` (what deviates from the default), ``events``, ``sweep`` (what a killed service left behind), ``watchdog``;
``client`` and ``http_client`` are the other end and import none of these.
"""

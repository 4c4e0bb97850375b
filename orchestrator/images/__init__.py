"""Images: what a container's files are made from.

An image reference is resolved to read-only lower folders (``resolve``); every container adds a writable layer
of its own above them, and nothing ever writes to a lower folder. ``host`` is built in ``host``; ``dir:PATH``
is used as it is.
"""

"""Logs: what containers write to stdout and stderr, from the pipe to the reader.

In reading order:

- ``format``: the line format on disk (the CRI's), pure: bytes to entries, entries to records.
- ``files``: one container's rotating files: ``container.log``, ``.1``, ``.2``, ...
- ``pump``: the one thread that moves all pipes into the files.
- ``read``: history: everything, the last N lines, or since a moment.
- ``follow``: several logs as one stream, history first and then what comes.

Rules: the pump waits for nobody: not for readers, not for the event loop, not for a full disk. Readers take
everything from the files; what they get from the pump is a hint that there is more. Lines are bytes
everywhere in here, because programs write what they like.
"""

"""Log lines of many containers, told apart by aligned, coloured prefixes."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.cli.terminal import SERVICE_STYLES, Terminal, harmless
from orchestrator.cli.times import timestamp
from orchestrator.views import LogLine


class LogPrinter:
    """Prints log lines as ``api-1  | text``.

    :param project: its name is left out of the prefixes.
    :param names: containers whose lines are expected, so that the prefixes are aligned from the start.
    """

    def __init__(
        self,
        terminal: Terminal,
        project: str,
        names: Iterable[str] = (),
        *,
        prefix: bool = True,
        timestamps: bool = False,
    ) -> None:
        self._terminal = terminal
        self._project = project
        self._prefix = prefix
        self._timestamps = timestamps
        self._styles: dict[str, str] = {}
        self._width = max((len(self._label(name)) for name in names), default=0)

    def expect(self, name: str) -> None:
        """Make room for a container's prefix."""
        self._width = max(self._width, len(self._label(name)))

    def print(self, line: LogLine) -> None:
        """Print one line; a terminal gets it without what could disturb it, a file gets it whole."""
        text = harmless(line.line) if self._terminal.is_terminal else line.line
        if self._timestamps:
            text = f"{self._terminal.style(timestamp(line.time), 'dim')} {text}"
        if self._prefix:
            label = self._label(line.name)
            self._width = max(self._width, len(label))
            style = self._styles.get(line.service)
            if style is None:
                style = SERVICE_STYLES[len(self._styles) % len(SERVICE_STYLES)]
                self._styles[line.service] = style
            text = f"{self._terminal.style(f'{label:<{self._width}}  |', style)} {text}"
        self._terminal.line(text)

    def _label(self, name: str) -> str:
        return name.removeprefix(f"{self._project}-")

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.logs.format import entry, format_time
from orchestrator.logs.pump import LogPump
from orchestrator.logs.read import read
from orchestrator.spec import Logging
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_holds_no_container_up_and_every_line_is_kept_or_counted(small_disk: Path) -> None:
    reports: list[str] = []
    pump = LogPump(reports.append)
    pump.start()
    filler = small_disk / "filler"
    filler.write_bytes(bytes(128 << 10))
    out, stdout = os.pipe()
    closed = threading.Event()
    pump.attach("web", out, -1, str(small_disk / "web"), Logging(), closed.set)
    count = 20_000
    handled: list[int | None] = []
    pump.subscribe("web", handled.append)
    written = [b"line %d" % number for number in range(count)]
    size = sum(len(entry(format_time(0), b"stdout", False, line)) for line in written)
    with os.fdopen(stdout, "wb") as file:
        file.write(b"\n".join(written) + b"\n")  # far more than the disk holds
        file.flush()
        wait_until(
            "every line was written or dropped", lambda: sum(amount or 0 for amount in handled) == size
        )
        filler.unlink()
        file.write(b"after\n")
    assert closed.wait(10)
    pump.stop()
    lines = [record.line for record in read(str(small_disk / "web"))]
    assert lines.pop() == b"after"
    expected = 0
    for line in lines:
        if line.startswith(b"[orch] "):
            expected += int(line.split()[1])
        else:
            assert line == written[expected]
            expected += 1
    assert expected == count
    assert len(lines) < count
    assert reports[0].endswith("lines are being lost: No space left on device")
    assert reports[-1].endswith("lines are written again")

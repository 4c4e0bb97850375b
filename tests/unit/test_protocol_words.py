"""Last words of a child, in memory that it shares with the spawner."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime.protocol import last_words, leave, share_words

FAILURE = {"operation": 3, "errno": 2, "text": "No such file or directory", "path": "/x", "status": 127}


def test_who_said_nothing_left_nothing() -> None:
    assert last_words(share_words()) == {}


def test_the_last_words_count() -> None:
    words = share_words()
    leave(words, {"stages": [["rootfs", 0.5]]})
    leave(words, {"error": FAILURE})
    assert last_words(words) == {"error": FAILURE}


def test_they_reach_another_process() -> None:
    words = share_words()
    if os.fork() == 0:
        leave(words, {"error": FAILURE})
        os._exit(0)
    os.wait()
    assert last_words(words) == {"error": FAILURE}


def test_who_died_in_the_middle_left_nothing() -> None:
    class Dying:
        """Memory whose writer dies at its n-th access."""

        def __init__(self, lives: int) -> None:
            self.words = share_words()
            self.lives = lives

        def __len__(self) -> int:
            return len(self.words)

        def __setitem__(self, where: slice, data: bytes) -> None:
            self.lives -= 1
            if self.lives < 0:
                raise SystemExit
            self.words[where] = data

    for lives in (1, 2):
        dying: Any = Dying(lives)
        leave(dying.words, {"stages": [["a", 0.1]]})
        with pytest.raises(SystemExit):
            leave(dying, {"error": FAILURE})
        assert last_words(dying.words) == {}


@given(st.text(), st.none() | st.text(), st.integers(0, 10**6))
def test_any_failure_fits_if_need_be_shortened(text: str, path: str | None, times: int) -> None:
    words = share_words()
    failure = {**FAILURE, "text": text * (1 + times % 5000), "path": path}
    leave(words, {"error": failure})
    found = last_words(words)["error"]
    assert found["operation"] == 3
    assert (text * (1 + times % 5000)).startswith(found["text"])
    assert found["path"] is None or str(path).startswith(found["path"])

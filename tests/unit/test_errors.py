"""Errors: what people read, and the way over the socket."""

from __future__ import annotations

import json

import pytest

from orchestrator import errors
from orchestrator.errors import KernelError, LaunchError, ManifestError, OrchError, from_wire

ALL = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, OrchError)]


def sample(cls: type[OrchError]) -> OrchError:
    if cls is ManifestError:
        return ManifestError(["a.toml:1: x: unknown key", "a.toml:2: y: unknown key"])
    if cls is LaunchError:
        return LaunchError('cannot start "web"', "no such program", "install it", status=127)
    if cls is KernelError:
        return KernelError("mkdir /a", "EEXIST: File exists", "remove it", errno=17)
    return cls('cannot do "web"', "because", "try again")


@pytest.mark.parametrize("cls", ALL)
def test_error_comes_out_of_the_socket_as_it_went_in(cls: type[OrchError]) -> None:
    error = sample(cls)
    back = from_wire(json.loads(json.dumps(error.to_wire())))
    assert type(back) is cls
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_every_class_has_its_own_code() -> None:
    assert len({cls.code for cls in ALL}) == len(ALL)


def test_error_of_a_newer_service_is_still_an_error() -> None:
    error = from_wire({"code": "brand-new", "what": "cannot dance", "cause": "no legs", "news": 1})
    assert type(error) is OrchError
    assert str(error) == "cannot dance: no legs"


def test_wire_that_says_nothing_is_still_an_error() -> None:
    assert str(from_wire({})) == ""


@pytest.mark.parametrize(("words", "text"), [
    (("cannot start",), "cannot start"),
    (("cannot start", "no memory"), "cannot start: no memory"),
    (("cannot start", "no memory", "buy some"), "cannot start: no memory (buy some)"),
    (("cannot start", "", "try again"), "cannot start (try again)"),
])  # fmt: skip
def test_text_is_what_cause_and_remedy(words: tuple[str, ...], text: str) -> None:
    assert str(OrchError(*words)) == text


def test_manifest_error_shows_every_problem_on_its_line() -> None:
    assert str(sample(ManifestError)).splitlines() == ["a.toml:1: x: unknown key", "a.toml:2: y: unknown key"]


@pytest.mark.parametrize(("cls", "exit_code"), [(OrchError, 1), (LaunchError, 1), (ManifestError, 2),
                                                (errors.UsageError, 2)])  # fmt: skip
def test_exit_codes(cls: type[OrchError], exit_code: int) -> None:
    assert cls.exit_code == exit_code

"""Variables in strings."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.manifest.interpolate import interpolate

_ENVIRONMENT = {"A": "1", "EMPTY": "", "B_2": "two"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$A-${B_2}", "1-two"),
        ("$$A $$$A", "$A $1"),
        ("${NO:-d}${EMPTY:-d}${A:-d}", "dd1"),
        ("${NO-d}${EMPTY-d}${A-d}", "d1"),
        ("${NO:+x}${EMPTY:+x}${A:+x}", "x"),
        ("${NO+x}${EMPTY+x}${A+x}", "xx"),
        ("${A?m}${EMPTY?m}${A:?m}", "11"),
        ("${NO:-${ALSO_NO:-$A}}", "1"),
        ("${NO:-a$$b}", "a$b"),
        ("${NO:-{x}}", "{x}"),
        ("${A:-${NO:?never looked at}}", "1"),
        ("${NO:-http://:80/a-b?c+d}", "http://:80/a-b?c+d"),
        ("é${A}é}", "é1é}"),
    ],
)
def test_variables_are_replaced(text: str, expected: str) -> None:
    assert interpolate(text, _ENVIRONMENT.get) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NO:?say it}", 'variable "NO" is required: say it'),
        ("${EMPTY:?}", 'variable "EMPTY" is required and not set'),
        ("${NO?$A needed}", "required: 1 needed"),
        ("cost: $5", r'"\$5" is not a variable \(write "\$\$"'),
        ("end$", r'write "\$\$"'),
        ("${A", "not closed"),
        ("${A!x}", "not well formed"),
        ("${A:-${B}", "not closed"),
        ("${}", "not a variable"),
        ("${NO:-" * 100 + "}" * 100, "nested more than"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate(text, _ENVIRONMENT.get)


def test_only_plain_unset_variables_are_reported() -> None:
    unset: list[str] = []
    assert interpolate("$X${Y}${Z:-d}${A:-$W}${EMPTY}", _ENVIRONMENT.get, unset.append) == "d1"
    assert unset == ["X", "Y"]


def test_lenient_leaves_other_dollar_signs() -> None:
    assert interpolate("pa$$ $5 $", _ENVIRONMENT.get, lenient=True) == "pa$ $5 $"


@given(st.text())
def test_doubled_dollars_give_the_text_back(text: str) -> None:
    assert interpolate(text.replace("$", "$$"), _ENVIRONMENT.get) == text


@given(st.text(alphabet="${}:-?+ANO_"))
def test_garbage_gives_text_or_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(interpolate(text, _ENVIRONMENT.get), str)

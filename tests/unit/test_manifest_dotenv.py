"""Files of NAME=value lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.manifest.dotenv import parse


def _unset(name: str) -> None:
    """An environment in which nothing is set."""


def _parse(text: str, **environment: str) -> dict[str, str]:
    variables, problems = parse(text, environment.get)
    assert problems == []
    return variables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1\nB = two words \n", {"A": "1", "B": "two words"}),
        ("# A=1\n\n  # B=2\nC=3", {"C": "3"}),
        ("export A=1", {"A": "1"}),
        ("A: yaml", {"A": "yaml"}),
        ("A=x # comment\nB=x#y\nC=# all", {"A": "x", "B": "x#y", "C": ""}),
        ("A='$B \\n # x' # c\n", {"A": "$B \\n # x"}),
        ('A="x\\n\\"y\\" \\$Z \\q # z"', {"A": 'x\n"y" $Z \\q # z'}),
        ("A='one\ntwo'\nB=3", {"A": "one\ntwo", "B": "3"}),
        ("A=1\nB=$A${A}\nC=${NO:-d}", {"A": "1", "B": "11", "C": "d"}),
        ("A=\nB=''\n", {"A": "", "B": ""}),
        ("\ufeffA=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=a=b&c", {"A": "a=b&c"}),
        ("A=pa$5word", {"A": "pa$5word"}),
    ],
)
def test_assignments(text: str, expected: dict[str, str]) -> None:
    assert _parse(text) == expected


def test_a_name_alone_takes_the_environments_value() -> None:
    assert _parse("A\nB\n  C # comment", A="1", C="3") == {"A": "1", "C": "3"}


def test_the_environment_wins_within_values() -> None:
    assert _parse("A=file\nB=$A", A="environment") == {"A": "file", "B": "environment"}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("A=1\nnot an assignment", 2, "not NAME=value"),
        ("=1", 1, "not NAME=value"),
        ("A='one\ntwo'\n\nB='x", 4, "quote is not closed"),
        ("A='x' y", 1, "follows the closing quote"),
        ("A=1\nB=${X:?please}", 2, "required: please"),
        ("A=${B", 1, "not closed"),
    ],
)
def test_problems_have_their_line(text: str, line: int, message: str) -> None:
    (problem,) = parse(text, _unset)[1]
    assert problem[0] == line
    assert message in problem[1]


def test_problems_do_not_hide_the_rest() -> None:
    variables, problems = parse("A=1\n!\nB='\nC=3", _unset)
    assert variables == {"A": "1", "C": "3"}
    assert [line for line, _ in problems] == [2, 3]


@given(st.text())
def test_garbage_never_raises(text: str) -> None:
    variables, problems = parse(text, _unset)
    assert all(isinstance(value, str) for value in variables.values())
    assert all(1 <= line <= text.count("\n") + 1 for line, _ in problems)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z_][A-Z0-9_]*", fullmatch=True),
        st.text(alphabet=st.characters(exclude_characters="'\r\0")),
    )
)
def test_single_quotes_keep_everything(variables: dict[str, str]) -> None:
    assert _parse("".join(f"{name}='{value}'\n" for name, value in variables.items())) == variables

"""The README tells the truth wherever the code can tell what that is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import capabilities
from orchestrator.cli import exit_codes, parser
from orchestrator.manifest.load import load
from orchestrator.manifest.schema import json_schema
from orchestrator.runtime import rootfs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
WORDS = " ".join(README.split())  # however its lines are broken

#: A heading such as "### `[services.NAME]`: a service" says which table the rows beneath it are about.
_TABLE = re.compile(r"^### `\[([\w.]*)\]`", re.MULTILINE)
_ROW = re.compile(r"^\| `([^`]+)`( \(\*\))? \|([^|]*)\|", re.MULTILINE)


def section(heading: str) -> str:
    """The text between a heading and the next one of its level or above."""
    level = heading.partition(" ")[0]
    _, found, rest = PROSE.partition(f"\n{heading}\n")
    assert found, f"the README has no heading {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def documented() -> Iterator[tuple[str, bool, str]]:
    """Path of each key in the reference, whether it is marked, and the default it names."""
    parts = _TABLE.split(section("## Manifest reference"))
    for table, text in zip(parts[1::2], parts[2::2], strict=True):
        for key, mark, default in _ROW.findall(text):
            yield f"{table}.{key}".lstrip("."), bool(mark), default.strip("` ")


def keys(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and default of each key that a schema allows; of several forms, that of the fullest one counts."""
    for name, value in schema.get("properties", {}).items():
        below = f"{path}.{name}".lstrip(".")
        yield below, value.get("default")
        yield from keys(value, below)
    for form in schema.get("anyOf", ()):
        yield from keys(form, path)
    if "items" in schema:
        yield from keys(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from keys(schema["additionalProperties"], f"{path}.NAME")


def schema_keys(below: str = "") -> dict[str, Any]:
    """The keys of the schema beneath a path. What may be one item or a list of them is named as the list."""
    found = {path: default for path, default in keys(json_schema()) if path.startswith(below)}
    single = {path.replace("[]", "") for path in found if "[]" in path}
    return {path.removeprefix(below): default for path, default in found.items() if path not in single}


def test_the_reference_has_every_key_of_a_manifest_and_no_other() -> None:
    wanted = {key for key in schema_keys() if not key.startswith("defaults.")}
    assert sorted(key for key, _, _ in documented()) == sorted(wanted)


def test_the_reference_names_the_defaults() -> None:
    named = {key: default for key, _, default in documented()}
    wanted = {
        key: str(default).lower() if isinstance(default, bool) else str(default)
        for key, default in schema_keys().items()
        if default is not None and not key.startswith("defaults.")
    }
    assert {key: named[key] for key in wanted} == wanted


def test_the_reference_marks_what_defaults_may_not_hold() -> None:
    allowed = set(schema_keys("defaults."))
    services = set(schema_keys("services.NAME."))
    marked = {key.removeprefix("services.NAME.") for key, mark, _ in documented() if mark}
    assert marked == {key for key in services - allowed if "." not in key and "[" not in key}


def test_every_command_is_in_the_table_and_no_other() -> None:
    named = re.findall(r"^\| `orch (\w+)` \|", section("## Commands"), re.MULTILINE)
    assert named == list(parser.COMMANDS)


def test_every_exit_code_is_in_the_table() -> None:
    named = set(re.findall(r"^\| (\d+)(?:\+N)? \|", section("### Exit codes"), re.MULTILINE))
    ours = {
        str(value) for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)
    }
    signals = {str(exit_codes.INTERRUPTED), str(exit_codes.BROKEN_PIPE)}  # 128+N
    assert ours - signals <= named
    assert {"125", "126", "127"} <= named


def test_the_capabilities_are_those_that_a_container_gets() -> None:
    named = re.search(r"a part of Docker's: ([A-Z_, ]+);", WORDS)
    assert named is not None
    assert tuple(named[1].split(", ")) == capabilities.DEFAULT


@pytest.mark.parametrize(
    ("word", "paths"),
    [("masked", (*rootfs.MASKED, rootfs.MASKED_OF_CPUS)), ("read-only", ("/sys", *rootfs.READ_ONLY))],
)
def test_the_paths_taken_away_are_those_of_the_code(word: str, paths: tuple[str, ...]) -> None:
    named = re.search(rf"\* {word}: ([^;]+);", WORDS)
    assert named is not None
    assert sorted(named[1].split(", ")) == sorted(paths)


def test_the_examples_are_manifests(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    found = []
    for number, example in enumerate(examples):
        path = tmp_path / f"manifest{number}.toml"
        path.write_text(example)
        loaded = load(str(path), environ={}, name="readme")
        assert loaded.warnings == ()
        found.append(list(loaded.project.services))
    assert found[0] == ["db", "web"]


def test_links_within_the_repository_lead_somewhere() -> None:
    for text, target in re.findall(r"\[([^\]]+)\]\((?!https?:)([^)]+)\)", README):
        if target.startswith("#"):
            headings = re.findall(r"^#+ (.*)", PROSE, re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
            assert target[1:] in anchors, text
        else:
            assert (ROOT / target).exists(), text

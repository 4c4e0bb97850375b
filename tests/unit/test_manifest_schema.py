"""The JSON Schema comes from the parser's own table, and says something about every key."""

import json
from typing import Any

import msgspec

from orchestrator.manifest.schema import RESOURCES, SERVICE, json_schema
from orchestrator.spec import Resources, ServiceSpec


def _tables(schema: Any) -> list[dict[str, Any]]:
    found = []
    if isinstance(schema, dict):
        if "properties" in schema:
            found.append(schema)
        for entry in schema.values():
            found += _tables(entry)
    elif isinstance(schema, list):
        for entry in schema:
            found += _tables(entry)
    return found


def test_it_is_json_and_names_its_dialect() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == {
        "name", "include", "defaults", "services", "networks", "volumes", "secrets", "configs",
    }  # fmt: skip


def test_every_key_is_described_and_no_table_takes_others() -> None:
    tables = _tables(json_schema())
    assert len(tables) > 10
    for table in tables:
        assert table["additionalProperties"] is False
        for name, entry in table["properties"].items():
            assert entry["description"].endswith("."), name


def test_every_field_of_the_specs_has_a_key() -> None:
    elsewhere = {"name": "profiles", "mounts": "volumes"}
    fields = {elsewhere.get(field.name, field.name) for field in msgspec.structs.fields(ServiceSpec)}
    assert set(SERVICE.keys) | {"time_offsets"} == fields | {"env_file", "tmpfs"}
    assert set(RESOURCES.keys) == {field.name for field in msgspec.structs.fields(Resources)}


def test_defaults_are_those_of_the_spec() -> None:
    for field in msgspec.structs.fields(ServiceSpec):
        key = SERVICE.keys.get(field.name)
        if (
            key is not None
            and isinstance(key.default, str | int | bool)
            and field.name not in ("restart", "seccomp", "stop_grace_period", "shm_size")
        ):
            assert key.default == field.default

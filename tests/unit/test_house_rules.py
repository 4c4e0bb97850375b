"""The rules of the house that neither ruff nor import-linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "orchestrator"
PACKAGES = sorted(path for path in ROOT.rglob("__init__.py") if path.parent != ROOT)

#: What the spawner's process may consist of besides the standard library.
SPAWNER_SIDE = (
    "orchestrator.kernel",
    "orchestrator.runtime.spawner",
    "orchestrator.runtime.accounts",
    "orchestrator.runtime.child",
    "orchestrator.runtime.child_files",
    "orchestrator.runtime.child_lsm",
    "orchestrator.runtime.child_operations",
    "orchestrator.runtime.child_paths",
    "orchestrator.runtime.child_program",
    "orchestrator.runtime.child_user",
    "orchestrator.runtime.idmap",
    "orchestrator.runtime.child_volume",
    "orchestrator.runtime.protocol",
)
#: Command modules that are not a client's: they run or examine the service's side in their own process.
SERVICE_COMMANDS = ("serve", "doctor")
#: Too slow for a command that must start in 150 ms.
SLOW_IMPORTS = ("aiohttp", "anyio", "asyncio", "hypothesis", "pyroute2", "pyseccomp", "structlog")


def _loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after ``statement``."""
    script = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_top_package_stays_empty() -> None:
    assert (ROOT / "__init__.py").read_text() == ""  # importing it costs every process start


def test_every_folder_of_sources_is_a_package() -> None:
    folders = {path.parent for path in ROOT.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.parent.name)
def test_a_room_explains_itself_and_imports_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_the_spawner_loads_its_own_side_only() -> None:
    loaded = _loaded_by("import orchestrator.runtime.spawner")
    ours = {name for name in loaded if name.startswith("orchestrator.")} - {"orchestrator.runtime"}
    assert [name for name in sorted(ours) if not name.startswith(SPAWNER_SIDE)] == []
    outside = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - {"orchestrator"}
    # site-packages may run hooks of its own (editable installs, coverage) in any interpreter.
    assert outside <= {name.partition(".")[0] for name in _loaded_by("pass")}


def test_no_client_command_loads_the_service_or_anything_slow() -> None:
    commands = [path.stem for path in (ROOT / "cli").glob("*.py") if path.stem not in SERVICE_COMMANDS]
    loaded = _loaded_by("import " + ", ".join(f"orchestrator.cli.{name}" for name in commands))
    loaded -= _loaded_by("pass")
    assert sorted(loaded & set(SLOW_IMPORTS)) == []
    service = {name for name in loaded if name.startswith("orchestrator.service.")}
    assert service <= {"orchestrator.service.client", "orchestrator.service.http_client"}
    assert not {name for name in loaded if name.startswith(("orchestrator.kernel", "orchestrator.launch"))}

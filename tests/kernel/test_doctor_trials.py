import socket
import subprocess
from pathlib import Path

import pytest

from orchestrator.checks.trial import attempt
from support.sandbox import mount, umount

pytestmark = pytest.mark.requires("root")


def test_namespaces_can_be_left() -> None:
    assert attempt("namespaces") == ""


def test_idmapped_layers_are_tried_without_a_trace(tmp_path: Path) -> None:
    before = list(tmp_path.iterdir())
    assert attempt("idmap", str(tmp_path)) == ""
    assert list(tmp_path.iterdir()) == before
    # An overlay cannot be mounted with other ids.
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    data = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    mount("none", str(tmp_path / "merged"), "overlay", 0, data)
    try:
        assert attempt("idmap", str(tmp_path / "merged")) == "Invalid argument"
        assert list((tmp_path / "merged").iterdir()) == []
    finally:
        umount(str(tmp_path / "merged"))


def test_an_overlay_is_tried_without_a_trace(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    assert attempt("overlay", str(tmp_path)) == ""
    assert list(tmp_path.iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_a_folder_that_cannot_hold_a_writable_layer_is_found_out(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], check=True)
    try:
        assert attempt("overlay", str(tmp_path)) == "Read-only file system"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("kind", ["bridge", "veth"])
def test_interfaces_are_tried_without_a_trace(kind: str) -> None:
    before = socket.if_nameindex()
    assert attempt("link", kind) == ""
    assert socket.if_nameindex() == before


def test_a_kind_of_interface_that_the_kernel_lacks_is_found_out() -> None:
    assert "not supported" in attempt("link", "no-such-kind")


@pytest.mark.requires("nft")
def test_rules_are_tried_without_a_trace() -> None:
    assert attempt("nft", text="table ip orch_trial {}") == ""
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert "orch_trial" not in tables


@pytest.mark.requires("nft")
def test_rules_that_the_kernel_refuses_are_found_out() -> None:
    assert "syntax error" in attempt("nft", text="table ip { nonsense")

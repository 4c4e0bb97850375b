"""Who may use an instance's folders: one process at a time, also when the lock's file is taken away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.ids import Instance
from orchestrator.service.sweep import main, remove_run_dir, take_lock


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    found = Instance(f"{tmp_path}/state", f"{tmp_path}/run")
    os.makedirs(f"{found.run_dir}/hosts")
    return found


def test_only_one_has_the_lock(instance: Instance) -> None:
    first = take_lock(instance)
    assert first is not None
    assert take_lock(instance) is None
    os.close(first)
    second = take_lock(instance)
    assert second is not None
    os.close(second)


def test_a_lock_whose_file_is_gone_locks_nobody_out_and_lets_nobody_in_twice(instance: Instance) -> None:
    leaving = take_lock(instance)
    assert leaving is not None
    os.unlink(f"{instance.run_dir}/lock")
    successor = take_lock(instance)
    assert successor is not None
    os.close(leaving)
    assert take_lock(instance) is None
    os.close(successor)


def test_leaving_removes_the_run_folder(instance: Instance) -> None:
    lock = take_lock(instance)
    assert lock is not None
    open(f"{instance.run_dir}/service.log", "w").close()
    remove_run_dir(instance, keep_log=False)
    assert not os.path.exists(instance.run_dir)
    os.close(lock)


def test_who_ended_badly_leaves_his_log(instance: Instance) -> None:
    lock = take_lock(instance)
    assert lock is not None
    open(f"{instance.run_dir}/service.log", "w").close()
    remove_run_dir(instance, keep_log=True)
    assert os.listdir(instance.run_dir) == ["service.log"]
    os.close(lock)


def test_a_sweeper_whose_instance_has_a_new_service_does_nothing(instance: Instance) -> None:
    lock = take_lock(instance)
    assert lock is not None
    for path in (instance.socket, instance.ledger):
        open(path, "w").close()
    main(instance.state_dir, instance.run_dir)
    assert sorted(os.listdir(instance.run_dir)) == ["hosts", "ledger.jsonl", "lock", "orch.sock"]
    os.close(lock)


def test_a_sweeper_with_nothing_to_sweep_leaves_no_folder(instance: Instance) -> None:
    open(instance.socket, "w").close()
    main(instance.state_dir, instance.run_dir)
    assert not os.path.exists(instance.run_dir)


def test_a_sweeper_of_an_instance_that_is_gone_makes_nothing(tmp_path: Path) -> None:
    main(f"{tmp_path}/state", f"{tmp_path}/run")
    assert os.listdir(tmp_path) == []

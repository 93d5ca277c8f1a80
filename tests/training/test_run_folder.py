import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from phasefield.errors import UserError
from phasefield.training.checkpoint import verify, write_json, write_tensors
from phasefield.training.run_folder import RunFolder


class Crash(BaseException):
    """Stands for a power cut: nothing after it runs, not even the handlers of real errors."""


def write(folder):
    write_json(folder / "config.json", {"model_type": "landauer"})
    write_tensors(folder / "model.safetensors", {"weight": torch.arange(50.0)})


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_only_the_latest_and_the_best_are_kept(tmp_path):
    folder = RunFolder(tmp_path)
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2)):
        folder.save(step, best, write)
    assert names(tmp_path) == ["best", "latest", "step-000002", "step-000004"]
    assert folder.latest().name == "step-000004"
    assert folder.best().name == "step-000002"


def test_a_crash_at_any_moment_leaves_a_good_checkpoint(tmp_path, monkeypatch):
    """Crash in turn before each call that changes the disk, in a save that does all a save can do."""
    calls_survived = 0
    while True:
        path = tmp_path / str(calls_survived)
        path.mkdir()
        folder = RunFolder(path)
        folder.save(1, 1, write)
        folder.save(2, 1, write)
        # Leftovers of an earlier kill: a whole folder without a pointer, and half a one.
        shutil.copytree(folder.latest(), path / "step-000003")
        (path / ".saving-1").mkdir()
        (path / ".saving-1" / "config.json").touch()

        remaining = calls_survived

        def counted(original):
            def call(*arguments, **options):
                nonlocal remaining
                if remaining == 0:
                    raise Crash
                remaining -= 1
                return original(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                folder.save(3, 3, write)
                crashed = False
            except Crash:
                crashed = True

        assert folder.latest().name in ("step-000002", "step-000003")
        verify(folder.latest())
        verify(folder.best())
        folder.save(4, 3 if folder.latest().name == "step-000003" else 1, write)
        verify(folder.latest())
        verify(folder.best())
        assert len(names(path)) == 4  # two pointers, two checkpoints, no leftovers
        if not crashed:
            break
        calls_survived += 1
    assert calls_survived > 15


def test_a_run_killed_before_its_first_pointer_still_has_its_checkpoint(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save(5, None, write)
    (tmp_path / "latest").unlink()
    assert folder.latest().name == "step-000005"
    with pytest.raises(UserError, match="already holds a run"):
        folder.check_fresh()


@pytest.mark.parametrize("content", [b"", b"step-9", b"step-000777", b"../elsewhere", b"\xff\xfe"])
def test_a_damaged_pointer_is_named_with_what_is_there(content, tmp_path):
    folder = RunFolder(tmp_path)
    folder.save(5, None, write)
    (tmp_path / "latest").write_bytes(content)
    with pytest.raises(UserError, match=r"the pointer .*latest is damaged.*present are: step-000005"):
        folder.latest()


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on file sizes stands for a full disk")
def test_a_full_disk_stops_the_run_and_leaves_the_last_good_checkpoint(tmp_path):
    import resource

    folder = RunFolder(tmp_path)
    folder.save(1, 1, write)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(UserError, match=r"step 2 could not be saved .* good checkpoint is .*step-000001"):
            folder.save(2, 2, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["best", "latest", "step-000001"]
    verify(folder.latest())


def test_too_little_space_is_said_at_the_start(tmp_path):
    with pytest.raises(UserError, match=r"has .* MB of free disk space; .* this run need 3,000,000,000"):
        RunFolder(tmp_path).check_writable(10**15)


def test_a_run_that_goes_on_needs_space_for_the_checkpoints_it_does_not_have(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save(1, 1, write)
    with pytest.raises(UserError, match="this run need 2,000,000,000"):
        folder.check_writable(10**15)
    folder.save(2, 1, write)
    with pytest.raises(UserError, match="this run need 1,000,000,000"):
        folder.check_writable(10**15)


def test_a_folder_that_cannot_be_made_is_said_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--save-dir .*file.run cannot be written: Not a directory"):
        RunFolder(tmp_path / "file" / "run").check_writable(1)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said_at_the_start(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        RunFolder(tmp_path).check_writable(1)


def test_tensors_that_are_views_are_saved_whole(tmp_path):
    write_tensors(tmp_path / "t.safetensors", {"transposed": torch.arange(6.0).reshape(2, 3).T})
    assert load_file(tmp_path / "t.safetensors")["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]

"""The stand-in for mamba_ssm: found where it is asked for, never in an installed one's place."""

import importlib
import importlib.util
import sys

import pytest

from phasefield_kernels.compat import mamba_ssm as ours
from phasefield_kernels.compat import stand_in_for_mamba_ssm


@pytest.fixture(autouse=True)
def without_mamba_ssm(monkeypatch):
    if importlib.util.find_spec("mamba_ssm") is not None:
        pytest.skip("mamba_ssm is installed")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_nothing_stands_in_unasked():
    assert importlib.util.find_spec("mamba_ssm") is None


def test_imports_written_for_mamba_ssm_find_our_functions():
    stand_in_for_mamba_ssm()
    stand_in_for_mamba_ssm()
    from mamba_ssm import selective_scan_fn
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as by_path
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    assert selective_scan_fn is by_path is ours.selective_scan_fn
    assert selective_state_update is ours.selective_state_update
    assert mamba_chunk_scan_combined is ours.ssd_scan
    with pytest.raises(ImportError):
        importlib.import_module("mamba_ssm.modules.mamba_simple")
    assert importlib.util.find_spec("mamba_ssm") is not None  # as those who look before they import see it


def test_an_installed_mamba_ssm_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "mamba_ssm.py").write_text("installed = True")
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):  # installed, then imported too
        with pytest.raises(ImportError, match="mamba_ssm is installed, and a stand-in would hide it"):
            stand_in_for_mamba_ssm()
        assert importlib.import_module("mamba_ssm").installed

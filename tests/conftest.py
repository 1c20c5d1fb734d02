"""What holds for every test: few threads, and GPU tests only where there is a GPU."""

import builtins
import contextlib
import os

# Tests run in parallel on few cores and their networks are small: threads that wait by spinning
# cost several times what they save. Both must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

# What passes once passes again, on a busy machine too. To look for new examples:
# pytest --hypothesis-profile explore
with contextlib.suppress(ImportError):  # the two files that use it then fail, and no others
    from hypothesis import settings

    settings.register_profile("same", derandomize=True, deadline=None)
    settings.register_profile("explore", deadline=None, max_examples=2_000)
    settings.load_profile("same")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def gpu_tests_need_a_gpu(request: pytest.FixtureRequest):
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def cache(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Where compact forms and look-alikes are kept: a folder of the test's own."""
    monkeypatch.setenv("GENESIS_RL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def without_mujoco(monkeypatch: pytest.MonkeyPatch):
    """A machine on which MuJoCo is not installed."""
    genuine = builtins.__import__

    def imported(name, *args, **kwargs):
        if name == "mujoco":
            raise ImportError(name)
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", imported)


# A program that a test starts, not a module of tests.
collect_ignore = ["encode_in_workers.py"]

"""What holds for every test: few threads, and GPU tests only where there is a GPU."""

import os

# Tests run in parallel on few cores and their networks are small: threads that wait by spinning
# cost several times what they save. Both must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def gpu_tests_need_a_gpu(request: pytest.FixtureRequest):
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


# A program that a test starts, not a module of tests.
collect_ignore = ["encode_in_workers.py"]

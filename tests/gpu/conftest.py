import os
import time

import pytest
import torch

# Without a CUDA device "cpu" rehearses what needs none, with interpreted kernels.
DEVICE = os.environ.get("PYG_ATOMENC_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items):
    here = os.path.dirname(__file__)
    for item in items:
        if item.path.is_relative_to(here) and "device" in item.fixturenames:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device():
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    torch.set_float32_matmul_precision("highest")
    yield torch.device(DEVICE)
    if DEVICE == "cuda":
        _stop_if_the_device_is_lost()


@pytest.fixture
def cuda(device):
    """For what no CPU can rehearse."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device


def _stop_if_the_device_is_lost():
    """After a kernel's fault a process gets no device; pytest-xdist starts another."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            raise
        # The reports so far have to leave first.
        time.sleep(1)
        os._exit(1)

"""Devices that cannot be used."""

from __future__ import annotations

import pytest
import torch

from sagefm.checkpoint._resolve import resolve_device
from sagefm.errors import ArgumentError


@pytest.mark.parametrize("device", ["hpu", "meta", "cuda:99", "nonsense", "", None, 3.5])
def test_a_device_that_cannot_be_used_is_an_error_of_our_own(device):
    """ "hpu" needs a package that torch imports by its name: that was a ModuleNotFoundError."""
    with pytest.raises(ArgumentError, match="cannot be used here; pass 'auto' or 'cpu'"):
        resolve_device(device)


def test_devices():
    assert resolve_device("auto").type in ("cpu", "cuda")
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")

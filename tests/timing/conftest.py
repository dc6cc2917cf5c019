"""Readable kernels: nothing here is about speed, and nothing needs to be compiled."""

import pytest


@pytest.fixture(autouse=True)
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")

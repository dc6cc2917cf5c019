"""Both tangent passes of every case against PyTorch's double backward, in float64 at 1e-10."""

import pytest

from cases import CASES, Case
from tangent_mutants import TERMS, Forgetful

torch = pytest.importorskip("torch", reason="PyTorch, an oracle of the layers, is not installed")
import torch_twins  # noqa: E402  it imports torch


# torch refuses a low-rank part without rank; formulas.py covers it
@pytest.mark.parametrize("case", [case for case in CASES.values() if case.rank], ids=lambda case: case.name)
def test_tangents(case: Case) -> None:
    torch_twins.check_tangents(case.layer, case)


@pytest.mark.parametrize("name", ["linear", "conv k3 s1 p1", "batchnorm1d train", "perturbed conv k3 s1 p1 r2"])
def test_the_oracle_bites(name: str) -> None:
    case = CASES[name]
    for result, sources in TERMS[name].items():
        for source in sources.split():
            with pytest.raises(AssertionError, match=f"differs from PyTorch in {result}: error"):
                torch_twins.check_tangents(Forgetful(case.layer, result, source), case)

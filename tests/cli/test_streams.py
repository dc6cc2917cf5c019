"""The flags that shape a stream: what is refused in one line that helps, leaving nothing behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]

REFUSED = {
    "--benchmark q": ("--benchmark", "ending in .toml", "halrp-np list benchmarks"),
    "--benchmark cifar-100-split": ("--benchmark", "Did you mean 'cifar100-split'?"),
    "--benchmark PMNIST": ("--benchmark", "Did you mean 'pmnist'?"),
    "--model resnet": ("--model", "resnet18, large-lenet", "Did you mean 'resnet18'?"),
    "--train-size 0": ("--train-size", "above 0", "at most 1", "'0'"),
    "--train-size 1.01": ("--train-size", "above 0", "at most 1", "'1.01'"),
    "--train-size half": ("--train-size", "a number", "'half'"),
    "--train-size 0.5": ("train_size", "pmnist has no other", "received 0.5", "Leave"),
    "--set augment=true": ("augment", "pmnist has no other", "received True", "Leave"),
    "--order 1,1": ("order", "the numbers 0 to 1, each once", "'1,1'", "random:3"),
    "--order 1,1,2": ("order", "the numbers 0 to 1, each once", "'1,1,2'"),
    "--order 0": ("order", "the numbers 0 to 1, each once", "'0'"),
    "--order Q": ("order", "A, B, C, D, E, random:SEED", "'Q'"),
    "--order a": ("order", "A, B, C, D, E, random:SEED", "'a'"),
    "--order random:x": ("order", "random:SEED with a seed", "'random:x'"),
    "--order ,": ("order", "random:SEED", "','"),
    "--set norm=none": ("norm", "running, batch", "'none'"),
    "--set split_seed=-1": ("split_seed", "at least 0", "'-1'"),
    "--benchmark missing.toml": ("missing.toml",),
    "--benchmark broken.toml": ("broken.toml", "line 1"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_stream_that_cannot_be_is_refused(words: str, invoke: Invoke, tiny: list[str]) -> None:
    Path("broken.toml").write_text("name ==\n")
    own = tiny if "toml" not in words else ["--model", "mlp"]
    result = invoke("run", *own, *words.split(), "--out", "out")
    assert result.exit_code in (1, 2), result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    where, _, rest = result.stderr.partition("expected ")
    assert where.count(":") >= 2
    assert ". " in rest.partition("received")[2]
    for part in REFUSED[words]:
        assert part in result.stderr
    assert [path.name for path in Path.cwd().iterdir()] == ["broken.toml"]


def test_every_order_learns_the_same_tasks(invoke: Invoke, tiny: list[str]) -> None:
    for order in ("E", "random:4", "1,0"):
        result = invoke("run", *tiny, "--epochs", "2", "--set", "stop_after=1", "--order", order, "--out", order[0])
        assert result.exit_code == 0, result.output
        assert f"order {order}: permutation " in result.stdout

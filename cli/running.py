"""`halrp-np run` and `halrp-np resume`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import halrp_np

from .errors import StoppedError, shortage
from .threads import threads_option

FLAGS = (
    *("benchmark", "order", "train_size", "method", "preset", "model", "device", "dtype", "fast_math", "seed"),
    *("epochs", "data", "data_dir"),
)
"""The settings that have a flag of their own; every other one is reached by --set."""

MODELS = "lenet, mlp, alexnet, resnet18 or large-lenet"

Layer = tuple[str, dict[str, object]]


@click.command("run")
@click.option(
    "--benchmark", metavar="NAME|FILE.toml", help="Stream of tasks; `halrp-np list benchmarks`.  [default: pmnist]"
)
@click.option("--order", metavar="A..E|random:SEED|1,0,2,...", help="Of the tasks, numbered from 0.  [default: A]")
@click.option("--train-size", metavar="SHARE", help="Of each task's training images, above 0 to 1.  [default: 1]")
@click.option("--method", metavar="NAME", help="Continual-learning algorithm.  [default: halrp]")
@click.option("--preset", metavar="NAME", help="Set of switches: paper, official or hessian.  [default: paper]")
@click.option("--model", metavar="NAME", help=f"Network: {MODELS}.  [default: the benchmark's]")
@click.option("--device", metavar="cpu|gpu|gpu:N|auto", help="Where it computes; only auto falls back.  [default: cpu]")
@click.option("--dtype", metavar="float32|float64", help="Precision of every array.  [default: float32]")
@click.option("--fast-math", is_flag=True, default=None, help="Winograd convolutions: faster, coarser rounding.")
@threads_option
@click.option("--seed", metavar="N", help="Of initial values, batch order and dropout.  [default: 0]")
@click.option("--epochs", metavar="N", help="Epochs of a task, warm-up included.  [default: the benchmark's]")
@click.option("--data", metavar="auto|full|sample", help="Official files, a small stand-in, or the best there is.")
@click.option("--data-dir", metavar="DIR", help="Folder with the data sets' own files.")
@click.option("--out", metavar="DIR", help="New folder.  [default: below runs, named after the settings]")
@click.option("--quick", is_flag=True, help="A small run of about a minute, for a look and not for a result.")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Any setting; `halrp-np list settings`.")
@click.option(
    "--verify-device", is_flag=True, help="First train 20 steps here and on the CPU (there: readable kernels)."
)
@click.option("--config", "config_file", metavar="FILE", help="TOML file of settings; flags and --set win over it.")
def run_command(
    out: str | None,
    quick: bool,
    assignments: tuple[str, ...],
    verify_device: bool,
    config_file: str | None,
    **flags: Any,
) -> None:
    """Run a benchmark, from its configuration to results on disk.

    --verify-device prints how far the device is from the CPU, or on the CPU from the readable kernels, after the same
    20 steps, and refuses to run if it is too far for rounding.

    Settings come from the benchmark, the preset, --quick, --config, the flags and --set; a later one wins.
    """
    config = halrp_np.resolve_config(*layers(config_file, flags, assignments), quick=quick)
    folder = Path(out) if out else Path("runs") / halrp_np.benchmarks.run_name(config, quick=quick)
    watched(folder, config, lambda reporter: halrp_np.run(config, folder, reporter, verify_device=verify_device))


@click.command("resume")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@threads_option
def resume_command(folder: Path) -> None:
    """Go on with the run in DIR where it stopped; it ends as if it never had."""
    recorded = halrp_np.runs.RunFolder.open(folder).config().get("config")
    known = {str(folder / "config.json"): recorded} if isinstance(recorded, dict) else {}  # else the resume refuses it
    config = halrp_np.resolve_config(*known.items())
    watched(folder, config, lambda reporter: halrp_np.resume(folder, reporter))


def layers(config_file: str | None, flags: dict[str, Any], assignments: tuple[str, ...]) -> list[Layer]:
    """The user's settings with their sources, the weakest first."""
    found: list[Layer] = []
    if config_file is not None:
        found.append((config_file, halrp_np.runs.load_toml(Path(config_file))))
    for key in FLAGS:
        if flags[key] is not None:
            found.append((f"--{key.replace('_', '-')}", {key: flags[key]}))
    for assignment in assignments:
        key, value = halrp_np.runs.parse_assignment(assignment)
        found.append(("--set", {key: value}))
    return found


def watched(folder: Path, config: Any, call: Callable[[Any], Path]) -> None:
    """Run `call` under a progress display, then show the result."""
    from .progress import open_progress
    from .screen import open_console
    from .show import show_result

    console = open_console()
    begun = (folder / "config.json").exists  # from here on the folder can be resumed
    try:
        with open_progress(console, config, folder) as reporter:
            path = call(reporter)
    except halrp_np.benchmarks.RunInterruptedError:
        raise StoppedError(folder, saved=True) from None
    except KeyboardInterrupt:
        raise StoppedError(folder if begun() else None) from None
    except Exception as error:
        lack = shortage(error, folder) if begun() else None
        if lack is None:
            raise
        raise lack from error
    show_result(console, path)

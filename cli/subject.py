"""What `check` and `spectrum` share: on what they look, which layers of it, a bar while they work, and their JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import click

import halrp_np

from .errors import RefusedError, refusal

Command = TypeVar("Command", bound=Callable[..., Any])
Told = Callable[[int, int], None]
Check = Callable[[click.Context, click.Parameter, Any], Any]

DEFAULT_MODEL = "lenet"
NONE: Mapping[str, int] = MappingProxyType({})
MODES = {"eval": False, "train": True}
MODE = "Normalisation by running statistics, or the batch's.  [default: eval]"


def whole(least: int) -> Check:
    """A check of an option's value: a whole number that is not too small."""

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if number < least:
            raise wrong(ctx, param, f"a whole number at least {least}", value, ())
        return number

    return check


def one_of(*words: str) -> Check:
    """A check of an option's value: one of a few words."""

    def check(ctx: click.Context, param: click.Parameter, value: str) -> str:
        if value not in words:
            raise wrong(ctx, param, " or ".join(words), value, words)
        return value

    return check


def wrong(ctx: click.Context, param: click.Parameter, expected: str, value: str, known: Sequence[str]) -> RefusedError:
    """The refusal of an option's value."""
    where = ctx.command_path
    return RefusedError(refusal(f"{where}: {param.opts[0]}", expected, value, known, f"See `{where} --help`."))


def subject_options(batch: int, fewer: Mapping[str, int] = NONE) -> Callable[[Command], Command]:
    """The options that say what is looked at and where; `batch` images by default, for some networks `fewer`."""
    usual = "; ".join([str(batch), *(f"{model}: {count}" for model, count in fewer.items())])

    def images(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
        return whole(1)(ctx, param, value) or fewer.get(ctx.params.get("model") or DEFAULT_MODEL, batch)

    options = [
        click.option(
            "--model", metavar="NAME", is_eager=True, help="A fresh network; `halrp-np list models`.  [default: lenet]"
        ),
        click.option("--run", "folder", metavar="DIR", help="A network that a run has learned, on its own images."),
        click.option("--task", metavar="T", callback=whole(0), help="Which task's network of --run; 0 is the first."),
        click.option("--layer", "layers", metavar="NAME", multiple=True, help="Only this layer; may be repeated."),
        click.option("--device", metavar="cpu|gpu|gpu:N|auto", default="cpu", help="Where.  [default: cpu]"),
        click.option("--batch", metavar="N", callback=images, help=f"Images.  [default: {usual}]"),
        click.option("--seed", metavar="N", default="0", callback=whole(0), help="Of everything random.  [default: 0]"),
        click.option("--mode", metavar="eval|train", default="eval", callback=one_of(*MODES), help=MODE),
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def open_subject(where: str, flags: dict[str, Any], dtype: str = "float64") -> tuple[Any, str]:
    """The subject that the flags name, and a line about its device if there is something to say of it."""
    model, folder, task = flags["model"], flags["folder"], flags["task"]
    look = f"See `{where} --help`."
    if folder is not None and model is not None:
        raise RefusedError(f"{where}: expected --model or --run, received both. Leave one of them out.")
    if folder is None and task is not None:
        raise RefusedError(f"{where}: expected --run DIR with --task, received none. {look}")
    if folder is not None and task is None:
        raise RefusedError(f"{where}: expected --task T with --run, received none. The first task is --task 0.")
    place = halrp_np.Device(flags["device"])
    common = {"device": place.name, "batch": flags["batch"], "dtype": dtype}
    if folder is not None:
        return halrp_np.run_subject(folder, task, **common), place.note
    name, known = model or DEFAULT_MODEL, halrp_np.models.MODELS
    if name not in known:
        raise RefusedError(refusal(f"{where}: --model", f"one of {', '.join(known)}", name, known, look))
    return halrp_np.fresh_subject(name, seed=flags["seed"], **common), place.note


def open_mode(flags: dict[str, Any]) -> Any:
    """How the network runs; in train mode dropout, where there is any, draws one mask from the seed."""
    train = MODES[flags["mode"]]
    dropout = halrp_np.Streams(flags["seed"]).generator("dropout") if train else None
    return halrp_np.layers.Mode(train=train, dropout=dropout)


def chosen(where: str, model: Any, layers: Sequence[str], kinds: Sequence[str] = ()) -> list[str]:
    """The trainable parameters of the layers named (all of them without a name), in network order.

    A layer, a container of layers, or one parameter may be named; `kinds` leaves only parameters of these names.
    """
    known = [name for name in model.trainable if not kinds or name.rpartition(".")[2] in kinds]
    paths = {name: name.split(".") for name in known}
    places = {".".join(path[:end]) for path in paths.values() for end in range(1, len(path) + 1)}
    for layer in layers:
        if layer not in places:
            expected = f"a layer with a {' or '.join(kinds)}" if kinds else "a layer with parameters"
            near = [place for place in sorted(places) if place not in known] or known
            advice = f"The layers are: {', '.join(dict.fromkeys(name.rpartition('.')[0] for name in known))}."
            raise RefusedError(refusal(f"{where}: --layer", expected, layer, [*near, *known], advice))
    return [name for name in known if not layers or any(f"{name}.".startswith(f"{layer}.") for layer in layers)]


@contextlib.contextmanager
def waiting(text: str) -> Iterator[Told | None]:
    """A bar that `progress` moves, gone when the work is done; none where it could not move."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)  # standard output is for the answer
    if not console.is_terminal or console.is_dumb_terminal:
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn(), TextColumn("left")
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(text, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def described(subject: Any, flags: dict[str, Any]) -> dict[str, Any]:
    """What was looked at, for the JSON document."""
    names = ("model", "task", "device", "batch", "seed", "mode")
    fresh = flags["folder"] is None
    found = {name: flags[name] for name in names} | {"run": flags["folder"], "subject": subject.title}
    return found | {"model": flags["model"] or DEFAULT_MODEL} if fresh else found


def say_json(kind: str, content: dict[str, Any]) -> None:
    """One JSON document on standard output."""
    click.echo(halrp_np.reports.document(kind, content), nl=False)

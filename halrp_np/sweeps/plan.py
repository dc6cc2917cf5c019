"""A sweep as its user writes it, and the runs that it means: every combination of its lists and of its grid."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from ..benchmarks import RunConfig, resolve_config, run_name
from ..benchmarks.catalog import STREAM_SETTINGS, find_benchmark
from ..benchmarks.checks import check_config
from ..benchmarks.config import Layer
from ..data.orders import LETTERS
from ..errors import ConfigError, nearest
from ..methods import METHOD_SETTINGS, PRESETS, preset_of, settings_used
from ..methods.registry import known

LISTS = {"benchmarks": "benchmark", "methods": "method", "presets": "preset", "models": "model"}
"""The lists of a sweep and the setting that each is of; orders and seeds have words of their own."""

KEYS = ("title", "figure", *LISTS, "orders", "seeds", "settings", "grid", "quick")

SHIPPED = resources.files(__package__) / "figures"
"""The folder of the sweeps that come with the package."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep, and the name of its folder."""

    name: str
    config: RunConfig


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep in order, and the figure that is drawn of them, if any."""

    name: str
    title: str
    jobs: tuple[Job, ...]
    figure: str | None


def shipped() -> dict[str, str]:
    """The sweeps that come with the package: name and title."""
    found = {}
    for file in sorted(SHIPPED.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            found[file.name.removesuffix(".toml")] = str(content["title"])
    return found


def load(source: str, *, quick: bool = False, overrides: Sequence[Layer] = ()) -> Sweep:
    """The sweep of that name, or in that TOML file; `overrides` are settings for every run, with where they come from.

    Raises: ConfigError naming file and key for whatever means nothing.
    """
    names = shipped()
    if source in names:
        text, where = (SHIPPED / f"{source}.toml").read_text(encoding="utf-8"), f"the sweep {source}"
    elif source.endswith(".toml"):
        text, where = _text(Path(source)), source
    else:
        near = nearest(source, names)
        raise ConfigError(
            "sweep",
            expected=f"a TOML file, or one of {', '.join(names)}",
            received=repr(source),
            next_step=f"Did you mean '{near}'?" if near else "See `halrp-np sweep`.",
        )
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise _wrong(where, 'TOML, like `methods = ["halrp"]` on a line', str(error), "Correct that line.") from error
    return expand(content, where, name=Path(source).stem, quick=quick, overrides=overrides)


def expand(
    content: Mapping[str, Any], where: str, *, name: str, quick: bool = False, overrides: Sequence[Layer] = ()
) -> Sweep:
    """The runs that the content of a TOML file means, each once, in the order of its lists.

    What a method or a benchmark does not read is left out for it, as long as another one of the sweep reads it; a
    method runs under `paper` in place of a preset that has nothing to set for it. Under `quick` the table [quick]
    replaces what it names.

    Raises: ConfigError naming `where` and the key.
    """
    chosen = _checked(content, where)
    if quick:
        chosen = {**chosen, **_checked(chosen.get("quick", {}), f"{where}: [quick]")}
    lists = {key: _words(chosen, key, where) for key in LISTS}
    lists["benchmarks"] = lists["benchmarks"] or ["pmnist"]
    for benchmark in lists["benchmarks"]:
        find_benchmark(benchmark, f"{where}: benchmarks")
    with _named(f"{where}: methods"):
        lists["methods"] = [known(method) for method in lists["methods"] or ["halrp"]]
    lists["presets"] = _presets(lists["presets"] or ["paper"], where)
    orders = named_orders(_words(chosen, "orders", where) or ["A"], f"{where}: orders")
    seeds = named_seeds(chosen.get("seeds", 1), f"{where}: seeds")
    settings, grid = chosen.get("settings", {}), _grid(chosen.get("grid", {}), where)
    given: list[Layer] = [(f"{where}: [settings]", settings), *overrides]
    for source, layer in (*given, (f"{where}: [grid]", grid)):
        _used_by_some(layer, lists, source)
    for source, layer in given:
        _not_in_vain(layer, source, lists, grid)
    jobs: dict[str, Job] = {}
    networks: list[str | None] = [*lists["models"]] or [None]  # None: each benchmark's own
    named = product(lists["benchmarks"], lists["methods"], lists["presets"], networks, orders, seeds)
    for benchmark, method, preset, model, order, seed in named:
        for point in _points(grid, benchmark, method):
            own: dict[str, object] = {"benchmark": benchmark, "method": method, "preset": _preset(method, preset)}
            own |= {"order": order, "seed": seed, **({} if model is None else {"model": model})}
            layers: list[Layer] = [
                *((source, _read_by(layer, benchmark, method)) for source, layer in given),
                (f"{where}: [grid]", point),
                (where, own),
            ]
            config = resolve_config(*layers, quick=quick)
            job = Job(run_name(config, quick=quick), config)
            with _named(f"{where}: {job.name}"):
                check_config(config)
            jobs.setdefault(job.name, job)
    return Sweep(name, str(chosen.get("title", name)), tuple(jobs.values()), chosen.get("figure"))


def named_orders(words: Sequence[str], where: str = "orders") -> list[str]:
    """`A-C` as A, B, C; `random:2` as random:0, random:1; a letter as it is; each order once.

    Raises: ConfigError for anything else.
    """
    found: list[str] = []
    for word in words:
        if match := re.fullmatch("([A-E])(?:-([A-E]))?", word):
            first, last = LETTERS.index(match[1]), LETTERS.index(match[2] or match[1])
            some = list(LETTERS[first : last + 1])
        else:
            drawn = re.fullmatch("random:([0-9]{1,4})", word)
            some = [f"random:{seed}" for seed in range(int(drawn[1]))] if drawn else []
        if not some:
            raise _wrong(
                where,
                "letters A to E, ranges like A-E, and random:N for N drawn orders",
                repr(word),
                "Write, for example, A-E or random:10.",
            )
        found += some
    return list(dict.fromkeys(found))


def named_seeds(seeds: object, where: str = "seeds") -> list[int]:
    """A number of seeds as 0, 1, 2, ...; a list of seeds as it is, each once.

    Raises: ConfigError for anything else.
    """
    if type(seeds) is int and 0 < seeds <= 10_000:
        return list(range(seeds))
    if isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds):
        return list(dict.fromkeys(seeds))
    raise _wrong(where, "a number of seeds, or a list of seeds", repr(seeds), "Write, for example, 3 or [0, 1, 5].")


def _text(path: Path) -> str:
    """The text of a user's file."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _wrong(str(path), "a readable TOML file", f"'{reason}'", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise _wrong(str(path), "UTF-8 text", str(error), "Save the file as UTF-8.") from error


def _checked(content: object, where: str) -> dict[str, Any]:
    """The content, once its keys are known and its tables are tables."""
    if not isinstance(content, dict):
        raise _wrong(where, "a table", repr(content), "Write [quick] on a line of its own.")
    for key, value in content.items():
        if key not in KEYS:
            near = f"{key}s" if f"{key}s" in KEYS else nearest(key, KEYS)
            advice = f"Did you mean '{near}'?" if near else f"There are {', '.join(KEYS)}."
            if f"{key}s" not in KEYS and key in {field.name for field in fields(RunConfig)}:
                advice = "It is a setting: put it under [settings], or its values under [grid]."
            raise _wrong(f"{where}: key '{key}'", "a key of a sweep", repr(key), advice)
        if key in ("title", "figure") and not isinstance(value, str):
            raise _wrong(f"{where}: {key}", "text", repr(value), f'Write {key} = "...".')
        if key in ("settings", "grid", "quick") and not isinstance(value, dict):
            raise _wrong(f"{where}: {key}", "a table", repr(value), f"Write [{key}] on a line of its own.")
    return dict(content)


def _words(content: Mapping[str, Any], key: str, where: str) -> list[str]:
    """A list of words, empty when it is not there."""
    if key not in content:
        return []
    words = content[key]
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise _wrong(f"{where}: {key}", "a list of names", repr(words), f'Write, for example, {key} = ["..."].')
    return list(dict.fromkeys(words))


def _presets(names: list[str], where: str) -> list[str]:
    """The names, if all are presets."""
    for name in names:
        if name not in PRESETS:
            near = nearest(name, PRESETS)
            advice = f"Did you mean '{near}'?" if near else "Choose one of these."
            raise _wrong(f"{where}: presets", f"one of {', '.join(PRESETS)}", repr(name), advice)
    return names


def _preset(method: str, preset: str) -> str:
    """The preset, or `paper` where it has nothing to set for the method."""
    try:
        preset_of(method, preset)
    except ConfigError:
        return "paper"
    return preset


def _grid(grid: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    """The values of each setting of the grid."""
    named = {*LISTS.values(), "order", "seed"}
    for key, values in grid.items():
        if key in named:
            raise _wrong(
                f"{where}: [grid] {key}", f"the list {key}s", f"[grid] {key}", f"Write {key}s = [...] at the top."
            )
        if not isinstance(values, list) or not values:
            raise _wrong(f"{where}: [grid] {key}", "a list of values", repr(values), f"Write {key} = [first, second].")
    return dict(grid)


def _read_by(settings: Mapping[str, Any], benchmark: str, method: str) -> dict[str, Any]:
    """Those of some settings that this method and this benchmark's stream read."""
    foreign = METHOD_SETTINGS - settings_used(method)
    absent = STREAM_SETTINGS.keys() - set(find_benchmark(benchmark).uses)
    return {key: value for key, value in settings.items() if key not in foreign and key not in absent}


def _used_by_some(keys: Iterable[str], lists: Mapping[str, list[str]], where: str) -> None:
    """Refuse a setting that no method and benchmark of the sweep reads; resolve_config refuses unknown ones."""
    for key in keys:
        pairs = product(lists["benchmarks"], lists["methods"])
        if not any(_read_by({key: None}, benchmark, method) for benchmark, method in pairs):
            raise _wrong(
                f"{where}: {key}",
                f"a setting that a method of the sweep reads, on a benchmark of it ({', '.join(lists['methods'])})",
                repr(key),
                "Leave it out, or see `halrp-np list settings`.",
            )


def _not_in_vain(keys: Iterable[str], where: str, lists: Mapping[str, list[str]], grid: Mapping[str, Any]) -> None:
    """Refuse a setting that a list of the sweep or its grid decides."""
    decided = {key: f"the list {name}" for name, key in LISTS.items() if key != "model" or lists[name]}
    decided |= {"order": "the list orders", "seed": "the list seeds"} | dict.fromkeys(grid, "[grid]")
    for key in keys:
        if key in decided:
            raise _wrong(
                f"{where}: {key}", f"no value: {decided[key]} decides it", repr(key), f"Change {decided[key]} instead."
            )


def _points(grid: Mapping[str, list[Any]], benchmark: str, method: str) -> Iterator[dict[str, Any]]:
    """Every combination of those settings of the grid that this method and benchmark read."""
    own = _read_by(grid, benchmark, method)
    for values in product(*own.values()):
        yield dict(zip(own, values, strict=True))


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Put the place into a ConfigError that does not know it."""
    try:
        yield
    except ConfigError as error:
        raise _wrong(f"{where}: {error.where}", error.expected, error.received, error.next_step) from error


def _wrong(where: str, expected: str, received: str, next_step: str) -> ConfigError:
    return ConfigError(where, expected=expected, received=received, next_step=next_step)

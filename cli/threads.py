"""The option of every command that computes on the CPU: on how many threads."""

from __future__ import annotations

from typing import Any

import click

import halrp_np

from .subject import whole


def _settle(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Check the number and have the kernels use it."""
    count = whole(1)(ctx, param, value)
    if count is not None:
        halrp_np.use_threads(count)


def threads_option(command: Any) -> Any:
    """Add `--threads` to a command."""
    option = click.option(
        "--threads",
        metavar="N",
        expose_value=False,
        callback=_settle,
        help="Of the CPU kernels; no result depends on it.  [default: all usable processors]",
    )
    return option(command)

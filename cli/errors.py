"""Every way a command can fail, as one message on stderr and an exit code."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import click

import halrp_np

STOPPED, UNEXPECTED = 130, 70  # 128 + SIGINT; EX_SOFTWARE
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoppedError(click.ClickException):
    """Ctrl-C; `folder` is where the run can be continued, if there is one, and `saved` whether up to the last step."""

    exit_code = STOPPED

    def __init__(self, folder: Path | None = None, *, saved: bool = False) -> None:
        self.folder = folder
        kept = "everything is saved" if saved else "everything up to the last checkpoint is saved"
        super().__init__(
            "stopped; nothing was begun" if folder is None else f"stopped; {kept}. Continue with: {resume_line(folder)}"
        )

    def show(self, file: IO[Any] | None = None) -> None:
        """One line, without the word error: the user asked for it."""
        click.echo(self.format_message(), file=file, err=file is None)


class RefusedError(click.ClickException):
    """A word on the command line that means nothing, told in full."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """The message in the form of every other error."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


def resume_line(folder: str | os.PathLike[str]) -> str:
    """The command that continues a run."""
    return f"halrp-np resume {shlex.quote(os.fspath(folder))}"


def guarded(call: Callable[[], Any]) -> int:
    """Run a command line and return its exit code, whatever happens."""
    sys.stdout = sys.stdout or io.StringIO()  # the caller has closed it: nobody listens
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a letter that the terminal's encoding lacks is no reason to fail
            stream.reconfigure(errors="replace")
    try:
        result = call()
    except click.UsageError as error:
        click.echo(f"error: {usage_message(error)}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return STOPPED
    except BrokenPipeError:  # the reader, `head` or a pager, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that Python's last flush has somewhere to go
        return 1
    except Exception as error:
        return report(error)
    return result if isinstance(result, int) else 0


def report(error: Exception) -> int:
    """Tell an error of the program and return its exit code."""
    if isinstance(error, halrp_np.HalrpError):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    lack = shortage(error)
    if lack is None:
        return _unexpected(error)
    click.echo(f"error: {lack}", err=True)
    return lack.exit_code


def shortage(error: BaseException, folder: Path | None = None) -> halrp_np.HalrpError | None:
    """A full disk or memory in the form of every other error, None for any other failure.

    With the `folder` of a run that has begun, the next step is the line that continues it.
    """
    goes_on = folder and f"then continue with: {resume_line(folder)}"
    if isinstance(error, MemoryError):
        where, expected = "memory", "enough of it"
        received = "a refusal from the system" + (f" ({error})" if str(error) else "")
        advice = "Close other programs, or use fewer images, a smaller batch or float32."
        advice = f"Free memory, {goes_on}" if goes_on else advice
    elif _disk_is_full(error):
        where, expected, received = "disk", "free space", "none"
        if isinstance(error, halrp_np.HalrpError):
            where, expected, received = error.where, error.expected, error.received
        elif isinstance(error, OSError):
            where, received = str(error.filename or where), f"'{error.strerror}'"
        advice = "Free some; a run that had begun goes on with `halrp-np resume DIR`."
        advice = f"Free space, {goes_on}" if goes_on else advice
    else:
        return None
    return halrp_np.HalrpError(where, expected=expected, received=received, next_step=advice)


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says so."""
    while error is not None and not (isinstance(error, OSError) and error.errno in _FULL):
        error = error.__cause__
    return error is not None


def _unexpected(error: Exception) -> int:
    """An error that nobody foresaw is ours: say so, and keep the traceback for those who ask."""
    debug = os.environ.get("HALRP_NP_DEBUG") == "1"
    if debug:
        click.echo("".join(traceback.format_exception(error)), err=True)
    received = " ".join(f"{type(error).__name__}: {error}".split())
    advice = "this message with the traceback above" if debug else "it with the output under HALRP_NP_DEBUG=1"
    click.echo(
        f"error: halrp-np {halrp_np.__version__}: expected no such failure, received {received}. "
        f"This is a mistake in the program: please report {advice}.",
        err=True,
    )
    return UNEXPECTED


def usage_message(error: click.UsageError) -> str:
    """A wrong command line in the form of every other error."""
    where = error.ctx.command_path if error.ctx else "halrp-np"
    command = error.ctx.command if error.ctx else None
    look = f"See `{where} --help`."
    if isinstance(error, click.NoSuchOption):
        known = [name for param in command.params for name in param.opts] if command else []
        return refusal(where, "one of its options", error.option_name, [*known, "--help"], look)
    if isinstance(error, click.MissingParameter):
        name = error.param.human_readable_name if error.param else "an argument"
        return f"{where}: expected {name}, received nothing. {look}"
    if isinstance(error, click.BadOptionUsage):
        return f"{where}: expected a value after {error.option_name}, received none. {look}"
    if isinstance(command, click.Group) and error.ctx:
        names = command.list_commands(error.ctx)
        quoted = re.search("'(.*)'", error.message)
        if quoted is None:
            return f"{where}: expected a command ({', '.join(names)}), received none. {look}"
        return refusal(where, f"a command ({', '.join(names)})", quoted[1], names, look)
    return f"{where}: expected other arguments, received: {error.format_message().rstrip('.')}. {look}"


def refusal(where: str, expected: str, received: str, known: Iterable[str], look: str) -> str:
    """The message for a word that is none of the known ones, with the nearest if one is near."""
    near = halrp_np.runs.nearest(received, known)
    advice = f"Did you mean {near}? {look}" if near else look
    return f"{where}: expected {expected}, received {received!r}. {advice}"

"""Run folders: configuration, tables, metrics and checkpoints; formats only, and no pickle anywhere."""

from ..errors import nearest
from .config import as_text, describe, load_toml, parse_assignment, resolve
from .record import RunFolder

__all__ = ["RunFolder", "as_text", "describe", "load_toml", "nearest", "parse_assignment", "resolve"]

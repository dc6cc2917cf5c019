"""Numbers and names as people read them: the same words on the terminal and on a page."""

from __future__ import annotations

from ..benchmarks import BENCHMARKS

OFFICIAL = "the official files"

MEASURE_WORDS = {
    "acc": "ACC: accuracy on all tasks at the end, mean (%)",
    "aia": "mean of the accuracies after each task (%)",
    "bwt": "BWT: change on earlier tasks since each was learned, mean",
    "forgetting_all_tasks": "forgetting since each was learned, mean of all tasks",
    "forgetting_avalanche": "forgetting since each was learned, mean of earlier tasks (Avalanche)",
    "forgetting_released_summary": "forgetting as the released summary prints it",
    "forgetting_chaudhry": "forgetting from the best before the end (Chaudhry)",
    "forgetting_mammoth": "forgetting from the best, never negative (Mammoth)",
}
"""What each measure of summary.json is."""

GROWTH_WORDS = {
    "released": "growth over task 0, counted as the released code does",
    "honest": "growth over task 0, biases and running statistics counted too",
    "bytes": "growth over task 0, bytes on disk",
}
"""What each convention of growth is."""


def data_words(provenance: str) -> str:
    """What the provenance of one data set means."""
    name, _, kind = provenance.rpartition("-")
    if provenance == "mnist-5k":
        return "a SMALL SAMPLE of MNIST, 5,000 images: these results do not compare with published ones"
    if kind == "synthetic":
        return f"SYNTHETIC images made by this package, not {name}: these results mean nothing"
    if kind == "other":
        return f"a user's files of {name}'s format with OTHER content: results do not compare with published ones"
    if kind == "custom":
        return "the user's own images: results compare with no published ones"
    sets = {known for row in BENCHMARKS.values() for known in row.data}
    return OFFICIAL if provenance == "mnist-60k" or provenance in sets else "of unknown origin"


def kinds_of_data(provenance: str) -> dict[str, list[str]]:
    """The data sets of a provenance by what they are."""
    kinds: dict[str, list[str]] = {}
    for name in provenance.split(", "):
        kinds.setdefault(data_words(name), []).append(name)
    return kinds


def memory(size: float) -> str:
    """A number of bytes as people say it."""
    return f"{size / 1e9:.1f} GB" if size >= 0.95e9 else f"{size / 1e6:,.0f} MB"


def duration(seconds: float) -> str:
    """A time as people say it."""
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def fixed(value: float, decimals: int = 2) -> str:
    """A number with so many decimals, never -0.00."""
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{fixed(100 * share)} %"


def size_of(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} bytes" if count != 1 else "1 byte"


def counted(number: int, word: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"

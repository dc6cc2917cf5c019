"""A LeNet small enough for the reference kernels, and its problem."""

from halrp_np.timing import TimeSettings
from halrp_np.timing.workloads import Problem, make_problem

SMALL = {"batch": 4, "widths": (2, 3, 8, 6), "ranks": (1, 2, 3, 2)}


def settings(**changes: object) -> TimeSettings:
    return TimeSettings(**{**SMALL, "rounds": 1, "threads": 1, **changes})


def problem() -> Problem:
    return make_problem(settings())

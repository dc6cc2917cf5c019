"""Floor 6: pictures and documents of what was measured; Matplotlib is loaded when the first picture is drawn."""

from .compare import MEASURES, comparisons, plus_minus, write_comparison_csv, write_comparison_latex
from .document import document
from .figures import check_figure, draw_figure
from .orders import order_robustness, orders_content, write_orders_csv
from .page import read_page, write_page, write_pictures
from .picture import check_picture_path
from .plots import bounds, ladders, spectra
from .results import read_finished
from .words import GROWTH_WORDS, MEASURE_WORDS, OFFICIAL, data_words, duration, kinds_of_data, memory

__all__ = [
    "GROWTH_WORDS",
    "MEASURES",
    "MEASURE_WORDS",
    "OFFICIAL",
    "bounds",
    "check_figure",
    "check_picture_path",
    "comparisons",
    "data_words",
    "document",
    "draw_figure",
    "duration",
    "kinds_of_data",
    "ladders",
    "memory",
    "order_robustness",
    "orders_content",
    "plus_minus",
    "read_finished",
    "read_page",
    "spectra",
    "write_comparison_csv",
    "write_comparison_latex",
    "write_orders_csv",
    "write_page",
    "write_pictures",
]

"""Floor 6: pictures and documents of what was measured; Matplotlib is loaded when the first picture is drawn."""

from .document import document
from .picture import check_picture_path
from .plots import bounds, ladders, spectra

__all__ = ["bounds", "check_picture_path", "document", "ladders", "spectra"]

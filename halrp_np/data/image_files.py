"""One image file, of the kinds that users have, as an array of bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

if TYPE_CHECKING:  # Pillow itself is loaded with the first image: `--help` must not wait for it
    from PIL import Image as Pillow

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MOST_PIXELS = 89_478_485  # Pillow's own limit, a quarter of a gigabyte: a small file may promise any size
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # no others: EPS, for one, is a program that is run
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_NEXT_STEP = "Copy this file again, save it anew as PNG, or take it out of the data set."


def is_image_name(name: str) -> bool:
    """Say whether a file is an image, by the end of its name."""
    return name.lower().endswith(SUFFIXES)


def decode_image(content: bytes, where: str, channels: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode one image to grey (`channels` = 1, ITU-R 601 luma) or RGB (3), stretched to `size` = (height, width).

    What is transparent shows white behind it. A JPEG of 4 channels is CMYK, a palette is looked up, of 16 bits the
    upper 8 are taken, of an animation the first frame. Pillow's bicubic filter changes sizes; orientation tags are not
    read.

    Shapes: -> (channels, height, width)
    Raises: DataError naming `where` for anything that is not a whole image of a known format and a reasonable size.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height}")
            image.load()
            shown = _in_channels(image, where, channels)
            if size is not None and shown.size != size[::-1]:
                shown = shown.resize(size[::-1], Image.Resampling.BICUBIC)
            pixels = np.asarray(shown)
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bad(where, f"at most {MOST_PIXELS:,} pixels", f"one that promises more ({_line(error)})") from error
    except UnidentifiedImageError as error:
        received = "an empty file" if not content else "something else, or an image with a damaged beginning"
        raise _bad(where, f"an image ({', '.join(_FORMATS)})", received) from error
    except Exception as error:  # decoders raise whatever they stumble over in damaged bytes
        raise _bad(where, "a whole image", f"a truncated or damaged one ({_line(error)})") from error
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _in_channels(image: Pillow.Image, where: str, channels: int) -> Pillow.Image:
    """The image as 8-bit grey or RGB, whatever it is stored as."""
    from PIL import Image

    if image.mode == "F":
        raise _bad(where, "an image of 8 or 16 bits a channel", "one of floating-point numbers")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise _bad(where, "an image of 8 or 16 bits a channel", f"values from {values.min()} to {values.max()}")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode in _WITH_ALPHA or "transparency" in image.info:
        behind = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _line(error: BaseException) -> str:
    """An error's text on one short line, or its kind."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def _bad(where: str, expected: str, received: str) -> DataError:
    """The error of an image that cannot be used."""
    return DataError(where, expected=expected, received=received, next_step=_NEXT_STEP)

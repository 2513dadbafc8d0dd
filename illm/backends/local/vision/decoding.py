"""An image file becomes pixels, as Transformers' `load_image` makes them: upright, RGB, the first frame.

Everything here is a stranger's.  Only four formats are opened, the size is judged before anything is decoded, and
whatever a decoder raises is the file's fault.
"""

import logging
from io import BytesIO
from typing import Any

from illm.errors import GatewayError, Kind

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")


def decode(data: bytes, *, max_pixels: int) -> Any:
    """Return an image as a `PIL.Image.Image` of mode RGB.

    Args:
        data: a whole file.
        max_pixels: width times height at most.

    Raises:
        GatewayError: `INVALID_REQUEST` where it is no image that can be read, or too large.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > max_pixels:
                raise _too_large(max_pixels)
            upright = ImageOps.exif_transpose(opened)
            # By way of RGBA the colours are the same, and Pillow has no transparency to warn of.
            if upright.mode == "P" and "transparency" in upright.info:
                upright = upright.convert("RGBA")
            return upright.convert("RGB")
    except GatewayError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, which is looked at first
        raise _too_large(max_pixels) from error
    except Exception as error:  # decoders raise dozens of types, of which only some are documented
        log.debug("an image cannot be decoded", exc_info=error)
        raise _refused("the image is damaged, or of a kind that cannot be read") from error


def _too_large(max_pixels: int) -> GatewayError:
    return _refused(f"the image has more than the {max_pixels} pixels that are left for it")


def _refused(what: str) -> GatewayError:
    return GatewayError(Kind.INVALID_REQUEST, what)

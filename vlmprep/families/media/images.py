"""From a medium to decoded pixels, as the processor's own loader gives them."""

from __future__ import annotations

import base64
import functools
from typing import Any

from vlmprep.families.media.png import check_png, decode_png, is_eight_bit_png
from vlmprep.families.media.png_lines import SIGNATURE
from vlmprep.families.wording import first_line
from vlmprep.mediafiles.gif import GIF_SIGNATURE, check_gif
from vlmprep.mediafiles.heif import teach_pillow_heif
from vlmprep.mediafiles.jpeg import check_scans
from vlmprep.mediafiles.jpeg2000 import check_end
from vlmprep.mediafiles.opening import is_remote, open_medium
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import Loader

__all__ = ["image_loader", "load_image"]


def image_loader(image_processor: Any) -> Loader:
    """Which loader an image processor's `fetch_images` uses."""
    return "torchvision" if getattr(image_processor, "backend", "pil") == "torchvision" else "pil"


def load_image(image_processor: Any, medium: Media) -> Any:
    """Decode an image.

    Args:
        image_processor: Whose loader decodes.
        medium: The image; its header was read and accepted before.

    Returns:
        A tensor [3, height, width] uint8 where the loader is torchvision's, else a PIL.Image.Image; upright.

    Raises:
        RefuseSample: It does not decode, or not in any reasonable time.
    """
    try:
        content = _content(medium)
        teach_pillow_heif()
        if content is None:
            return image_processor.fetch_images(medium.location)
        fetch = functools.partial(_fetch_content, image_processor)
        by_torchvision = image_loader(image_processor) == "torchvision"
        if by_torchvision and is_eight_bit_png(content):
            return decode_png(content, fetch)
        if content.startswith(SIGNATURE):
            check_png(content)
        if by_torchvision and content.startswith(GIF_SIGNATURE):
            return _checked_gif(content, fetch(content))
        return fetch(content)
    except (RefuseSample, StopRun):
        raise
    except Exception as error:  # decoders raise whatever broken bytes lead them to
        # The loaders wrap a decoder's error in one that shows the whole encoded image.
        reason = first_line(error.__context__ or error)
        raise RefuseSample("undecodable-media", f"{medium.where} does not decode: {reason}") from error


def _content(medium: Media) -> bytes | None:
    """The encoded image, where it is not the loader's turn to read a local file."""
    content = medium.content
    if content is None:
        with open_medium(medium) as file:
            content = file.read()
    check_scans(content, medium.where)
    check_end(content, medium.where)
    is_local = medium.location is not None and medium.key is None and not is_remote(medium.location)
    return None if is_local and not content.startswith((SIGNATURE, GIF_SIGNATURE)) else content


def _fetch_content(image_processor: Any, content: bytes) -> Any:
    return image_processor.fetch_images("data:image/any;base64," + base64.b64encode(content).decode())


def _checked_gif(content: bytes, levels: Any) -> Any:
    """The same levels, all of which were written."""
    check_gif(content, levels.numpy())
    return levels

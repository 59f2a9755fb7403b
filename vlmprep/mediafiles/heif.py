"""HEIF, the photographs of telephones, which Pillow reads where pillow-heif is installed and somebody says so."""

from __future__ import annotations

import functools

__all__ = ["teach_pillow_heif"]


@functools.cache
def teach_pillow_heif() -> bool:
    """Let Pillow, and with it transformers' PIL loader, read HEIF in this process.

    Returns:
        Whether pillow-heif is installed.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True

"""What encoders have to do, from how a family cuts its media."""

from __future__ import annotations

from vlmprep.schema.media import EncoderWork

__all__ = ["halved", "heard", "seen"]


def seen(*pictures: tuple[int, int]) -> EncoderWork:
    """The work of pictures whose patches see those of their own picture.

    Args:
        pictures: So many pictures of so many patches each; 0 patches where the processor does not know them.
    """
    return EncoderWork(
        num_pictures=sum(num for num, _ in pictures),
        num_encoder_patches=sum(num * patches for num, patches in pictures),
        num_patch_pairs=sum(num * patches**2 for num, patches in pictures),
    )


def heard(num_features: int, num_frames: int, *, longest: int | None = None) -> EncoderWork:
    """The work of a sound whose frames see each other.

    Args:
        num_features: Frames of features.
        num_frames: Frames that are left of these for the encoder's layers.
        longest: Frames that an encoder takes at once; it cuts longer sounds and fills up the last piece.
    """
    if longest is None or num_frames <= longest:
        return EncoderWork(num_sound_features=num_features, num_sound_frames=num_frames, num_sound_pairs=num_frames**2)
    pieces = -(-num_frames // longest)
    return EncoderWork(
        num_sound_features=num_features, num_sound_frames=pieces * longest, num_sound_pairs=pieces * longest**2
    )


def halved(num_features: int, times: int) -> int:
    """Frames behind so many convolutions of stride 2 whose padding keeps a last odd one."""
    return -(-num_features // (1 << times))

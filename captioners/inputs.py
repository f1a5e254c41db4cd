"""Media → what captioning models take, as plain data: a build makes it in a process of its own, since media is hostile.

Nothing here imports a model library. Raises manifests.outcomes.Loss where the media is not fit.
"""
import io

from PIL import Image, ImageOps, UnidentifiedImageError

from manifests import media
from manifests.outcomes import Loss

RATE = 24000     # Hz: MERT's
WINDOW = 60.0    # s
_SHORTEST = 0.25  # s
_SHORT = 480     # pixels, of a frame's shorter side, at most: twice what models look at
_LARGE = 2048    # pixels, of a picture's longer side, at most
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def music(source, windows: int = 1) -> dict:
    """{"windows": [bytes, ...]}: mono float32 at RATE, the first WINDOW seconds; or so many windows, evenly from the
    beginning to the end, where that is longer (never more than there are whole windows)."""
    try:
        first = media.decode_audio(source, WINDOW)
        if first.duration < _SHORTEST:
            raise Loss("too_short", f"{first.duration:.2f} s")
        number = max(1, min(windows, int(first.duration // WINDOW)))
        starts = [place * (first.duration - WINDOW) / (number - 1) for place in range(number)] if number > 1 else [0]
        waveforms = [first] if number == 1 else media.mono_windows(source, WINDOW, starts)
    except media.MediaError as error:
        raise Loss("no_audio" if error.missing else "decode_error", str(error)) from error
    return {"windows": [waveform.mono(RATE).astype("<f4").tobytes() for waveform in waveforms]}


def image(source) -> dict:
    """{"width", "height", "pixels"}: rows of RGB bytes, turned as its EXIF says."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as found:
            picture = ImageOps.exif_transpose(found).convert("RGB")
            picture.thumbnail((_LARGE, _LARGE))  # of a camera's only: models look at a few hundred pixels
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise Loss("decode_error", f"cannot be opened as a picture ({error})") from error
    return {"width": picture.width, "height": picture.height, "pixels": picture.tobytes()}


def video(source, count: int) -> dict:
    """{"count", "width", "height", "pixels"}: `count` RGB frames, evenly from first to last, repeated where there are
    fewer."""
    try:
        frames = media.frames(source, count, _SHORT)
    except media.MediaError as error:
        raise Loss("no_video" if error.missing else "decode_error", str(error)) from error
    return {"count": len(frames), "width": frames.shape[2], "height": frames.shape[1], "pixels": frames.tobytes()}

"""Media → what the frozen encoders take, as plain data: made in a process of its own, since media is hostile.

Nothing here imports a model library. Raises manifests.outcomes.Loss where the media is not fit.
"""
import io

from PIL import Image, ImageOps, UnidentifiedImageError

from manifests import media
from manifests.outcomes import Loss

RATE = 24000     # Hz, mono: MERT's
WINDOW = 60      # s
SHORTEST = 400   # samples, below which HuBERT's convolutions have nothing to put out
FRAMES = 32      # of a video: ViViT's
_HOUR = 3600     # s
_SHORT = 480     # pixels, of a frame's shorter side, at most: twice what models look at
_LARGE = 2048    # pixels, of a picture's longer side, at most
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def audio(source) -> dict:
    """{"windows": [bytes, ...]}: mono float32 at RATE, the first minute; of tracks of an hour and more, one minute
    further on for each full hour, as `Encoders.hear` takes them."""
    try:
        first = media.decode_audio(source, WINDOW)
        hours = int(first.duration // _HOUR)
        waveforms = media.mono_windows(source, WINDOW, [WINDOW * place for place in range(hours + 1)]) if hours else [
            first]
    except media.MediaError as error:
        raise Loss("no_audio" if error.missing else "decode_error", str(error)) from error
    waves = [waveform.mono(RATE)[:RATE * WINDOW] for waveform in waveforms]
    if len(waves[0]) < SHORTEST:
        raise Loss("too_short", f"{first.duration:.3f} s")
    return {"windows": [wave.astype("<f4").tobytes() for wave in waves]}


def image(source) -> dict:
    """{"width", "height", "pixels"}: rows of RGB bytes, turned as its EXIF says."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as found:
            picture = ImageOps.exif_transpose(found).convert("RGB")
            picture.thumbnail((_LARGE, _LARGE))  # of a camera's only: models look at a few hundred pixels
    except FileNotFoundError:
        raise
    except UnidentifiedImageError:  # whose words name an address in memory, which varies
        raise Loss("decode_error", f"no picture of a known kind ({', '.join(_FORMATS)})") from None
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise Loss("decode_error", f"cannot be opened as a picture ({error})") from error
    return {"width": picture.width, "height": picture.height, "pixels": picture.tobytes()}


def video(source, count: int = FRAMES) -> dict:
    """{"count", "width", "height", "pixels"}: `count` RGB frames, evenly from the first to the last, repeated where
    there are fewer; 32 are those of MUVideo's `frame_index`."""
    try:
        frames = media.frames(source, count, _SHORT)
    except media.MediaError as error:
        raise Loss("no_video" if error.missing else "decode_error", str(error)) from error
    return {"count": len(frames), "width": frames.shape[2], "height": frames.shape[1], "pixels": frames.tobytes()}

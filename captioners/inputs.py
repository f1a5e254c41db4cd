"""Media → what captioning models take, as plain data: a build makes it in a process of its own, since media is hostile.

Pictures and films as the trainer's encoders take them; of music several windows, where those take the beginning.
Nothing here imports a model library. Raises manifests.outcomes.Loss where the media is not fit.
"""
from manifests import media
from manifests.outcomes import Loss
from training.inputs import RATE, WINDOW, image, video

__all__ = ("RATE", "WINDOW", "image", "music", "video")

_SHORTEST = 0.25  # s


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

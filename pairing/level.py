"""How loud a recording is and whether its level is sound: loudness, dynamics, silence, clipping.

All functions take native-rate samples, float32 [channels, n], full scale 1.0, and nothing shorter than 0.05 s.
"""
import warnings

import numpy as np
import pyloudnorm

FLOOR = -120.0      # dBFS: as quiet as a level is reported
SILENT = -60.0      # dBFS: frames below it are silence
FRAME = 0.05        # s, of short-time level
BLOCK = 0.4         # s, BS.1770's gating block
QUIETEST = -70.0    # LUFS, its absolute gate

FAINT = 0.01        # of full scale: below it steps of the sample format look like flat tops
LOPSIDED = 0.2      # of the higher rail: a lower one is no rail but where pulses rest
SQUARE = 0.8        # of the rail, within three samples: an edge that only a synthesiser draws


def levels(samples: np.ndarray, rate: int) -> dict:
    """`loudness` (LUFS or None), `rms` (dBFS), `dynamics` (dB), `silence` and `clipping` (0..1)."""
    frames = _frame_levels(samples, rate)
    sounding = frames[frames >= SILENT]
    high, low = np.percentile(sounding, [95, 10]) if len(sounding) else (0.0, 0.0)
    power = np.mean(np.square(samples, dtype=np.float64))
    return {
        "loudness": loudness(samples, rate),
        "rms": round(float(_decibels(power)), 2),
        "dynamics": round(float(high - low), 2),
        "silence": round(float(np.mean(frames < SILENT)), 4),
        "clipping": clipping(samples),
    }


def loudness(samples: np.ndarray, rate: int) -> float | None:
    """Integrated loudness in LUFS (ITU-R BS.1770-4); None below its absolute gate of -70 LUFS.

    What is shorter than a gating block (0.4 s) is repeated until it fills one. Above five channels FFmpeg's order is
    assumed, whose fourth is the subwoofer, which the standard leaves out.
    """
    if len(samples) > 5:
        samples = samples[[0, 1, 2, 4, 5]]
    missing = int(np.ceil(BLOCK * rate)) - samples.shape[1]
    if missing > 0:
        samples = np.pad(samples, ((0, 0), (0, missing)), mode="wrap")
    # De Man's coefficients are the standard's own at 48 kHz; pyloudnorm's default is 0.04 LU off at 1 kHz.
    meter = pyloudnorm.Meter(rate, filter_class="DeMan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=RuntimeWarning)  # log of zero and mean of nothing, for silence
        value = float(meter.integrated_loudness(samples.T))
    return round(value, 2) if value >= QUIETEST else None


def clipping(samples: np.ndarray) -> float:
    """Share of the samples that lie on flat tops: where the waveform runs into a rail and is cut off.

    The rails are the clip's own extremes, so decoded peaks above 1.0 are no clipping, and clipping that was turned
    down later still is. The second look, at means of four samples and with room for ripple, finds tops that lossy
    coding has bent. It misses light clipping (below some 3 % of the samples) and most of what low bit rates have
    buried.
    """
    flat = bent = 0
    for channel in samples:
        rails = channel.min(), channel.max()
        flat += _tops(channel, channel, rails, flat=0.001, near=0.95, edge=0.005)
        means = channel[:len(channel) // 4 * 4].reshape(-1, 4).mean(axis=1)
        rails = np.quantile(means, [0.001, 0.999])
        bent += 4 * _tops(means, channel, rails, flat=0.06, near=0.8, edge=0.2)
    return round(max(flat, bent) / samples.size, 4)


def _tops(x: np.ndarray, fine: np.ndarray, rails: tuple[float, float], flat: float, near: float, edge: float) -> int:
    """Samples of `x` in runs of three or more that are flat, near a rail, and have an edge on both sides.

    Flat means steps below `flat` * rail, an edge one above `edge` * rail: a sine's crest is as flat, but its steps
    grow gently. Edges as steep as a square wave's on both sides, in `fine` (`x`, or what `x` is means of), are no
    clipping. Flat runs that lie elsewhere count against: a waveform made of steps, as several pulse voices make it,
    has them at all levels.
    """
    bottom, top = rails
    rail = max(-bottom, top)
    if rail < FAINT:
        return 0
    steps = np.abs(np.diff(x))
    still = np.concatenate([[False], steps <= flat * rail, [False]])
    bounds = np.flatnonzero(still[1:] != still[:-1])
    first, last = bounds[::2], bounds[1::2]         # samples, both in the run
    inner = (last - first >= 2) & (first >= 2) & (last <= len(x) - 3)
    first, last = first[inner], last[inner]
    # The corner may fall between samples: the edge is the larger of two steps.
    rise = np.maximum(steps[first - 1], steps[first - 2])
    fall = np.maximum(steps[last], steps[last + 1])
    framed = (rise >= edge * rail) & (fall >= edge * rail)
    first, last = first[framed], last[framed]

    scale = len(fine) // len(x)
    square = (_steepest(fine, first * scale) >= SQUARE * rail) & (_steepest(fine, (last + 1) * scale) >= SQUARE * rail)
    lengths = (last - first + 1) * ~square
    low, high = np.minimum(x[first], x[last]), np.maximum(x[first], x[last])
    at_rail = (low >= near * max(top, LOPSIDED * rail)) | (high <= near * min(bottom, -LOPSIDED * rail))
    return max(0, int(lengths[at_rail].sum() - lengths[~at_rail].sum()))


def _steepest(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The largest change over three samples in the neighbourhood of each place."""
    starts = np.clip(places[:, None] + np.arange(-6, 4), 0, len(x) - 4)
    return np.abs(x[starts + 3] - x[starts]).max(axis=1, initial=0.0)


def _frame_levels(samples: np.ndarray, rate: int) -> np.ndarray:
    """dBFS of frames of 50 ms, over all channels; what does not fill the last frame is left out."""
    size = min(round(FRAME * rate), samples.shape[1])
    count = samples.shape[1] // size
    power = np.square(samples[:, :count * size]).reshape(len(samples), count, size).mean(axis=(0, 2))
    return _decibels(power)


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR / 10)))

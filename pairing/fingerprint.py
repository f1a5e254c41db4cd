"""Near-duplicates by acoustic fingerprint: the same recording after re-encoding, gain, a shift or a cut.

After Haitsma & Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002): one 32-bit word per frame, each bit
the sign of a level difference over neighbouring bands and over time, looked up by words and compared by bit error
rate. Two things differ. Levels are logarithms over a floor, and differences that are small count as unknown:
re-encoding flips those first, and silence or a held tone consists of nothing else, so it matches nothing instead of
everything. And words come every 46 ms rather than every 12 ms, compared with the frame 186 ms before.
"""
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
from scipy import fft

VERSION = 1             # of `duplicates`: bump it when the same prints give other pairs (prints: features.VERSION)

RATE = 22050            # Hz, of the signal
FRAME = 8192            # samples (0.37 s): long beside HOP, so that a shift of half a hop changes little
HOP = 1024              # samples (46 ms): 204 words for ten seconds
LAG = 4                 # hops between the frames that a bit compares
EDGES = np.round(np.geomspace(200.0, 4000.0, 34) * FRAME / RATE).astype(int)  # of 33 bands, in bins
FLOOR = 0.01            # of the frame's mean band power: what lies 20 dB below it belongs to the codec
QUIET = 1e-9 * FRAME    # power of noise at about -86 dBFS: nothing below it is sound
UNCERTAIN = 0.3         # nepers of power (1.3 dB): smaller differences are unknown bits
BITS = 32

MAX_ERROR = 0.1         # re-encodings lie below 0.05, other recordings above 0.14
MIN_OVERLAP = 96        # words (4.5 s), or three quarters of the shorter print
MIN_KNOWN = 0.1         # share of the overlap's bits that both prints know ...
MIN_BITS = 128          # ... and their number: fewer may agree by chance
APART = 2               # words between the two that are looked up together
INDEXED = 10            # known bits that each of them needs
NEIGHBOURS = 8          # occurrences of one key that each occurrence is compared with
PASS_WORDS = 1 << 22    # words sorted at once: bounds the memory of the index

_WINDOW = np.hanning(FRAME + 1)[:-1].astype(np.float32)
_SPAN = 1 << 20         # room for the offsets of one pair in a sortable code: prints of up to six hours, three million


def fingerprint(y: np.ndarray) -> np.ndarray:
    """The print of a mono signal at 22050 Hz: uint32 [2 * words], each word's signs and then its known bits.

    Empty below 0.56 s. 1.6 kB for ten seconds.
    """
    frames = 1 + (len(y) - FRAME) // HOP
    if frames <= LAG:
        return np.zeros(0, np.uint32)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(y, np.float32), FRAME)[::HOP] * _WINDOW
    spectrum = fft.rfft(windows, axis=1)[:, EDGES[0]:EDGES[-1]]
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    bands = np.add.reduceat(power, EDGES[:-1] - EDGES[0], axis=1) / np.diff(EDGES)
    levels = np.log(bands + FLOOR * bands.mean(axis=1, keepdims=True) + QUIET)
    slopes = levels[:, :-1] - levels[:, 1:]
    change = slopes[LAG:] - slopes[:-LAG]
    return np.stack([_pack(change > 0), _pack(np.abs(change) > UNCERTAIN)], axis=1).ravel()


def bit_error_rate(a: np.ndarray, b: np.ndarray, offset: int, min_overlap: int = MIN_OVERLAP) -> float:
    """Share of differing bits among those that both prints know, with word k of `b` beside word k + offset of `a`.

    1.0 where the overlap is too short, or knows too little, to say. 0.5 is chance.
    """
    shorter = min(len(a), len(b)) // 2
    first, last = max(0, offset), min(len(a) // 2, len(b) // 2 + offset)
    if last - first < max(1, min(min_overlap, shorter * 3 // 4)):
        return 1.0
    ours, theirs = a[2 * first:2 * last], b[2 * (first - offset):2 * (last - offset)]
    known = ours[1::2] & theirs[1::2]
    count = int(np.bitwise_count(known).sum())
    if count < max(MIN_BITS, MIN_KNOWN * BITS * (last - first)):
        return 1.0
    return int(np.bitwise_count((ours[::2] ^ theirs[::2]) & known).sum()) / count


def duplicates(
    prints: Sequence[np.ndarray], max_error: float = MAX_ERROR, min_overlap: int = MIN_OVERLAP
) -> list[tuple[int, int, float]]:
    """All near-duplicates as sorted (i, j, error), i < j, whatever the order of `prints`.

    Time and memory grow linearly with the number of prints. Of a recording that is there in more than NEIGHBOURS
    different encodings some pairs may be left out, but chains of pairs join them all.
    """
    # Equal prints are one: a recording that is there a thousand times is looked up once.
    copies: dict[bytes, list[int]] = {}
    for index, each in enumerate(prints):
        copies.setdefault(blake2b(np.ascontiguousarray(each, np.uint32).tobytes()).digest(), []).append(index)
    # By content, not by position: which neighbours a common key meets must not depend on the input's order.
    groups = [copies[digest] for digest in sorted(copies)]
    distinct = [np.asarray(prints[group[0]], np.uint32) for group in groups]

    errors: dict[tuple[int, int], float] = {}
    for first, second, offset in candidates(distinct):
        error = bit_error_rate(distinct[first], distinct[second], offset, min_overlap)
        if error <= min(max_error, errors.get((first, second), 1.0)):
            errors[first, second] = error
    pairs = [(*sorted((i, j)), round(error, 4))
             for (first, second), error in errors.items() for i in groups[first] for j in groups[second]]
    for group, each in zip(groups, distinct, strict=True):
        if len(group) > 1 and bit_error_rate(each, each, 0, min_overlap) <= max_error:
            pairs += [(i, j, 0.0) for place, i in enumerate(group) for j in group[place + 1:]]
    return sorted(pairs)


def candidates(prints: Sequence[np.ndarray]) -> Iterator[tuple[int, int, int]]:
    """(i, j, offset), i < j: word k of print j looks like word k + offset of print i, at two places or more.

    Two words are looked up together, unknown bits cleared and one of the four bytes left out of both, so that errors
    may fall into it: long keys make chance matches rare. Memory: 40 bytes for each word of all prints (8 kB for ten
    seconds), 60 for each of at most PASS_WORDS, and 8 for each match, of which recordings that are there once have
    few: one for thirty pairs of synthetic songs.
    """
    counts = np.array([len(each) // 2 for each in prints], np.int64)
    known = np.concatenate([np.zeros(0, np.uint32), *(each[1::2] for each in prints)])
    words = np.concatenate([np.zeros(0, np.uint32), *(each[::2] for each in prints)]) & known
    clips = np.repeat(np.arange(len(prints), dtype=np.int32), counts)
    telling = np.bitwise_count(known) >= INDEXED
    indexed = np.flatnonzero(telling[:-APART] & telling[APART:] & (clips[:-APART] == clips[APART:]))
    earlier, later = words[indexed], words[indexed + APART]
    clips = clips[indexed]
    places = (indexed - (np.cumsum(counts) - counts)[clips]).astype(np.int32)
    passes = 1 + len(indexed) // PASS_WORDS

    codes = [np.zeros(0, np.int64)]
    for byte in range(4):
        kept = np.uint32(0xFFFFFFFF ^ 0xFF << 8 * byte)
        keys = (earlier & kept).astype(np.uint64) << np.uint64(32) | later & kept
        for part in range(passes):
            chosen = np.flatnonzero(keys % np.uint64(passes) == part)
            codes.append(_matches(keys[chosen], clips[chosen], places[chosen], len(prints)))
    matches = np.sort(np.concatenate(codes))
    # One match is chance, two at the same offset (or the next: a shift lies between hops) are worth a comparison.
    near = np.diff(matches) <= 1
    for code in np.unique(np.concatenate([matches[:-1][near], matches[1:][near]])):
        pair, offset = divmod(int(code), _SPAN)
        yield *divmod(pair, len(prints)), offset - _SPAN // 2


def _matches(keys: np.ndarray, clips: np.ndarray, places: np.ndarray, total: int) -> np.ndarray:
    """Sortable codes of (first clip, second clip, offset) for every two clips that share a key."""
    order = np.argsort(keys, kind="stable")  # words came by clip and place, and stay so within a key
    keys, clips, places = keys[order], clips[order], places[order]
    # A held chord repeats its key: its first place in each clip stands for all.
    fresh = np.ones(len(keys), bool)
    fresh[1:] = (keys[1:] != keys[:-1]) | (clips[1:] != clips[:-1])
    keys, clips, places = keys[fresh], clips[fresh], places[fresh]
    codes = [np.zeros(0, np.int64)]
    for step in range(1, NEIGHBOURS + 1):
        here = np.flatnonzero(keys[step:] == keys[:-step])
        there = here + step
        pairs = clips[here].astype(np.int64) * total + clips[there]
        codes.append(pairs * _SPAN + (places[here] - places[there] + _SPAN // 2))
    return np.concatenate(codes)


def _pack(bits: np.ndarray) -> np.ndarray:
    """bool [words, 32] -> uint32 [words], band 0 in the lowest bit on every machine."""
    return np.packbits(bits, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)

"""Why a clip was lost: the words of the ledger. Requested = done + lost, always."""

DONE = "done"

PERMANENT = {
    "no_audio": "the media has no audio stream",
    "decode_error": "the media cannot be decoded",
    "too_large": "more bytes than --max-bytes",
    "too_short": "shorter than --min-duration",
    "silent": "no signal, or only for a small part of the time (--max-silence)",
    "too_quiet": "integrated loudness below --min-loudness",
    "clipped": "more samples stuck at the rails than --max-clipping",
    "speech": "more speech than --max-speech",
    "not_music": "noise-like: flat spectrum, no pitch, no beat; or the tagger says so",
    "duplicate": "the same recording as another clip, which was kept",
    "caption_failed": "the captioner gave no usable caption",
}

# Asked again on the next run.
TRANSIENT = {
    "unreadable": "the file could not be read (gone, no permission, I/O error)",
    "failed": "an unexpected error in our code: a defect, please report the detail",
}

REASONS = {**PERMANENT, **TRANSIENT}


class Loss(Exception):
    """A clip ends here, for a reason of `REASONS`; `detail` tells a person what was seen."""

    def __init__(self, reason: str, detail: str = ""):
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}; known: {', '.join(sorted(REASONS))}")
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

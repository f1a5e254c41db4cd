"""Why a clip was lost: the words of the ledger. Requested = done + lost, always."""

DONE = "done"

PERMANENT = {
    "removed": "the source no longer has it (404, 410, deleted, account closed)",
    "private": "its owner made it private",
    "taken_down": "taken down (make takedown): it is not asked for again",
    "geo_blocked": "not available in this country (451 and the like)",
    "restricted": "only for those who signed in: age, membership, purchase",
    "unsupported": "what the address gives is no media (a page, a picture)",
    "no_audio": "the media has no audio stream",
    "no_video": "the media has no picture",
    "decode_error": "the media cannot be decoded",
    "over_limits": "took more time or memory than --max-file-seconds or --max-file-memory to decode",
    "too_large": "more bytes than --max-bytes",
    "too_long": "longer than --max-duration",
    "too_short": "shorter than --min-duration",
    "silent": "no signal, or only for a small part of the time (--max-silence)",
    "too_quiet": "integrated loudness below --min-loudness",
    "clipped": "more samples stuck at the rails than --max-clipping",
    "speech": "more speech than --max-speech",
    "not_music": "noise-like: flat spectrum, no pitch, no beat; or the tagger says so",
    "duplicate": "the same recording as another clip, which was kept",
    "no_pair": "no other clip is alike enough in rhythm, pitch and level to be its pair (MUEdit)",
    "unconfirmed": "the edit could not be confirmed in the sound",
    "not_described": "--descriptions says nothing of it (MusicQA)",
    "caption_failed": "the captioner gave no usable caption",
    "instruction_failed": "the writer gave no usable instruction or answer",
    "contradicted": "its caption contradicts the measurements (--drop-contradictions)",
}

# Asked again on the next run.
TRANSIENT = {
    "bot_check": "the source asked whether we are a robot; the fetching stopped",
    "rate_limited": "the source asked us to slow down (402, 429); the fetching stopped",
    "not_asked": "not asked for in this run: the fetching had stopped",
    "live": "live, or not shown yet",
    "forbidden": "the source refused, or cannot be asked like this (401, 403)",
    "server_error": "the source failed (5xx)",
    "network": "the connection failed, was too slow or broke off",
    "interrupted": "its process was killed from outside, for lack of memory perhaps",
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

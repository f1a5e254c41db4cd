"""One Arrow schema per record: what each stage reads and writes. Times are seconds, levels decibels, ids strings.

Every record that a stage writes starts with `id`, `outcome` ("done" or a reason of `manifests.outcomes`) and `detail`.
"""
import pyarrow as pa

# What a source asks for. `revision` changes when the thing behind the id does (a file's size and time), and only then.
SEGMENT = pa.schema([
    ("id", pa.string()),
    ("source_id", pa.string()),     # the source video: the unit of splits, takedown and leakage
    ("uri", pa.string()),
    ("start", pa.float64()),        # s into the source; null = all of it
    ("end", pa.float64()),
    ("video", pa.bool_()),          # whether its picture is wanted, where it has one
    ("revision", pa.string()),
])

_RESULT = [("id", pa.string()), ("outcome", pa.string()), ("detail", pa.string())]

# The clip store: the only place under OUT/stages that holds media.
CLIP = pa.schema([
    *_RESULT,
    ("source_id", pa.string()),
    ("revision", pa.string()),
    ("audio", pa.large_binary()),   # encoded as it came, without picture; null where outcome is a loss
    ("audio_format", pa.string()),  # file extension that fits `audio`
    ("video", pa.large_binary()),   # encoded as it came, without sound; null where there is none
    ("video_format", pa.string()),
    ("sha256", pa.string()),        # of `audio`
])

MEASUREMENT = pa.schema([
    *_RESULT,
    ("duration", pa.float64()),          # s, counted while decoding, never taken from a header
    ("sample_rate", pa.int32()),         # Hz, of the stored audio
    ("channels", pa.int32()),
    ("tempo", pa.float64()),             # BPM; null where no beat was found
    ("tempo_confidence", pa.float64()),  # 0..1
    ("beats", pa.list_(pa.float32())),   # s
    ("onset_rate", pa.float64()),        # onsets per second
    ("key", pa.string()),                # "C" ... "B", sharps
    ("mode", pa.string()),               # "major" | "minor"
    ("key_confidence", pa.float64()),    # 0..1
    ("chroma", pa.list_(pa.float32())),  # 12 pitch classes from C, sum 1
    ("pitch_median", pa.float64()),      # MIDI note number (69 = A4 = 440 Hz)
    ("pitch_low", pa.float64()),         # 5th and 95th percentile, MIDI note number
    ("pitch_high", pa.float64()),
    ("pitch_salience", pa.float64()),    # 0..1: how clearly frames have one periodicity
    ("loudness", pa.float64()),          # LUFS, ITU-R BS.1770; null below its absolute gate
    ("rms", pa.float64()),               # dBFS, at least -120
    ("dynamics", pa.float64()),          # dB between the 95th and 10th percentile of short-time level
    ("centroid", pa.float64()),          # Hz
    ("flatness", pa.float64()),          # 0..1, spectral flatness in narrow bands: noise of any colour about 0.9
    ("percussiveness", pa.float64()),    # 0..1: share of energy that is percussive (HPSS)
    ("clipping", pa.float64()),          # 0..1: share of samples in flat runs at the rails
    ("silence", pa.float64()),           # 0..1: share of frames below -60 dBFS
    ("speech", pa.float64()),            # 0..1: share of time with speech (silero-vad)
    ("music", pa.float64()),             # 0..1: P(music) by an audio tagger; null where none is used
    ("fingerprint", pa.list_(pa.uint32())),  # pairs of words a hop: signs, and which of them are known
])

CAPTION = pa.schema([
    *_RESULT,
    ("caption", pa.string()),
    ("captioner", pa.string()),           # "measured", or the model's id
    ("captioner_revision", pa.string()),
    ("caption_prompt", pa.string()),      # what the captioner was asked; empty for "measured"
    ("caption_seed", pa.int64()),
])

VERDICT = pa.schema(_RESULT)  # the filter's

LEDGER = pa.schema([
    ("dataset", pa.string()),
    ("id", pa.string()),
    ("source_id", pa.string()),
    ("uri", pa.string()),               # where the source had it: of a folder, the file
    ("split", pa.string()),
    ("outcome", pa.string()),
    ("detail", pa.string()),
])

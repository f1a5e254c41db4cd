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

# The clip store: media as it came. Under OUT/stages only frames, films and edits (below) are media beside it.
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
    ("pulse", pa.list_(pa.float32())),   # -1..1: what returns after 1/4, 1/3, 1/2, 2/3, 3/4, 1 beat; empty: no beat
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
    ("revision", pa.string()),            # of what it rests on: measurements, or media
    ("caption", pa.string()),
    ("captioner", pa.string()),           # "measured", or the model's id
    ("captioner_revision", pa.string()),
    ("caption_prompt", pa.string()),      # what the captioner was asked; empty for "measured"
    ("caption_seed", pa.int64()),
])

VERDICT = pa.schema(_RESULT)  # the filter's

_LOOKS = [
    ("brightness", pa.float64()),        # 0..1: mean lightness, CIE L* / 100
    ("contrast", pa.float64()),          # 0..1: standard deviation of luma
    ("saturation", pa.float64()),        # mean chroma in CIELAB, 0..130
    ("sharpness", pa.float64()),         # 0..1: steepness of edges; null where there are none
    ("colours", pa.list_(pa.float32())),  # shares of captioners.looks.COLOURS, sum 1
]

# One picture of each clip. Its looks are measured by captioners.looks.
FRAME = pa.schema([
    *_RESULT,
    ("image", pa.large_binary()),        # null where outcome is a loss
    ("image_format", pa.string()),       # file extension that fits `image`
    ("sha256", pa.string()),             # of `image`
    ("frame_time", pa.float64()),        # s from the clip's beginning
    ("width", pa.int32()),               # pixels, of `image`
    ("height", pa.int32()),
    *_LOOKS,
])

# Each clip's film, as a dataset holds it.
VIDEO = pa.schema([
    *_RESULT,
    ("video", pa.large_binary()),        # H.264 without sound; null where the clip store's is that already
    ("video_format", pa.string()),       # file extension that fits the film, whoever holds it
    ("sha256", pa.string()),             # of the film, whoever holds it
    ("width", pa.int32()),               # pixels
    ("height", pa.int32()),
    ("frames", pa.int32()),              # how many can be decoded
    ("duration", pa.float64()),          # s, from the first frame to the last one's end
    ("fps", pa.float64()),               # mean
    ("frame_index", pa.list_(pa.int32())),     # of 32 frames, evenly from first to last
    *_LOOKS,                             # means over time
    ("brightness_spread", pa.float64()),       # standard deviation of brightness over time
    ("brightness_trend", pa.float64()),        # its rise from beginning to end
    ("colour_change", pa.float64()),           # 0..1: share of the picture that differs from the mean colours
    ("motion", pa.float64()),                  # picture heights per second
    ("cuts", pa.list_(pa.float32())),          # s
])

# One turn of a conversation, in the layout that M²UGen's datasets are published in.
TURN = pa.struct([
    ("from", pa.string()),               # "human" | "gpt"
    ("value", pa.string()),
    ("input_modality", pa.string()),     # "audio" | "image" | "video"; null in gpt's turns
    ("output_modality", pa.string()),    # "audio" | "text"; null in human's turns
    ("caption", pa.string()),            # of the medium that goes in or comes out; null where the value tells it
])

INSTRUCTION = pa.schema([
    *_RESULT,
    ("revision", pa.string()),           # of the captions that it rests on
    ("conversation", pa.list_(TURN)),
    ("instructor", pa.string()),         # "template", or the model's id
    ("instructor_revision", pa.string()),
    ("prompt_version", pa.int64()),
    ("instruction_seed", pa.int64()),
])

LEDGER = pa.schema([
    ("dataset", pa.string()),
    ("id", pa.string()),                # of the row, or of the clip that no row came of
    ("source_id", pa.string()),
    ("target_source_id", pa.string()),  # where a row has two source videos
    ("uri", pa.string()),               # where the source had it: of a folder, the file
    ("split", pa.string()),
    ("outcome", pa.string()),
    ("detail", pa.string()),
])

# Whether the caption says what was measured: "agrees", "contradicts", or null where nothing was stated or could
# be judged. `detail` tells what contradicts.
AGREEMENT = pa.schema([
    *_RESULT,
    ("revision", pa.string()),           # of the caption
    ("tempo", pa.string()),
    ("key", pa.string()),
    ("mode", pa.string()),
    ("percussion", pa.string()),
])

# A clip with its tempo or its pitch changed, and what was measured of it then.
EDIT = pa.schema([
    *_RESULT,
    ("revision", pa.string()),           # of the clip
    ("audio", pa.large_binary()),
    ("audio_format", pa.string()),
    ("sha256", pa.string()),             # of `audio`
    ("gain", pa.float64()),              # dB, at most 0: it is made quieter where it would exceed full scale
    ("confidence", pa.float64()),        # 0..1: how well the sound confirms the edit (pairing.edits.confirm)
    # What the edit leaves is the clip's own, what it changes is changed as much; sound and level are measured anew.
    *[field for field in MEASUREMENT if field.name not in dict(_RESULT)],
])

# What a frozen model of the trainer says of one medium or caption (training.frozen); `id` is the hash of that.
FEATURE = pa.schema([
    *_RESULT,
    ("values", pa.binary()),             # bfloat16 in C order; null where outcome is a loss
])

# Where each key's row of FEATURE lies (training.features).
FEATURE_PLACE = pa.schema([
    ("key", pa.string()),                # "dataset/id" of a medium, or a caption's SHA-256
    ("hash", pa.uint64()),               # of `key`
    ("shard", pa.int32()),               # number in the kind's JSON; -1 where lost
    ("row", pa.int64()),                 # in the shard; -1 where lost
    ("outcome", pa.string()),
    ("detail", pa.string()),
])

"""How much of a clip is speech, by silero-vad (https://github.com/snakers4/silero-vad), whose weights lie in its wheel.

The wheel's `load_silero_vad` runs the same model, but importing it imports torch: a second and 200 MB in every worker.
Here onnxruntime opens the "sequence" model, which takes many frames a call, by itself.
"""
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

RATE = 16000
FRAME = 512         # samples (32 ms): one probability each
CONTEXT = 64        # samples of the frame before, which the model sees again
BLOCK = 512         # frames a call (16 s): bounds memory for whole tracks
THRESHOLD = 0.5     # silero's own default


def speech(y: np.ndarray) -> float:
    """Share of the time with speech, 0..1, in a mono signal at 16 kHz."""
    return round(float(np.mean(probabilities(y) >= THRESHOLD)), 4)


def probabilities(y: np.ndarray) -> np.ndarray:
    """float32 [frames]: P(speech) for each 32 ms of a mono signal at 16 kHz; the last frame is filled with silence."""
    count = max(1, -(-len(y) // FRAME))
    padded = np.zeros(CONTEXT + count * FRAME, np.float32)
    padded[CONTEXT:CONTEXT + len(y)] = y
    frames = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    blocks = []
    for start in range(0, count, BLOCK):
        inputs = {"input": np.ascontiguousarray(frames[start:start + BLOCK]), "h": hidden, "c": cell}
        block, hidden, cell = _session().run(["speech_probs", "hn", "cn"], inputs)
        blocks.append(block.ravel())
    return np.concatenate(blocks)


@cache  # one session per process: it cannot be pickled to a worker
def _session() -> onnxruntime.InferenceSession:
    package = find_spec("silero_vad")
    if package is None:
        raise ModuleNotFoundError("the speech filter needs the package silero-vad: pip install silero-vad")
    model = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # workers are processes: one core each
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

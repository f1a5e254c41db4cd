"""The adapters' convolution, where torch's own writes beyond its memory: in bfloat16, by several threads."""
import os
import subprocess
import sys

WORK = """
import torch
from torch.nn.functional import conv1d
from training.adapters import Adapter
from training.config import m2ugen
torch.set_num_threads(2)
torch.manual_seed(0)
video = m2ugen("debug").modalities[2]
assert video.tokens == 3137, video
made, encoded = Adapter(video, 64, 2), torch.randn(2, video.tokens, video.width)
seen = []
made.project.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
for _ in range(20):
    with torch.autocast("cpu", torch.bfloat16):
        said = made(encoded)
    said.float().square().sum().backward()
conv = conv1d(encoded, made.aggregate.weight, made.aggregate.bias)
wanted = torch.nn.functional.normalize(conv, dim=-1)
torch.testing.assert_close(seen[-1].float(), wanted, rtol=0.02, atol=0.01)
assert all(one.grad.isfinite().all() and one.grad.any() for one in made.parameters())
seen.clear()
made(encoded)
torch.testing.assert_close(seen[0], wanted, rtol=1e-4, atol=1e-6)
"""


def test_bfloat16_by_two_threads_is_the_convolution() -> None:
    run = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, timeout=300,
                         env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert run.returncode == 0, run.stderr

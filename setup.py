"""The distribution; also what Beam ships to remote workers (`--setup_file=./setup.py`)."""
from setuptools import setup

setup(
    name="m2ugen-factory",
    version="0.1.0",
    description="Instruction datasets for multi-modal music models, and the three-stage M2UGen trainer",
    packages=["manifests", "captioners", "pairing", "pipelines", "pipelines.sample", "training"],
    python_requires=">=3.11",
    install_requires=[
        "apache-beam>=2.77,<3",
        "av>=18,<19",
        "datasets>=5.2,<6",
        "fsspec",
        "librosa>=0.11,<0.12",
        "numpy>=2",
        "onnxruntime>=1.20",
        "psutil",
        "pyarrow>=25",
        "pyloudnorm>=0.2,<0.3",
        "pyyaml",
        "scipy",
        "silero-vad>=6.2.3,<7",
        "soxr",
        "threadpoolctl",
        "torch>=2.13,<3",
        "tqdm",
        "transformers>=5.23,<6",
    ],
    extras_require={"dev": ["pytest", "pytest-xdist", "ruff", "soundfile"]},
)

"""The distribution; also what Beam ships to remote workers (`--setup_file=./setup.py`)."""
from setuptools import setup

setup(
    name="m2ugen-factory",
    version="0.1.0",
    description="Instruction datasets for multi-modal music models, and the three-stage M2UGen trainer",
    packages=["manifests", "captioners", "pairing", "pipelines", "pipelines.page", "pipelines.sample", "training"],
    package_data={"manifests": ["heldout.bin"], "pipelines.page": ["page.html", "page.css", "page.js"]},
    python_requires=">=3.11",
    install_requires=[
        "accelerate",             # transformers needs it to load quantised weights
        "apache-beam>=2.77,<3",
        "av>=18,<19",
        "bitsandbytes>=0.50,<0.51",  # weights in four and eight bits
        "datasets>=5.2,<6",
        "deno>=2.3",              # the JavaScript runtime that yt-dlp needs for YouTube
        "fsspec",
        "huggingface_hub>=2.4,<3",
        "imageio-ffmpeg>=0.6",    # brings the ffmpeg that yt-dlp calls
        "librosa>=0.11,<0.12",
        "numpy>=2",
        "onnxruntime>=1.20",
        "peft>=0.21,<0.22",
        "pillow>=12,<13",         # frames as JPEG: another version may write other bytes
        "psutil",
        "pyarrow>=25",
        "pyloudnorm>=0.2,<0.3",
        "python-stretch>=0.3.1,<0.4",  # Signalsmith Stretch: another version may make other edits
        "pyyaml",
        "safetensors",
        "scipy",
        "sentencepiece<0.2.3",    # later ones need a protobuf that Beam cannot have
        "silero-vad>=6.2.3,<7",
        "soxr",
        "tensorboard>=2.20,<3",
        "threadpoolctl",
        "torch>=2.13,<3",
        "tqdm",
        "transformers>=5.23,<6",
        "yt-dlp>=2026.10.26",
        "yt-dlp-ejs>=0.8,<0.9",
    ],
    extras_require={"dev": ["flask", "flask-cors", "matplotlib", "moto[s3]", "pytest", "pytest-xdist", "ruff", "s3fs",
                            "soundfile"]},
)

"""The README.md beside saved weights: what they are, what they stand on, and whether they can hear."""
from collections.abc import Mapping, Sequence

import yaml

from training.config import Config

_TITLES = {"m2ugen": "M²UGen", "mullama": "MU-LLaMA"}


def card(config: Config, *, base: Mapping[str, str] | None, encoders: Mapping[str, Mapping[str, str]],
         trained: Sequence[str], gates: Mapping[str, float], files: Mapping[str, Sequence[int]],
         made_with: Mapping[str, str], notes: str) -> str:
    """The card's text; `gates` as `published.largest_gates` gives them, `files`: name → tensors, bytes."""
    head: dict[str, object] = {"tags": ["music", "audio", config.name], "language": ["en"]}
    if base:
        head |= {"base_model": base["id"], "base_model_relation": "adapter"}
    speaks = config.music_decoder or "none: it answers in words only"
    rows = "\n".join(f"| {name} | {count} | {size:,} |" for name, (count, size) in files.items())
    deaf = [name for name, gate in gates.items() if gate == 0]
    told = ", ".join(f"{name} {gate:.4g}" for name, gate in gates.items())
    warning = (f"**The gates are zero for {', '.join(deaf)}: what comes in there changes nothing.**\n" if deaf else
               "No modality's gates are all zero: this model can hear and see what it has adapters for.\n")
    return f"""---
{yaml.safe_dump(head, sort_keys=True, allow_unicode=True)}---
# {_TITLES.get(config.name, config.name)}

{notes.strip() or "Weights of a multi-modal music model on LLaMA-2."}

- Size: {config.layers} layers of {config.dim}, {config.heads} heads; {config.vocabulary} tokens, and \
{config.audio_tokens} for audio.
- Takes: {", ".join(one.name for one in config.modalities)}, by a prefix of {config.prefix_rows} rows \
({config.prefix_layout}).
- Music decoder: {speaks}.
- Base: {_named(base) if base else "in this folder (`base-*.safetensors`)"}. Its licence goes for these weights too.
- Encoders: {"; ".join(f"{name}: {_named(one)}" for name, one in sorted(encoders.items())) or "not named"}.
- Trained: {", ".join(trained) or "not said"}.
- Largest |tanh(gate)|: {told}.

{warning}
| file | tensors | bytes |
|---|---|---|
{rows}

Load with `training.pretrained.load`, or write the published format with `training.checkpoint.write_published`.
Made with {", ".join(f"{name} {version}" for name, version in sorted(made_with.items()))}.
"""


def _named(source: Mapping[str, str]) -> str:
    return f"{source['id']} at {source.get('revision') or 'no named revision'}"

"""The small ViViT of `make learn`."""
import numpy as np
import torch
from datasets import Dataset, Features, Value, Video

from benchmarks.learning import eyes
from tests.training import corpus
from training import encoders, frozen
from training.config import m2ugen


def test_of_all_tubelets_it_learns_upon_what_the_encoder_says(monkeypatch) -> None:
    """Cut, placed and scaled as ViViT's own embeddings have them."""
    monkeypatch.setattr(eyes, "_KEPT", 3136)
    torch.manual_seed(0)
    model = eyes._model().eval()
    torch.nn.init.normal_(model.embeddings.position_embeddings, std=0.5)
    media = [corpus.media("video", number) for number in (1, 2)]
    films = Dataset.from_dict({"video": [{"bytes": one, "path": None} for one in media]},
                              features=Features({"video": Video(decode=False)}))
    watching = encoders.debug()
    watching.video = model
    wanted = []
    for one in media:
        item = frozen.decode("video", one)
        frames = np.frombuffer(item["pixels"], np.uint8).reshape(item["count"], item["height"], item["width"], 3)
        wanted.append(watching.watch([encoders.Image.fromarray(frame) for frame in frames]).mean(0))
    with torch.no_grad():
        found = eyes._seen(model, *eyes._tubelets(films, np.random.default_rng(0)))
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-3, atol=1e-3)
    assert (found[0] - found[1]).abs().max() > 0.05


def test_it_gives_what_the_debug_size_takes() -> None:
    config, video = eyes._model().config, next(one for one in m2ugen("debug").modalities if one.name == "video")
    deep, high, wide = config.tubelet_size
    tokens = 1 + config.num_frames // deep * (config.image_size // high) * (config.image_size // wide)
    assert (tokens, config.hidden_size) == (video.tokens, video.width)


def test_what_a_caption_does_not_tell_is_not_learnt() -> None:
    words = {"colour": ["blue", "red"], "motion": ["quick"]}
    told = [{"colour": "red"}, {"motion": "quick", "colour": "blue"}, {"colour": "green"}]
    assert eyes._numbered(told, words).tolist() == [[1, -1], [0, 0], [-1, -1]]
    films = Dataset.from_dict({"video_caption": ["In this video, most of it is red. The movement is quick."]},
                              features=Features({"video_caption": Value("string")}))
    assert eyes._told(films) == [{"colour": "red", "motion": "quick"}]

"""What a card says of a dataset besides its numbers: leakage, limitations, rights."""
from collections.abc import Iterator, Sequence

from captioners import measured, template

_RIGHTS = {
    "sample": "The project synthesised the music, pictures and films itself, from numbers: they hold no recording of "
              "anybody's, and no third party has rights in them.",
    "folder": "The music, pictures and films are files of whoever made this dataset, who answers for the right to "
              "use and to publish them.",
    "audioset": "The music, pictures and films belong to those who made and uploaded them, under terms of their own, "
                "which nothing here changes: who uses them must have the right to. AudioSet's lists are Google's, "
                "under CC BY 4.0."}


def leakage(made: dict) -> str:
    """How it is made sure that nothing of the evaluation is trained on; `made` as in stats.json."""
    alone = ", and by another to one dataset" if made["assignment"] == "disjoint" else ", the same in every dataset"
    return (f"A source (a video or file) belongs to one split{alone}, by a hash of its id, drawn before anything was "
            f"fetched (assignment: {made['assignment']}). No pair crosses splits, and no recording is in both: of "
            "copies, found by fingerprints among all clips of the build, the one in eval was kept. Videos of "
            "AudioSet's evaluation list and of MusicCaps are in no training split. An empty split is left out.")


def limitations(datasets: Sequence[str], made: dict) -> Iterator[str]:
    """What does not hold, a sentence or two each."""
    who = made["captioners"]
    if made["source"] == "sample":
        yield "The clips are synthetic, short and few in kind: good to try software with, not to learn music from."
    if who["music"] == measured.NAME:
        yield ("Captions say what was measured, in words, and nothing else: tempo, key, tone, level, dynamics, "
               "percussiveness, density, register. No instrument, genre, mood or voice is named.")
    else:
        yield ("Captions of music are a model's. They may name what is not there; only what they say of tempo, key, "
               "mode and percussion was held against measurements (`agreement`), and that is the only check of truth.")
    yield ("Tempo and key are estimates, the best guess even where `tempo_confidence` and `key_confidence` are low. "
           "Wrong tempi are mostly half or double, wrong keys mostly relative ones. How often either is right on real "
           "music was not measured, for want of music with known answers.")
    for kind, looks in (("image", "colours and light"), ("video", "colours, light and movement")):
        if f"mu{kind}" in datasets:
            how = f"{looks}; no object or person" if who[kind] == measured.NAME else "what a model saw, unchecked"
            yield (f"Captions of {kind}s tell {how}. That {kind} and music come of one clip is all that says that "
                   "they fit.")
    if set(datasets) - {"mucaps"}:
        yield ("Conversations are written by a grammar: true to the captions, but alike in form, with few turns of "
               "phrase." if who["instruct"] == template.NAME else
               "Conversations are a language model's, from captions alone: their form was checked, not their truth.")
    if "muedit" in datasets:
        yield ("MUEdit's pairs are two different pieces of like tempo, key and level, not one piece edited: no edit "
               "leads from one to the other. Its tempo and pitch edits are of the clip itself, and sound stretched.")
    if not made["tagger"]:
        yield "Music was told from noise by its sound alone: what has tones, such as sirens or birds, may be among it."
    yield "Copies of a recording are found within one build; covers, live versions and remixes are not copies."
    yield "All texts are English, written by machines; no person has read them."


def rights(source: str, embed: str, repo: str | None) -> str:
    """Whose the media are, and how a row is taken down; `repo` is None for a dataset in a folder."""
    held = ("Media are embedded here." if embed == "media" else "No media are here: rows hold ids, times, captions, "
            "conversations and measurements.")
    ask = (f"To have something removed, name its `source_id` in a [discussion](https://huggingface.co/datasets/{repo}/"
           "discussions) of this repository. Its" if repo else
           "`make takedown IDS=FILE`, with a `source_id` a line, removes sources. Their")
    return (f"{held} {_RIGHTS[source]}\n\n{ask} rows then leave every dataset, pairs that use it included, and no "
            "later build brings them back. A repository of the Hub keeps its earlier revisions, with what was in "
            "them, unless its history is squashed: the changes below say of each takedown which was done. Copies "
            "that others have made, and models trained on the rows, are out of reach.")

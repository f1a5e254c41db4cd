"""MUEdit: music, an instruction to change it, and the music that results (M²UGen, arXiv 2311.11255, section 4.2).

`edit` = "pair": two clips of similar rhythm, found by their measurements (pairing.match). "tempo" and "pitch": the
target is the clip itself, stretched or shifted (pairing.edits), as in the authors' later work; `amount` tells how far.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from datasets import Audio, Features, Value

from manifests import splits
from pairing import edits
from pipelines import caption, check, columns, edit, instruct, pairs
from pipelines.lines import Line
from pipelines.options import Options
from pipelines.stage import Stage
from pipelines.work import CLIP, Work

NAME = "muedit"
TITLE = "MUEdit"
ABOUT = ("Pairs of music clips and a conversation that asks to make the second of the first "
         "(M²UGen, arXiv 2311.11255, section 4.2).")
TASK = "audio-to-audio"  # in the Hub's words
VERSION = 1
_MEASURED = {"duration": "float64", "tempo": "float64", "tempo_confidence": "float64", "key": "string",
             "mode": "string", "key_confidence": "float64", "loudness": "float64"}
PARTS = {"clip": columns.AUDIO, "target": columns.AUDIO,
         **dict.fromkeys(("measurement", "target_measurement"), tuple(_MEASURED)),
         **dict.fromkeys(("caption", "target_caption"), columns.CAPTION),
         **dict.fromkeys(("check", "target_check"), columns.AGREEMENT), "instruction": columns.INSTRUCTION}
_EDITED = ("edit", "edit-caption", "edit-check")
STAGES = (*_EDITED, "instruct-muedit")


@dataclass(frozen=True)
class _Try:
    """A row to be. `other`: the clip that is its target, where that is one."""
    id: str
    clip: str
    edit: str
    amount: float | None = None     # tempo: ratio; pitch: semitones
    other: str | None = None
    distance: float | None = None   # of a pair

    def target(self, stage: str) -> tuple[str, str]:
        """Where a stage has what it made of the target."""
        if self.other:
            return stage, self.other
        return ("edit" if stage in ("fetch", "measure") else f"edit-{stage}"), self.id


def stages(options: Options, floor: Mapping[str, Stage]) -> list[Stage]:
    edited = edit.stage(options.limits)
    return [edited, caption.stage("edit-caption", "music", options),
            check.stage(options.drop_contradictions, "edit-check"),
            instruct.stage(NAME, options, ("source", "target"), ("measurement", "target_measurement"))]


def lines(work: Work, keys: list[str]) -> Iterator[Line]:
    good = work.done(keys, CLIP)
    for key in sorted(set(keys) - set(good)):
        yield Line(key, key, None, *work.fate(key, CLIP))
    found, alone = _partners(work, good)
    for key, why in alone.items():
        yield Line(key, key, None, "no_pair", why)

    derived = [one for key in good for one in _derived(key, work.options)]
    work.ask([work.stages["edit"]],
             {one.id: work.row(one.id, {"clip": ("fetch", one.clip), "measurement": ("measure", one.clip)},
                               edit=one.edit, amount=one.amount) for one in derived})
    made = work.done([one.id for one in derived], ("edit",))
    work.ask([work.stages["edit-caption"]],
             caption.rows(work, "edit-caption", made, clip="edit", measurement="edit"))
    made = work.done(made, _EDITED[:2])
    work.ask([work.stages["edit-check"]],
             {key: work.row(key, {"caption": ("edit-caption", key), "measurement": ("edit", key)}) for key in made})

    made = set(work.done(made, _EDITED))
    tries = [*found, *(one for one in derived if one.id in made)]
    work.ask([work.stages["instruct-muedit"]],
             {one.id: work.row(one.id, {"source": ("caption", one.clip), "target": one.target("caption"),
                                        "measurement": ("measure", one.clip),
                                        "target_measurement": one.target("measure")},
                               given={"edit": one.edit, "amount": one.amount}) for one in tries})
    for one in [*found, *derived]:
        yield Line(one.id, one.clip, one.other,
                   *work.fate(one.id, (*(() if one.other else _EDITED), "instruct-muedit")),
                   {"clip": ("fetch", one.clip), "target": one.target("fetch"),
                    "measurement": ("measure", one.clip), "target_measurement": one.target("measure"),
                    "caption": ("caption", one.clip), "target_caption": one.target("caption"),
                    "check": ("check", one.clip), "target_check": one.target("check"),
                    "instruction": ("instruct-muedit", one.id)},
                   {"edit": one.edit, "amount": one.amount, "distance": one.distance})


def _partners(work: Work, keys: list[str]) -> tuple[list[_Try], dict[str, str]]:
    """Pairs, in one direction (whichever a hash says) or both; and the clips that have none, with why."""
    options = work.options
    if options.pairing is None:
        return [], {}
    found, alone = pairs.find(options.out, keys, work.index["measure"],
                              {key: work.segments[key]["source_id"] for key in keys}, work.split,
                              {key: key for key in keys}, options.pairing, options.pipeline)
    tries = []
    for pair in found:
        ways = [(pair.a, pair.b), (pair.b, pair.a)]
        if splits.fraction(f"{pair.a}~{pair.b}", "direction") < 0.5:
            ways.reverse()
        # "~" is in no id: a row's id tells its clips.
        tries += [_Try(f"{a}~{b}", a, "pair", None, b, pair.distance)
                  for a, b in (ways if options.both_directions else ways[:1])]
    return tries, alone


def _derived(key: str, options: Options) -> list[_Try]:
    def name(kind: str, amount: float) -> str:
        return f"{kind}-{amount:g}" if kind == "tempo" else f"{kind}-{'up' if amount > 0 else 'down'}-{abs(amount):g}"
    # "@" is in no id either, and in no pair's.
    return [_Try(f"{key}@{name(kind, amount)}", key, kind, amount)
            for kind, amount in edits.chosen(key, options.tempo_edits, options.pitch_edits)]


def features() -> Features:
    """Columns of a row. `amount`: of "tempo" a ratio, of "pitch" semitones; `distance`: pairing.match's, of "pair"."""
    measured = Features({f"{prefix}{name}": Value(kind) for prefix in ("", "target_")
                         for name, kind in _MEASURED.items()})
    return Features({"id": Value("string"), "source_id": Value("string"), "target_source_id": Value("string"),
                     "edit": Value("string"), "amount": Value("float64"), "distance": Value("float64"),
                     "audio": Audio(), "target_audio": Audio(), **columns.instruction(), **measured,
                     **columns.texts(columns.CAPTION), **columns.agreement(),
                     **columns.texts(columns.CAPTION, "target_"), **columns.agreement("target_")})


def row(row: Mapping) -> dict:
    return {**{name: row[name] for name in ("id", "source_id", "target_source_id", "edit", "amount", "distance")},
            "audio": columns.media(row["id"], row["clip"]["audio"], row["clip"]["audio_format"]),
            "target_audio": columns.media(f"{row['id']}.target", row["target"]["audio"],
                                          row["target"]["audio_format"]),
            **row["instruction"], **row["measurement"],
            **{f"target_{name}": row["target_measurement"][name] for name in _MEASURED},
            **columns.captioned(row["caption"], row["check"]),
            **columns.captioned(row["target_caption"], row["target_check"], "target_")}

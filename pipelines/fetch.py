"""fetch: from what a source lists to the clip store. Done once per id and revision, whatever the code's version."""
from collections.abc import Iterable
from functools import partial

from manifests import records
from pipelines import audioset, folder, sample, sandbox
from pipelines.clips import clip
from pipelines.options import Options
from pipelines.stage import Stage


def segments(options: Options) -> Iterable[dict]:
    """Rows of records.SEGMENT: every clip that the build is asked for, each id once."""
    if options.source == "audioset":
        return audioset.segments(options.audioset, options.datasets, options.assignment, options.limit)
    if options.source == "folder":
        return folder.segments(options.media, options.limit, options.max_bytes, options.out)
    return ({"id": key, "source_id": key, "uri": key, "start": None, "end": None, "video": True,
             "revision": str(sample.VERSION)} for key in sample.ids(options.seed, options.limit))


def serves(segment: dict, dataset: str, options: Options) -> bool:
    """Whether the clip is of the span that the dataset is made from."""
    return options.audioset is None or options.audioset.serves(segment, dataset)


def stage(options: Options) -> Stage:
    if options.source == "audioset":
        each = audioset.Fetcher(options.audioset, options.limits, options.out)
        return Stage("fetch", options.source, records.CLIP, each, most=audioset.MOST,
                     lanes=options.audioset.fetchers)
    if options.source == "folder":
        each = partial(sandbox.call, partial(folder.fetch, max_bytes=options.max_bytes), limits=options.limits)
    else:
        each = _from_sample
    # No version: what was fetched is never fetched again because code changed.
    return Stage("fetch", options.source, records.CLIP, each)


def _from_sample(segment: dict) -> dict:
    return clip(segment, sample.render(segment["uri"]))

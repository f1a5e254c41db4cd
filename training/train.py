"""One stage of training, top to bottom: where it begins, on what, the steps, and what is saved.

RUN/stageN/ holds `model`, the result, with which the next stage begins; `checkpoints`, from which a killed run goes on
and ends with the same weights, bit for bit on a CPU; `data`, the stage's rows as tokens, and which could not be used;
`tensorboard`; and run.json. Processes that torchrun started share each step's rows: the loss that is descended is the
mean over a step's samples, however many processes and micro-batches they are dealt to.
"""
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from manifests import storage
from manifests.messages import shown
from training import (
    beginning,
    checkpoint,
    cost,
    features,
    folders,
    frozen,
    mixture,
    parallel,
    samples,
    stages,
    state,
    step,
)
from training.beginning import Beginning
from training.examples import Samples
from training.features import Features
from training.feed import Feed, Online, Precomputed
from training.frozen import Frozen
from training.meter import Meter
from training.mixture import Prepared
from training.parallel import Processes
from training.settings import Settings
from training.step import Steps


def train(settings: Settings) -> dict:
    """Do the stage, or what is left of it; returns what run.json says.

    Raises ValueError and OSError for input that is wrong or gone, and Stopped where training cannot go on.
    """
    with ExitStack() as ends:
        here = ends.enter_context(parallel.processes(settings.device))
        ends.enter_context(step.room(settings))
        if settings.size == "debug" and here.device.type == "cpu":
            torch.set_num_threads(1)  # small products gain nothing by a second, and the cores then change no sum
        say = partial(print, flush=True) if here.first else lambda *_: None
        folder = beginning.folder(settings.run, settings.stage.number)
        begin = beginning.find(settings.run, settings.stage.number, settings.size, settings.music_decoder,
                               settings.llama, settings.seed, settings.recipe)
        here.led(lambda: ends.enter_context(_alone(folder)))
        identity = settings.identity() | {"begins": begin.revision}
        _history(folder / "run.json", identity)  # before another training's data would be written over
        there = features.opened(settings.sources.out)
        settings.sources.check(settings.stage.data, there)
        here.led(lambda: mixture.prepare(folder / "data", settings.stage, settings.sources, beginning.words(begin),
                                         settings.longest, there))
        data = mixture.opened(folder / "data")
        identity["data"] = data.about["content"]
        history = _history(folder / "run.json", identity)
        if history.get("ended") and (folder / beginning.MODEL).is_dir():
            if here.first:
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a run that was killed at its very end
            say(f"{folder}: stage {settings.stage.number} is trained already: {_told(history['validation'])}")
            return history

        encoders, models = _encoders(settings, begin, data, there)
        identity["encoders"] = {kind: _which(model) for kind, model in encoders.items()}
        here.agreed(identity, "data and settings")
        _history(folder / "run.json", identity)
        say(f"stage {settings.stage.number}: {begin.told()}")
        if models:
            say("features: not in OUT, or not all that are needed, so everything is encoded here, in each epoch again; "
                "`make features` does it once" + ("" if storage.local_path(settings.sources.out) else
                                                  ", and is read from a disk of this machine: copy OUT there"))
        elif encoders:
            say("features: as `make features` has stored them")
            here.led(lambda: [there[kind].check() for kind in encoders])
        reader = Online(settings.sources, models, here.device) if models else Precomputed(there)
        model = beginning.model(begin, settings.recipe, settings.dtype, here.device, settings.seed)
        trained = stages.train(model, settings.stage, settings.recipe, settings.freeze_gates)
        beginning.lighten(model, settings.dtype)
        model.train()
        parts = [part for part in stages.PARTS if any(stages.part(name) == part for name in trained.parameters)]
        optimizer = torch.optim.AdamW(trained.groups, betas=settings.stage.betas)
        work = Steps(settings, here, model, step.wrapped(model, settings, here), trained, parts, optimizer)
        done, validation = _resumed(folder, identity, trained, optimizer, here)

        micro = min(settings.micro, max(1, settings.batch // here.world))  # or some would have nothing to do
        sharing = {"rows": settings.batch, "micro": micro, "rank": here.rank, "world": here.world}
        feed = Feed(data.train, reader, budget=settings.pack, weights=settings.stage.data, seed=settings.seed,
                    **sharing)
        held_out = Feed(data.eval, reader, **sharing)
        ends_at = list(accumulate(feed.steps(epoch) for epoch in range(settings.stage.epochs)))
        steps = ends_at[-1]
        if not steps:
            raise ValueError(f"{settings.stage.epochs} epochs of the weights {dict(settings.stage.data)} hold no row: "
                             "give larger --weights")

        say(f"trains {', '.join(stages.PARTS[part] for part in parts)}"
            f" ({sum(one.numel() for one in trained.parameters.values()):,} numbers; recipe {settings.recipe})"
            + ("; the gates stay shut (--freeze-gates): nothing is heard" if settings.freeze_gates else ""))
        say(data.told())
        say(_memory(settings, begin, data.train, parts, micro, here))
        say(f"{settings.stage.epochs} epochs, {steps} steps of {settings.batch} rows, {identity['dtype']}, on {here}"
            + (f"; goes on behind step {done}" if done else ""))
        board = None
        if here.first:
            board = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else 0)
            ends.callback(board.close)
        card = torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else "cpu"
        meter = Meter(cost.peak(card), here.device)
        unreadable = dict(history.get("unreadable", {}))

        def record(ended: bool = False) -> dict:
            unreadable.update(here.united({**held_out.lost, **feed.lost}))
            told = {"ended": ended, "identity": identity, "step": done, "steps": steps, "validation": validation,
                    "trained": parts, "begins": begin.told(), "encoders": encoders, "data": data.about,
                    "unreadable": unreadable, "processes": here.world, "device": card}
            if here.first:
                storage.write_json(str(folder / "run.json"), told)
            return told

        def validate(epoch: int) -> None:
            if len(data.eval):
                with meter.paused():
                    validation.append({"epoch": epoch, "step": done, **work.validate(held_out, data.eval.datasets)})
                say(f"validation {f'after epoch {epoch}' if epoch else 'before the first step'}: {_told(validation)}")
                last = validation[-1]
                _write(board, {f"validation/{name}": last[name] for name in ("text", "music")}, done)
                _write(board, {f"validation_text/{name}": value for name, value in last["by_dataset"].items()}, done)

        def save() -> None:
            with meter.paused():
                if here.first:
                    board.flush()  # what is before the checkpoint is not done again
                    tensors = state.of_optimizer(trained.parameters, optimizer) | state.random_states()
                    state.save(folder / "checkpoints", done, tensors,
                               {"identity": identity, "validation": validation}, settings.keep)
                here.wait()

        interrupted = ends.enter_context(step.deferred())
        if not done:
            validate(0)
            record()
        for epoch, end in enumerate(ends_at):
            if done >= end:
                continue
            with closing(feed.epoch(epoch, start=done - (ends_at[epoch - 1] if epoch else 0))) as coming:
                while done < end:
                    with meter.waiting():
                        micros = next(coming)
                    rate = settings.stage.rate_at(done, steps)
                    meter.stepped(work.step(done + 1, micros, rate, meter), rate)
                    done += 1
                    if done % settings.log_every == 0 or done == steps:
                        reading = meter.read()
                        say(f"epoch {epoch + 1}/{len(ends_at)}, step {done}/{steps}: {reading.line()}")
                        _write(board, reading.scalars(), done)
                    if done == end:
                        validate(epoch + 1)
                        record()
                    if done == end or done % settings.save_every == 0 or interrupted():
                        save()
                    if interrupted():
                        raise KeyboardInterrupt

        if here.first:
            said = beginning.told(settings.stage.number, settings.recipe, parts)
            checkpoint.save(folder / beginning.MODEL, begin.config, model.state_dict(), base=begin.base,
                            encoders={**begin.encoders, **encoders}, trained=[*begin.trained, said],
                            notes=f"M²UGen after stage {settings.stage.number} of training. {_told(validation)}",
                            whole_embeddings=settings.recipe == "released", replace_old=True)
        told = record(ended=True)
        if here.first:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        if unreadable:
            say(f"{len(unreadable)} samples could not be read, and were left out: "
                + "; ".join(f"{shown(name)}: {shown(why)}" for name, why in list(unreadable.items())[:10]))
        say(f"{folder / beginning.MODEL}: the model after stage {settings.stage.number}")
        here.wait()
        return told


def _encoders(settings: Settings, begin: Beginning, data: Prepared,
              there: Mapping[str, Features]) -> tuple[dict[str, dict], dict[str, Frozen]]:
    """What encodes each kind that samples need, as a checkpoint names it; and the models, where features are not there.

    Raises ValueError where it is not what it was in the stages before, nor what was asked for.
    """
    kinds = frozenset().union(*(samples.kinds(settings.stage.number, name) for name in data.train.datasets))
    online = not kinds <= set(there)
    asked = kinds if online else {kind for kind in kinds if settings.frozen.get(kind)}
    models = frozen.choose(begin.config, settings.frozen, asked) if asked else {}
    found = {}
    for kind in sorted(kinds):
        about = models[kind].about() if online else there[kind].about
        shape = list(frozen.shapes(begin.config)[kind])
        if about["shape"] != shape:
            raise ValueError(f"{settings.sources.out}: its features of {kind} are {about['shape']}, by "
                             f"{about['model']}, and this model takes {shape}; make features with the same SIZE and "
                             "DECODER")
        if kind in models and _which(about) != _which(models[kind].about()):
            raise ValueError(f"{settings.sources.out}: its features of {kind} are by {_at(about)}, and not by "
                             f"{settings.frozen[kind]}; make features with that model")
        found[kind] = {"id": about["model"], **about}
        if _which(before := begin.encoders.get(kind, about)) != _which(about):
            raise ValueError(f"{kind} was encoded by {_at(before)} in a stage before, and is by {_at(about)} now; take "
                             "the same")
    return found, models if online else {}


def _which(model: Mapping) -> dict:
    """What its numbers depend on: where a hash tells of the files, their name does not."""
    names = {"id", "model"} if model["revision"] else {"id"}
    return {name: value for name, value in model.items() if name not in names}


def _at(model: Mapping) -> str:
    return " at ".join(filter(None, (model["model"], model["revision"])))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else trains here, and what a process left that was killed while it saved is gone."""
    with ExitStack() as ends:
        try:
            ends.enter_context(storage.lock(str(folder)))
        except BlockingIOError:
            raise ValueError(f"{folder}: another training is at work here; wait for it, or take another RUN") from None
        folders.sweep(folder)
        yield


def _resumed(folder: Path, identity: Mapping, trained: stages.Trained, optimizer: torch.optim.Optimizer,
             here: Processes) -> tuple[int, list[dict]]:
    """Steps that are done already, and what validation gave; parameters and optimiser are then as they were."""
    found: list = []
    here.led(lambda: found.append(state.newest(folder / "checkpoints")))
    done = here.told(found[0][0] if found and found[0] else 0)
    if not done:
        return 0, []
    tensors, about = found[0][1:] if found else state.load(folder / "checkpoints", done)
    _same(folder, about["identity"], identity)
    state.into_optimizer(tensors, trained.parameters, optimizer)
    state.set_random_states(tensors)
    return done, about["validation"]


def _history(path: Path, identity: Mapping) -> dict:
    """What an earlier run in this folder left in run.json."""
    if not path.exists():
        return {}
    found = storage.read_json(str(path))
    _same(path.parent, found.get("identity", {}), identity)
    return found


def _same(folder: Path, before: Mapping, now: Mapping) -> None:
    """Raises ValueError, naming what differs, where another training lies in the folder."""
    unlike = [name for name in now if before.get(name) != now[name]]
    if unlike:
        told = "; ".join(f"{name}: {before.get(name)}, now {now[name]}" for name in unlike)
        raise ValueError(f"{folder}: holds a training with other settings or data ({told}); take the same ones, take "
                         "another RUN, or remove the folder to begin anew")


def _memory(settings: Settings, begin: Beginning, data: Samples, parts: Sequence[str], micro: int,
            here: Processes) -> str:
    """Of one device, for the largest micro-batch that can come."""
    longest = settings.pack or int(data.lengths.max())
    samples_of_row = max(1, round(settings.pack / float(data.lengths.mean()))) if settings.pack else 1
    heard = {one.name: micro * samples_of_row for one in begin.config.modalities}
    work = cost.Work([longest] * micro, heard, 0 if settings.stage.number == 1 else micro * samples_of_row,
                     masked=micro * (settings.pack or 0) ** 2)
    needed = cost.needed(begin.config, parts, work, dtype=settings.dtype, checkpointing=settings.checkpointing,
                         kept=frozenset().union(*stages.TRAINED[settings.recipe].values()))
    buckets = needed.gradients if here.world > 1 else 0  # in which processes add them up
    total, there = needed.total + buckets, here.memory()
    return (needed.line() + (f", and {cost.gib(buckets)} to add up gradients" if buckets else "")
            + (f"; there are only {cost.gib(there)}: take a smaller --micro, or --checkpointing" if total > there
               else ""))


def _told(validation: Sequence[Mapping]) -> str:
    if not validation:
        return "no row is held out for validation"
    last = validation[-1]
    each = ", ".join(f"{name} {value:.4f}" for name, value in sorted(last["by_dataset"].items()))  # as JSON has them
    return f"CE {last['text']:.4f} ({each})" + ("" if last["music"] is None else f", MSE {last['music']:.4f}")


def _write(board: SummaryWriter | None, scalars: Mapping[str, float | None], at: int) -> None:
    for name, value in scalars.items():
        if board and value is not None:
            board.add_scalar(name, value, at)

"""One stage of training, top to bottom: where it begins, on what, the steps, and what is saved.

RUN/stageN/ holds `model`, the result, with which the next stage begins; `checkpoints`, from which a killed run goes on
and ends with the same weights, bit for bit on a CPU; `data`, the stage's rows as tokens, and which could not be used;
`tensorboard`; and run.json. Processes that torchrun started share each step's rows: the loss that is descended is the
mean over a step's samples, however many processes and micro-batches they are dealt to.
"""
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from manifests import storage
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
        say = print if here.first else lambda *_: None
        folder = beginning.folder(settings.run, settings.stage.number)
        if here.first:
            ends.enter_context(storage.lock(str(folder)))
            folders.sweep(folder)  # a model that was being saved as its process was killed

        begin = beginning.find(settings.run, settings.stage.number, settings.size, settings.music_decoder,
                               settings.llama, settings.seed)
        identity = settings.identity() | {"begins": begin.revision}
        _history(folder / "run.json", identity)  # before another training's data would be written over
        there = features.opened(settings.sources.out)
        if here.first:
            mixture.prepare(folder / "data", settings.stage, settings.sources, beginning.words(begin),
                            settings.longest, there)
        here.wait()
        data = mixture.opened(folder / "data")
        identity["data"] = data.about["content"]
        history = _history(folder / "run.json", identity)
        if history.get("ended"):
            say(f"{folder}: stage {settings.stage.number} is trained already: {_told(history['validation'])}")
            return history

        say(f"stage {settings.stage.number}: {begin.told()}")
        reader, encoders = _reader(settings, begin, data, there, here, say)
        model = beginning.model(begin, settings.recipe, settings.dtype, here.device, settings.seed)
        trained = stages.train(model, settings.stage, settings.recipe, settings.freeze_gates)
        beginning.lighten(model, settings.dtype)
        model.train()
        parts = [part for part in stages.PARTS if any(stages.part(name) == part for name in trained.parameters)]
        optimizer = torch.optim.AdamW(trained.groups, betas=settings.stage.betas)
        work = Steps(settings, here, model, step.wrapped(model, settings, here), trained, parts, optimizer)
        done, validation = _resumed(folder, identity, trained, optimizer, here)

        sharing = {"rows": settings.batch, "micro": settings.micro, "rank": here.rank, "world": here.world}
        feed = Feed(data.train, reader, budget=settings.pack, weights=settings.stage.data, seed=settings.seed,
                    **sharing)
        held_out = Feed(data.eval, reader, **sharing)
        ends_at = [feed.steps(epoch) for epoch in range(settings.stage.epochs)]
        for epoch in range(1, len(ends_at)):
            ends_at[epoch] += ends_at[epoch - 1]
        steps = ends_at[-1]

        say(f"trains {', '.join(stages.PARTS[part] for part in parts)}"
            f" ({sum(one.numel() for one in trained.parameters.values()):,} numbers; recipe {settings.recipe})"
            + ("; the gates stay shut (--freeze-gates): nothing is heard" if settings.freeze_gates else ""))
        say(data.told())
        say(_memory(settings, begin, data.train, parts, here))
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
                _write(board, {f"validation/{name}": validation[-1][name] for name in ("text", "music")}, done)

        def save() -> None:
            with meter.paused():
                if here.first:
                    board.flush()  # what is before the checkpoint is not done again
                    tensors = state.of_optimizer(trained.parameters, optimizer) | state.random_states()
                    state.save(folder / "checkpoints", done, tensors,
                               {"identity": identity, "validation": validation}, settings.keep)
                here.wait()

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
                    if done == end or done % settings.save_every == 0:
                        save()

        if here.first:
            said = f"stage {settings.stage.number} ({settings.recipe}): {', '.join(parts)}"
            checkpoint.save(folder / beginning.MODEL, begin.config, model.state_dict(), base=begin.base,
                            encoders={**begin.encoders, **encoders}, trained=[*begin.trained, said],
                            notes=f"M²UGen after stage {settings.stage.number} of training. {_told(validation)}",
                            whole_embeddings=settings.recipe == "released", replace_old=True)
        told = record(ended=True)
        if here.first:
            shutil.rmtree(folder / "checkpoints")
        if unreadable:
            say(f"{len(unreadable)} samples could not be read, and were left out: "
                + "; ".join(f"{name}: {why}" for name, why in list(unreadable.items())[:10]))
        say(f"{folder / beginning.MODEL}: the model after stage {settings.stage.number}")
        here.wait()
        return told


def _reader(settings: Settings, begin: Beginning, data: Prepared, there: Mapping[str, Features], here: Processes,
            say: Callable[[str], None]) -> tuple[Precomputed | Online, dict[str, dict]]:
    """What samples hear and aim at: from `make features`, or encoded here; and by which models, kind by kind."""
    kinds = frozenset().union(*(samples.kinds(settings.stage.number, name) for name in data.train.datasets))
    missing = sorted(kinds - set(there))
    chosen = frozen.choose(begin.config, settings.frozen) if missing else {}
    about = {kind: chosen[kind].about() if missing else there[kind].about for kind in sorted(kinds)}
    for kind, model in about.items():
        shape = list(frozen.shapes(begin.config)[kind])
        if model["shape"] != shape:
            raise ValueError(f"{settings.sources.out}: its features of {kind} are {model['shape']}, by "
                             f"{model['model']}, and this model takes {shape}; make features with the same SIZE and "
                             "DECODER")
        if (before := begin.encoders.get(kind)) and before != _named(model):
            raise ValueError(f"{kind} was encoded by {before['id']} at {before['revision']} in the stage before, "
                             f"and is by {model['model']} at {model['revision']} now; take the same")
    if not missing:
        say("features: as `make features` has stored them")
        return Precomputed(there), {kind: _named(model) for kind, model in about.items()}
    say(f"features of {', '.join(missing)} are not in OUT: everything is encoded here, in each epoch again; `make "
        "features` does it once")
    return (Online(settings.sources, {kind: chosen[kind] for kind in kinds}, here.device),
            {kind: _named(model) for kind, model in about.items()})


def _named(model: Mapping) -> dict:
    """As checkpoint.save names encoders."""
    return {"id": model["model"], **model}


def _resumed(folder: Path, identity: Mapping, trained: stages.Trained, optimizer: torch.optim.Optimizer,
             here: Processes) -> tuple[int, list[dict]]:
    """Steps that are done already, and what validation gave; parameters and optimiser are then as they were."""
    if here.first:
        state.newest(folder / "checkpoints")  # removes what a killed run left, which the others must not meet
    here.wait()
    found = state.newest(folder / "checkpoints")
    if found is None:
        return 0, []
    done, tensors, about = found
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


def _memory(settings: Settings, begin: Beginning, data: Samples, parts: Sequence[str], here: Processes) -> str:
    """Of one device, for the largest micro-batch that can come."""
    longest = settings.pack or int(data.lengths.max())
    heard = {one.name: settings.micro for one in begin.config.modalities}
    work = cost.Work([longest] * settings.micro, heard, settings.micro if "projector" in parts else 0,
                     masked=settings.micro * (settings.pack or 0) ** 2)
    needed = cost.needed(begin.config, parts, work, dtype=settings.dtype, checkpointing=settings.checkpointing,
                         kept=frozenset().union(*stages.TRAINED[settings.recipe].values()))
    there = here.memory()
    return needed.line() + (f"; there are only {cost.gib(there)}: take a smaller --micro, or --checkpointing"
                            if needed.total > there else "")


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

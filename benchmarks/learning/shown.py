"""The results of `make learn` as a table, and as a picture."""
from collections.abc import Iterator, Mapping
from pathlib import Path

KINDS = {"audio": "music", "image": "image", "video": "video"}
_CONTROLS = {"own": "its own", "other": "another's", "noise": "noise"}


def table(results: Mapping) -> str:
    """Markdown. Right of named, and what is right by chance; what is above it with its own medium alone is bold."""
    runs, seconds = results["runs"], results["seconds"]
    open_ = {name: run for name, run in runs.items() if "retrieval" in run}
    shut = {name: run for name, run in runs.items() if "retrieval" not in run}
    lines = [f"{results['limit']} clips, {results['held out']} held out; {results['machine']['cpu']}, "
             f"{results['machine']['cores']} cores; {seconds['all'] / 60:.1f} minutes.", "",
             "| phase | minutes | of these, on a core each |", "|---|---|---|"]
    parts = {"pipeline": [], "models and features": ["LLaMA", "MERT", "ViViT", "features"],
             "stages and evaluation": [name for name in seconds if name.startswith("seed ")]}
    lines += [f"| {name} | {seconds[name] / 60:.1f} | {', '.join(f'{one} {seconds[one] / 60:.1f}' for one in found)} |"
              for name, found in parts.items()]
    lines += ["", "Right of named (by chance, 95 %); bold is above it with its own medium alone.", "",
              *_summary(open_, shut), ""]
    for name, run in open_.items():
        frozen = next((one for label, one in shut.items() if label.startswith(f"{name},")), None)
        lines += [f"**{name}**: right of named (by chance, 95 %)", "",
                  "| | attribute | its own medium | another clip's | noise | gates shut |", "|---|---|---|---|---|---|"]
        for title, place, attribute in _attributes(run):
            cells = [_cell(_at(run, place, control, attribute)) for control in _CONTROLS]
            cells.append(_cell(_at(frozen or {}, place, "own", attribute)))
            mark = "**" if _heard(run, place, attribute) else ""
            lines.append(f"| {title} | {mark}{attribute}{mark} | {' | '.join(cells)} |")
        lines += ["", *(f"Retrieval {after}: of {found['asked']} captions' targets {found['first']} are the nearest of "
                        f"{found['candidates']} (by chance {found['low']}-{found['high']}); mean reciprocal rank "
                        f"{found['reciprocal rank']:.2f}." for after, found in run["retrieval"].items()),
                  "Audio tokens: " + "; ".join(f"{what} {_music(what, one)}" for what, one in run["music"].items())
                  + ".", ""]
    return "\n".join(lines)


def _summary(open_: Mapping[str, Mapping], shut: Mapping[str, Mapping]) -> Iterator[str]:
    """What is heard or seen from some seed, of all seeds side by side. With its gates shut a model is the LLaMA alone,
    the same from all of them."""
    heads = [head for name in open_ for head in (f"{name}: its own", "another's")]
    yield f"| | attribute | {' | '.join(heads)} | gates shut |"
    yield "|---" * (len(heads) + 3) + "|"
    counted = dict.fromkeys(one for run in open_.values() for one in _attributes(run))
    for title, place, attribute in counted:
        heard = [_heard(run, place, attribute) for run in open_.values()]
        if any(heard):
            cells = [cell for run, above in zip(open_.values(), heard, strict=True) for cell in (
                _cell(_at(run, place, "own", attribute), "**" if above else ""),
                _cell(_at(run, place, "other", attribute)))]
            cells.append(_cell(next((_at(run, place, "own", attribute) for run in shut.values()), None)))
            yield f"| {title} | {attribute} | {' | '.join(cells)} |"


def plot(results: Mapping, path: Path) -> None:
    """A panel for each kind of text and seed: how often each attribute is right, over what is so by chance."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    runs = {name: run for name, run in results["runs"].items() if "retrieval" in run}
    panels = list(dict.fromkeys(title for run in runs.values() for title, _, _ in _attributes(run)))
    figure, axes = pyplot.subplots(len(panels), len(runs), figsize=(6.4 * len(runs), 2.7 * len(panels)), squeeze=False)
    colours = {"own": "#1f5673", "other": "#c98b3c", "noise": "#9a9a9a", "shut": "#b4544b"}
    for column, (name, run) in enumerate(runs.items()):
        frozen = results["runs"].get(f"{name}, gates shut")
        for row, panel in enumerate(panels):
            axis = axes[row][column]
            shown = [(place, attribute) for title, place, attribute in _attributes(run) if title == panel]
            for at, (place, attribute) in enumerate(shown):
                bars = {control: _at(run, place, control, attribute) for control in _CONTROLS}
                bars["shut"] = _at(frozen or {}, place, "own", attribute)
                for offset, (control, one) in enumerate(bars.items()):
                    if not one or not one["named"]:
                        continue
                    x, share = at + (offset - 1.5) * 0.2, 1 / one["named"]
                    axis.bar(x, one["right"] * share, 0.18, color=colours[control])
                    axis.plot([x, x], [one["low"] * share, one["high"] * share], color="black", linewidth=1.2)
            axis.set_xticks(range(len(shown)), [attribute for _, attribute in shown], rotation=20, ha="right",
                            fontsize=8)
            axis.set_ylim(0, 1.05)
            axis.set_title(f"{panel}, {name}", fontsize=9, loc="left")
            axis.spines[["top", "right"]].set_visible(False)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    figure.legend([*handles, pyplot.Line2D([], [], color="black")],
                  ["with its own medium", "with another clip's", "with noise", "gates shut", "by chance (95 %)"],
                  loc="upper center", ncols=5, frameon=False, fontsize=9)
    figure.supylabel("share of the texts that name it in which it is right", fontsize=9)
    figure.tight_layout(rect=(0.01, 0, 1, 0.97))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _attributes(run: Mapping) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """What was counted: the panel, where in the run it is, and the attribute."""
    for stage in ("captions after stage 1", "captions after stage 3"):
        for kind, title in KINDS.items():
            for attribute in run.get(stage, {}).get(kind, {}).get("own", ()):
                yield f"{title} captions, {stage.partition(' ')[2]}", (stage, kind), attribute
    for attribute in run.get("answers", {}).get("own", ()):
        yield "answers about music", ("answers",), attribute


def _at(run: Mapping, place: tuple[str, ...], control: str, attribute: str) -> Mapping | None:
    for one in place:
        run = run.get(one, {})
    return run.get(control, {}).get(attribute)


def _heard(run: Mapping, place: tuple[str, ...], attribute: str) -> bool:
    """Above chance with its own medium, and with no other."""
    above = {control: bool(one) and one["right"] > one["high"]
             for control in _CONTROLS for one in [_at(run, place, control, attribute)]}
    return above == {"own": True, "other": False, "noise": False}


def _cell(one: Mapping | None, mark: str = "") -> str:
    return "" if one is None else f"{mark}{one['right']} of {one['named']} ({one['low']}-{one['high']}){mark}"


def _music(what: str, one: Mapping) -> str:
    return f"{one['music'] if what.endswith('request') else one['any']} of {one['asked']}"

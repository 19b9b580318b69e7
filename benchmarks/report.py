"""The figures as Markdown, which is also what the terminal shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.figures import Run, Series, Spread, Verdict, collect, judge, least, ratio, spread, targets
from benchmarks.peers import BY_NAME, PEERS
from benchmarks.task import NETWORKS


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown whose columns are aligned for the eye; all columns but the first to the right."""
    lines = [list(heading), *map(list, rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(heading))]

    def written(line: Sequence[str]) -> str:
        cells = [
            text.rjust(width) if at else text.ljust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = "|".join("-" * (width + 1) + (":" if at else "-") for at, width in enumerate(widths))
    return "\n".join([written(lines[0]), f"|{rule}|", *map(written, lines[1:])])


def number(value: float) -> str:
    """Three digits, as short as they can be."""
    return f"{value:.0f}" if value >= 100 else f"{value:.{2 if value >= 1 else 3}f}"


def shown(found: Spread | None) -> str:
    """A middle and its spread; a dash for what was not measured."""
    return "-" if found is None else f"{number(found.median)} ({number(found.low)}-{number(found.high)})"


def verdicts(series: Series) -> list[Verdict]:
    """Every target with what was measured."""
    return [judge(target, series) for target in targets()]


def targets_table(found: Sequence[Verdict]) -> str:
    """The targets: what was measured, the limit, and whether it was met."""
    rows = []
    for verdict in found:
        target, word = verdict.target, {None: "not measured", True: "met", False: "not met"}[verdict.met]
        best = f" ({verdict.under.split('/')[1]})" if len(target.under) > 1 and verdict.under else ""
        limit = f"at most {target.limit}" + (f", aim {target.aim}" if target.aim else "")
        bound = "-" if verdict.bound is None else number(verdict.bound)
        rows.append((target.what + best, shown(verdict.ratio), limit, word, bound))
    return table(("ratio of medians (spread within rounds)", "measured", "target", "", "the floor alone"), rows)


def network_table(series: Series, network: str) -> str:
    """Who needs how long on one network, the quickest epoch first, with the ratio to dlf."""
    titles = {peer.name: peer.title for peer in PEERS}
    titles |= {"floor": "floor: products and update alone", "dlf-everything": "dlf, strict float32, 5,000 held out"}

    def find(name: str, figure: str) -> Spread | None:
        values = series.get(f"{network}/{name}/{figure}")
        return spread(list(values.values())) if values else None

    epochs = {name: find(name, "floor" if name == "floor" else "epoch") for name in titles}
    dlf = series.get(f"{network}/dlf/epoch")
    rows = []
    for name, epoch in sorted(epochs.items(), key=lambda item: item[1] or Spread(0, 0, 0)):
        if epoch is None:
            continue
        own = series[f"{network}/{name}/{'floor' if name == 'floor' else 'epoch'}"]
        peak, accuracy = find(name, "peak_bytes"), find(name, "accuracy")
        rows.append(
            (
                titles[name],
                shown(epoch),
                number(ratio(own, dlf).median) if dlf else "-",
                *(shown(find(name, figure)) for figure in ("first_epoch", "first_step", "to_97")),
                f"{peak.median / 2**20:.0f}" if peak else "-",
                f"{accuracy.median:.2%}" if accuracy else "-",
            )
        )
    heading = ("", "s an epoch", "/ dlf", "first epoch", "first step", "to 97 %", "peak MiB", "test accuracy")
    return table(heading, rows)


def floor_line(series: Series, network: str) -> str:
    """The parts of the floor."""
    parts = {name: series.get(f"{network}/floor/{name}") for name in ("float32", "bfloat16", "update")}
    told = [f"{name} {number(spread(list(values.values())).median)} s" for name, values in parts.items() if values]
    return f"Parts of the floor, an epoch: {', '.join(told)}. The faster products count." if told else ""


def commands_table(series: Series) -> str:
    """What commands cost."""
    names = [key.split("/")[1] for key in series if key.startswith("commands/") and key.endswith("/seconds")]
    rows = [
        (
            f"`{name}`",
            shown(spread(list(series[f"commands/{name}/seconds"].values()))),
            f"{spread(list(series[f'commands/{name}/peak_bytes'].values())).median / 2**20:.0f}",
        )
        for name in names
    ]
    return table(("command", "seconds", "peak MiB"), rows)


def place(machine: Mapping[str, Any]) -> str:
    """The machine in a line."""
    able = ", ".join(machine["instructions"])
    return f"{machine['processor']}, {machine['cores']} cores ({able}), {machine['system']}, Python {machine['python']}"


def markdown(runs: Sequence[Run], machine: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The whole report."""
    series = collect(runs)
    precision = next((run.result.get("precision") for run in runs if run.name == "dlf"), None)
    samples = f"{settings['samples']:,}{' synthetic' if settings['synthetic'] else ''} samples"
    lines = [
        f"{place(machine)}. {settings['repeats']} rounds of {_epochs(runs)} epochs, "
        f"{samples} each; medians, in brackets the range over the rounds. The peers compute in float32; dlf's default "
        f"precision here: {precision or 'not measured'}.",
        targets_table(verdicts(series)),
    ]
    for network in settings["networks"]:
        widths, batch = NETWORKS[network]
        best = least(series, [f"{network}/{peer.name}/epoch" for peer in PEERS if peer.kind == "peer"])
        title = f"### {network}: {'-'.join(map(str, widths))}, batch {batch}"
        lines += [title, network_table(series, network), floor_line(series, network)]
        lines += [f"Best peer: {best.split('/')[1]}."] if best else []
    if any(key.startswith("commands/") for key in series):
        lines += ["### Commands", commands_table(series)]
    versions = {name: text for run in runs for name, text in run.result.get("versions", {}).items()}
    lines.append(f"Versions: {', '.join(f'{name} {text}' for name, text in sorted(versions.items()))}.")
    return "\n\n".join(line for line in lines if line) + "\n"


def _epochs(runs: Sequence[Run]) -> str:
    """How many a process trained."""
    counts = sorted({len(run.result["epochs"]) for run in runs if run.result.get("epochs")} or {0})
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"


def from_document(found: Mapping[str, Any]) -> str:
    """The whole report, of what `document` once wrote."""
    return markdown(_runs(found), found["machine"], found["settings"])


def for_readme(found: Mapping[str, Any]) -> str:
    """The table of README: the others' times as multiples of dlf's, the quickest on the small network first."""
    series = collect(_runs(found))
    columns = ("small/{}/epoch", "wide/{}/epoch", "small/{}/to_97")
    names = [peer.name for peer in PEERS if series.get(f"small/{peer.name}/epoch")]

    def multiple(key: str, name: str) -> float | None:
        theirs, own = series.get(key.format(name)), series.get(key.format("dlf"))
        return ratio(theirs, own).median if theirs and own else None

    multiples = {name: [multiple(key, name) for key in columns] for name in names}
    rows = [
        (BY_NAME[name].title, *("-" if each is None else number(each) for each in multiples[name]))
        for name in sorted(names, key=lambda name: multiples[name][0] or 0.0)
    ]
    return table(("time, dlf's = 1", "epoch, small network", "epoch, wide network", "command to 97 %"), rows) + "\n"


def _runs(found: Mapping[str, Any]) -> list[Run]:
    return [Run(**run) for run in found["runs"]]


def document(runs: Sequence[Run], machine: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report as plain data: every number of every process, the series made of them, the verdicts."""
    series = collect(runs)
    return {
        "machine": dict(machine),
        "settings": dict(settings),
        "runs": [run._asdict() for run in runs],
        "series": {key: {str(each): value for each, value in values.items()} for key, values in series.items()},
        "targets": [
            {
                "what": verdict.target.what,
                "limit": verdict.target.limit,
                "aim": verdict.target.aim,
                "ratio": verdict.ratio._asdict() if verdict.ratio else None,
                "under": verdict.under,
                "met": verdict.met,
                "bound": verdict.bound,
            }
            for verdict in verdicts(series)
        ],
    }

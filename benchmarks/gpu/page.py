"""The results of a device → one page of Markdown with tables, and plots beside it as SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from backbones.common.files import write_text
from benchmarks.common import OURS, PEER, markdown, mean_and_range, seconds, table
from benchmarks.gpu.hours import DEVICES, expected_hours
from benchmarks.gpu.resnext import PAPER_RATIO, RESNEXT
from benchmarks.gpu.results import read_units
from benchmarks.gpu.units import PARTS

Result = Mapping[str, Any]
_COLOURS = {OURS: "#2f6fed", PEER: "#d9541e"}
_BAR, _LABELS, _WIDTH = 13, 430, 900  # pixels: height of a bar, room for the labels, width of a plot
_KERNELS = 6  # of a step, in the page


def write_page(folder: Path) -> None:
    """Writes README.md and the plots of all results in the folder."""
    found = read_units(folder)
    if not found:
        return
    by_part: dict[str, list[Result]] = defaultdict(list)
    for one in found.values():
        by_part[one["part"]].append(one)
    sections: dict[str, Callable[[list[Result], Path], list[str]]] = {
        "a": _correctness, "b": _speed, "c": _networks, "d": _profile, "e": _trainings,
    }  # fmt: skip
    parts = [_head(list(found.values()))]
    for letter, title in PARTS.items():
        done = [one for one in by_part[letter] if one["outcome"] == "done"]
        lines = _hours(by_part["b"]) if letter == "f" else sections[letter](done, folder) if done else []
        failures = [f"- `{one['unit']}` failed: {_last_line(one['error'])}" for one in by_part[letter] if one["error"]]
        if lines or failures:
            parts += [f"## {title}", *lines, *(["\n".join(failures)] if failures else [])]
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")


def _head(results: Sequence[Result]) -> str:
    abouts = [one["environment"] for one in results]
    about = next((one for one in abouts if one["hardware"]["gpu"]), abouts[0])
    hardware = about["hardware"]
    gpu = f"{hardware['gpu']}, {hardware.get('gpu_memory_gib')} GiB; " if hardware["gpu"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    commits = ", ".join(sorted({(one["commit"] or "unknown")[:12] for one in abouts}))
    title = hardware["gpu"] or hardware["processor"]
    return (
        f"# {title}\n\n{gpu}{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        f"{versions}; commit {commits}; {min(one['time'] for one in abouts)[:10]}. Written by "
        f"`python -m benchmarks.gpu`, {len(results)} units of work, each with its own file in this folder.\n\n"
        "Ratios are our time divided by the peer's. fp32 is what PyTorch makes of it by default: convolutions in TF32, "
        "where the device has it. The share of the peak is that of a dense 3×3 convolution in the same precision."
    )


def _correctness(done: list[Result], folder: Path) -> list[str]:
    rows, notes = [], []
    for one in done:
        checks = one["result"]["checks"]
        passed = sum(row["passed"] for row in checks)
        worst = max((row["error"] / row["tolerance"] for row in checks if row["tolerance"]), default=0.0)
        rows.append([one["unit"], f"{passed} of {len(checks)}", f"{worst:.2g}"])
        notes += [
            f"- `{one['unit']}`: {row['what']}: {row['error']:.2g}, more than {row['tolerance']:.2g}"
            for row in checks
            if not row["passed"]
        ]
        notes += [f"- `{one['unit']}`: left out: {text}" for text in one["result"]["left_out"]]
    title = "Differences from the plain form on the CPU; the largest in parts of what is tolerated"
    shown = markdown(table(title, ["unit", "checks passed", "largest"], rows))
    return [shown, *(["\n".join(notes)] if notes else [])]


def _speed(done: list[Result], folder: Path) -> list[str]:
    rows, unlike, bars = [], [], []
    for one in sorted(done, key=lambda result: list(map(str, result["arguments"].values()))):
        arguments = one["arguments"]
        name = f"{arguments['backbone']}, {arguments['preset']}, {arguments['precision']}"
        name += ", compiled" if arguments["compiled"] else ""
        least = min(one["result"]["alike"].values())
        if least < 0.98:
            unlike.append(f"- {name}: only {least:.3f} of what either side finds in fp32 the other finds, too")
        peer = {row["what"]: row for row in one["result"]["rows"] if row["who"] == PEER}
        for row in one["result"]["rows"]:
            if row["who"] == PEER:
                continue
            other, who = peer[row["what"]], "" if row["who"] == OURS else f", {row['who']}"
            cells = [
                f"{own['images_per_second']:.1f}, {own['share_of_peak']:.0%}, {_memory(own['memory_mib'])}"
                for own in (row, other)
            ]
            rows.append([name, row["what"] + who, *cells, f"{row['ratio']:.2f}"])
            if row["who"] == OURS and not arguments["compiled"]:
                bars.append((f"{name}: {row['what']}", row["images_per_second"], other["images_per_second"]))
    columns = ["", "", "ours: images/s, share of peak, memory", "torchvision", "ratio"]
    _write_bars(folder / "speed.svg", bars)
    shown = markdown(table("Training steps with the preset's images a device, and inference", columns, rows))
    return [shown, *(["\n".join(unlike)] if unlike else []), "![Images a second](speed.svg)"]


def _networks(done: list[Result], folder: Path) -> list[str]:
    rows, errors, shapes = [], [], []
    for one in done:
        precision = one["arguments"]["precision"]
        errors += [f"- {what}, {precision}: {text}" for what, text in one["result"]["errors"].items()]
        for row in one["result"]["rows"]:
            if "shape" in row:
                shapes.append(_shape_row(precision, row))
            else:
                ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
                name = f"{row['network']}, {row['variant']}"
                rows.append([row["what"], precision, name, seconds(row["seconds"]["median"]), ratio])
    lines = []
    if rows:
        title = f"{RESNEXT} beside ResNet-101, forward and backward; the paper's ratio is {PAPER_RATIO:.2f}"
        columns = ["", "precision", "network, grouped convolutions", "step", "by ResNet-101's"]
        lines.append(markdown(table(title, columns, rows)))
    if shapes:
        columns = ["shape: direction", "precision", "library", "fastest", "its time by the library's"]
        lines.append(markdown(table("Grouped 3×3 convolutions, 32 groups", columns, shapes)))
    return [*lines, *(["\n".join(errors)] if errors else [])]


def _shape_row(precision: str, row: Mapping[str, Any]) -> list[str]:
    times = {name: timing["median"] for name, timing in row["seconds"].items()}
    library, best = times["library"], min(times, key=lambda name: times[name])
    ratio = f"{times[best] / library:.2f}"
    return [f"{row['shape']}: {row['direction']}", precision, f"{library * 1e6:.1f} µs", best, ratio]


def _profile(done: list[Result], folder: Path) -> list[str]:
    rows, kernels = [], []
    for one in done:
        name = f"{one['arguments']['preset']}, {one['arguments']['precision']}"
        for row in one["result"]["rows"]:
            waits = ", ".join(f"{what.removeprefix('aten::')} {count:.0f}" for what, count in row["waits"].items())
            device = ["", "", ""]
            if row["busy_share"] is not None:
                device = [f"{row['busy_share']:.0%}", f"{row['launches']:.0f}", f"{row['long_gaps']:.0f}"]
            rows.append([name, f"{row['what']}: {row['who']}", seconds(row["seconds"]), *device, waits])
            if row["who"] == OURS:
                longest = ", ".join(f"`{k['name']}` {seconds(k['seconds'])}" for k in row["kernels"][:_KERNELS])
                kernels.append(f"- {name}, {row['what']}: {longest}")
    columns = ["", "", "time", "device busy", "launches", "gaps above 20 µs", "waits of the host"]
    return [markdown(table("A step", columns, rows)), "The longest kernels of ours:\n\n" + "\n".join(kernels)]


def _trainings(done: list[Result], folder: Path) -> list[str]:
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for one in done:
        groups[one["arguments"]["config"], one["arguments"]["precision"]].append(one)
    rows = []
    for (config, precision), own in groups.items():
        results = [one["result"] for one in own]
        times = [sum(spent) for one in results if None not in (spent := list(one["stage_seconds"].values()))]
        cpu = results[0]["cpu"]
        rows.append(
            [
                f"{config}, {precision}",
                ", ".join(str(one["arguments"]["seed"]) for one in own),
                *(mean_and_range([one[name] for one in results], ".3f") for name in ("AP", "AP50")),
                *("{:.3f} ({:.3f} – {:.3f})".format(*cpu[name]) if name in cpu else "" for name in ("AP", "AP50")),
                mean_and_range(times, ".0f") if times else "",
            ]
        )
    columns = ["", "seeds", "AP", "AP@0.5", "AP on a CPU", "AP@0.5 on a CPU", "training, s"]
    return [markdown(table("Mean (lowest – highest) over the seeds", columns, rows))]


def _hours(speed: list[Result]) -> list[str]:
    rows = []
    for one in expected_hours([result for result in speed if result["outcome"] == "done"]):
        cells = []
        for devices in DEVICES:
            hours = one["hours"][devices]
            parts = " + ".join(f"{hours[part]:.1f}" for part in ("rpn", "proposals", "fast_rcnn"))
            cells.append(f"{hours['all']:.1f} = {parts}")
        name = f"{one['preset']}, {one['backbone']}, {one['precision']}{', compiled' if one['compiled'] else ''}"
        rows.append([name, *cells])
    if not rows:
        return []
    columns = ["hours = RPN + proposals + Fast R-CNN", "1 GPU", "8 GPUs, without what they exchange"]
    return [
        markdown(table("From the measured steps; reading of images keeps up only with enough cores", columns, rows))
    ]


def _memory(mib: float | None) -> str:
    return "–" if mib is None else f"{mib:.0f} MiB"


def _last_line(error: str) -> str:
    return error.strip().splitlines()[-1][:300]


def _write_bars(path: Path, bars: Sequence[tuple[str, float, float]]) -> None:
    """A plot of images a second: two bars for each (label, ours, torchvision's)."""
    title = "Images a second"
    row = 2 * _BAR + 8
    height, most = 56 + row * len(bars), max((value for _, *both in bars for value in both), default=1.0)
    scale = (_WIDTH - _LABELS - 70) / most
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'role="img"><title>{escape(title)}</title><rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
        '<g font-family="system-ui, sans-serif" font-size="12" fill="#444b57">'
        f'<text x="10" y="20" font-size="14" font-weight="600">{escape(title)}</text>'
    ]
    for number, (who, colour) in enumerate(_COLOURS.items()):
        x = _LABELS + 110 * number
        parts.append(f'<rect x="{x}" y="10" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="20">{escape(who)}</text>')
    for number, (label, *both) in enumerate(bars):
        y = 40 + row * number
        parts.append(f'<text x="{_LABELS - 8}" y="{y + _BAR + 4}" text-anchor="end">{escape(label)}</text>')
        for place, (value, colour) in enumerate(zip(both, _COLOURS.values(), strict=True)):
            top, width = y + _BAR * place, value * scale
            parts.append(f'<rect x="{_LABELS}" y="{top}" width="{width:.1f}" height="{_BAR - 1}" fill="{colour}"/>')
            parts.append(f'<text x="{_LABELS + width + 5:.1f}" y="{top + 10}" font-size="10">{value:.3g}</text>')
    write_text(path, "\n".join([*parts, "</g></svg>\n"]))

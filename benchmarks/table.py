"""All result files → Markdown tables in benchmarks/README.md, between its two `results` marks.

python -m benchmarks.table            rewrites the README
python -m benchmarks.table --print    prints what it would put there
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backbones.common.errors import UserError
from backbones.common.files import write_text
from benchmarks.common import RESULTS, ROOT, markdown
from detection.command_line import run

README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- results: written by `python -m benchmarks.table` -->", "<!-- end of results -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--print", action="store_true", help="leave the README as it is")
    options = parser.parse_args()
    text = rendered(sorted(options.results.glob("*.json")))
    if options.print:
        print(text)
        return 0
    readme = options.readme.read_text(encoding="utf-8")
    begin, end = readme.find(BEGIN), readme.find(END)
    if not 0 <= begin < end:
        raise UserError(f"{options.readme}: lacks the marks {BEGIN} and {END}, one after the other")
    write_text(options.readme, f"{readme[:begin]}{BEGIN}\n\n{text}{readme[end:]}")
    return 0


def rendered(paths: Iterable[Path]) -> str:
    """A section for each result file: its title, where it was measured, its tables and their plots."""
    sections = []
    for path in paths:
        result = json.loads(path.read_text(encoding="utf-8"))
        title = result["title"]
        tables = "\n\n".join(markdown(one).removeprefix(f"{title}\n\n") + _plot(one) for one in result["tables"])
        measured_on = f"{_measured_on(result['environment'])} [{path.name}](results/{path.name})"
        sections.append(f"### {title}\n\n{measured_on}\n\n{tables}\n\n")
    return "".join(sections)


def _plot(content: Mapping[str, Any]) -> str:
    """The plot that a table may name, a file of benchmarks/plots, to be shown below it."""
    return f"\n\n![{content['title']}](plots/{content['plot']})" if "plot" in content else ""


def _measured_on(about: Mapping[str, Any]) -> str:
    hardware = about["hardware"]
    gpu = f", {hardware['gpu']}" if hardware["gpu"] else ""
    commit, _, changed = (about["commit"] or "unknown").partition("-")
    variables = "".join(f"{name}={value} " for name, value in about.get("variables", {}).items())
    versions = ", ".join(f"{what} {number}" for what, number in about["versions"].items())
    return (
        f"`{variables}{about['command']}`  \n{hardware['processor']}, {hardware['cores']} cores, "
        f"{hardware['vector instructions']}, {hardware['memory_gib']} GiB{gpu}; {about['threads']} threads; "
        f"{versions}; commit {commit[:12]}{' with changes' if changed else ''}."
    )


if __name__ == "__main__":
    sys.exit(run(main))

"""``bilevel doctor``"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from shutil import get_terminal_size
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bilevel.doctor import Report


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, which backend would compute what and why not another, and test each
    backend that is ready: some lines to paste in a report. The exit code is 1 if one fails."""

    json: bool = False
    """Whether to print JSON."""

    def __call__(self) -> None:
        from bilevel.cli.ends import Fault
        from bilevel.doctor import examine

        report = examine()
        if self.json:
            print(json.dumps(_as_json(report), indent=2))
        else:
            width = max(get_terminal_size().columns, 40)  # 80 where there is no terminal
            for line in _lines(report):
                print(textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False))
        if not report.healthy:
            raise Fault


def _as_json(report: Report) -> dict[str, object]:
    made = asdict(report) | {"healthy": report.healthy}
    return made | {
        "choices": [each._asdict() for each in report.choices],
        "trials": [each._asdict() for each in report.trials],
    }


def _lines(report: Report) -> Iterator[str]:
    yield ", ".join(f"{name} {version}" for name, version in report.versions.items() if version)
    missing = [name for name, version in report.versions.items() if version is None]
    if missing:
        yield f"not installed: {', '.join(missing)}"
    for device, about in report.devices.items():
        yield f"{device}: {about}"
    for folder, size in report.caches.items():
        yield f"cache: {folder}, {size / 2**20:.1f} MiB"
    for each in report.choices:
        why_not = "; ".join(each.refusals.values())
        by = f"by {each.backend}" if each.backend else "by none"
        yield f"{each.library} on {each.device}: {by}" + (f" ({why_not})" if why_not else "")
    told = {reason for each in report.choices for reason in each.refusals.values()}
    for trial in report.trials:
        word = ("passed" if trial.passed else "FAILED") if trial.ready else "not ready"
        said = "" if trial.said in told else f", {trial.said}"
        took = f" in {trial.seconds:.1f} s" if trial.ready else ""
        yield f"self-test of {trial.backend}: {word}{took}{said}"

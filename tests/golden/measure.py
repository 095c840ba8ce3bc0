"""Print the largest deviation from each golden number: python -m tests.golden.measure (docs/fidelity.md)."""

from __future__ import annotations

from collections.abc import Iterable

from tests.golden import cases

GROUPS = ("loss", "student", "EMA", "prototypes", "queue", "newest", "discriminator", "learning")


def rows() -> Iterable[tuple[str, str, float]]:
    """(case, what, largest relative deviation)."""
    for found in cases.forward():
        yield "ResNet-101 network", found.what, found.deviation
    for name in cases.COMPONENTS:
        yield "piece", name, cases.component(name).deviation
    for name, run in cases.STAGES.items():
        found = list(run())
        for group in GROUPS:
            deviations = [pair.deviation for pair in found if pair.what.startswith(group)]
            if deviations:
                yield f"two iterations, {name}", f"{group} ({len(deviations)} numbers)", max(deviations)


def main() -> None:
    """A Markdown table."""
    print("| case | what | largest relative deviation |\n| --- | --- | ---: |")
    for case, what, deviation in rows():
        print(f"| {case} | {what} | {deviation:.1e} |")


if __name__ == "__main__":
    main()

"""What the looks add up to: recall and precision by fault, and false alarms, as the tables of docs/faults.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from dlf.findings import Finding

from .faults import FAULTS, Fault
from .looks import HEALTHY, Look

NAMING = frozenset().union(*(fault.named_by for fault in FAULTS.values()))


def finders(look: Look, fault: Fault) -> set[str]:
    """Who names the fault: "loader", "check", "doctor"."""
    found = {"loader"} if look.refused is not None and re.search(fault.refusal, look.refused) else set()
    return found | {who for who, findings in _by(look) if any(f.name in fault.named_by for f in findings)}


def false_alarms(look: Look) -> list[tuple[str, Finding]]:
    """Of a healthy experiment: everything that failed, and warnings of faults that are not there."""
    return [(who, f) for who, findings in _by(look) for f in findings if f.verdict == "fail" or f.name in NAMING]


def _by(look: Look) -> tuple[tuple[str, tuple[Finding, ...]], ...]:
    return ("check", look.check), ("doctor", look.doctor)


def faults_table(looks: Sequence[Look]) -> str:
    """A row a fault; in brackets of how many the doctor complained at all. Precision: of the alarms by its name."""
    healthy = [look for look in looks if look.fault == HEALTHY]
    rows = ["| fault | cases | loader | check | doctor | found | missed | precision |", "|" + " --- |" * 8]
    for fault in FAULTS.values():
        cases = [look for look in looks if look.fault == fault.name]
        if not cases:
            continue
        by = Counter(who for look in cases for who in finders(look, fault))
        found = sum(bool(finders(look, fault)) for look in cases)
        wrong = sum(bool(finders(look, fault)) for look in healthy)
        missed = Counter(look.seed for look in cases if not finders(look, fault))
        named = ", ".join(map(str, sorted(missed))) or "none"
        warned = sum(bool(look.doctor) for look in cases)
        counts = f"{by['loader'] or ''} | {by['check'] or ''} | " + (f"{by['doctor']} ({warned})" if warned else "")
        precision = f"{_percent(found, found + wrong)}" if found + wrong else ""
        recall = _percent(found, len(cases))
        rows.append(f"| {fault.name} | {len(cases)} | {counts} | {recall} | {named} | {precision} |")
    return "\n".join(rows)


def healthy_table(looks: Sequence[Look]) -> str:
    """A row for each shipped experiment and each problem: how many of its trainings anybody complained of."""
    head = "| experiment | trainings | least reached | with a false alarm | other warnings |"
    rows = [head, "|" + " --- |" * 5]
    healthy = [look for look in looks if look.fault == HEALTHY]
    for name in sorted({look.base for look in healthy}):
        those = [look for look in healthy if look.base == name]
        least = min(look.reached for look in those if look.reached is not None) if _measured(those) else ""
        wrong = sum(bool(false_alarms(look)) for look in those)
        rest = Counter(name for look in those for name in _remarks(look))
        said = ", ".join(f"{name} ({count})" for name, count in rest.most_common())
        rows.append(f"| {name} | {len(those)} | {least and f'{least:.2f}'} | {wrong} | {said} |")
    return "\n".join(rows)


def alarms_list(looks: Sequence[Look]) -> str:
    """Every false alarm, word for word."""
    said = []
    for look in looks:
        for who, f in false_alarms(look) if look.fault == HEALTHY else ():
            said.append(f"- {look.base}, seed {look.seed}, {who}: {f.verdict.upper()} `{f.name}`: {f.said}")
    return "\n".join(["The false alarms:", "", *said]) if said else "There were no false alarms."


def total(looks: Sequence[Look]) -> str:
    """All faults together, and all healthy experiments, in a sentence."""
    broken = [look for look in looks if look.fault != HEALTHY]
    healthy = [look for look in looks if look.fault == HEALTHY]
    found = sum(bool(finders(look, FAULTS[look.fault])) for look in broken)
    wrong = sum(bool(false_alarms(look)) for look in healthy)
    failed = sum(any(f.verdict == "fail" for _, f in false_alarms(look)) for look in healthy)
    alarms = f"of {len(healthy)} healthy experiments {wrong} had a false alarm, {failed} of them a FAIL"
    return f"Of {len(broken)} faults {found} were found; {alarms}."


def _measured(looks: Sequence[Look]) -> bool:
    return any(look.reached is not None for look in looks)


def _remarks(look: Look) -> set[str]:
    """The names of the warnings that are no false alarms."""
    alarms = false_alarms(look)
    return {f.name for who, findings in _by(look) for f in findings if (who, f) not in alarms}


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"

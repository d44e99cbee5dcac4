"""How results are put into words and figures: names, number formats, and one sentence per comparison.

Code keeps fractions; here they become percent, and differences between them percentage points.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from bench.plan.power import SIGNIFICANCE_LEVEL, seeds_needed
from reports.statistics import BETTER, MAX_SEEDS, NO_CLEAR_DIFFERENCE, TOO_FEW_PAIRS, WORSE, Comparison

METRICS = {
    "test_error_last": "test error after the last epoch",
    "test_error_val_selected": "test error at the epoch that validation selects",
    "test_error_median10": "median test error of the last ten epochs",
    "test_error_oracle": "test error at the epoch that is best on the test set (oracle: chosen on test data)",
}

STATUSES = {
    "completed": "finished",
    "unevaluated": "trained, an evaluation is missing",
    "diverged": "diverged",
    "failed": "failed",
    "interrupted": "interrupted",
    "running": "running now",
    "new": "not started",
}
"""What each status of the result store means to a reader."""

NOTHING = "-"
"""Stands for a number that does not exist."""

EN_DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def arm_name(arm: str) -> str:
    """An arm's label as readers know it: erm is an abbreviation."""
    return "ERM" if arm == "erm" else arm


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """A number with so many decimals, "-" for NaN, and never "-0.0"."""
    if math.isnan(value):
        return NOTHING
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text if float(text) else f"{0:.{digits}f}"


def percent(fraction: float, digits: int, *, signed: bool = False) -> str:
    """A fraction in percent, or a difference of fractions in percentage points, without the unit."""
    return number(100 * fraction, digits, signed=signed)


def percent_digits(spread: float) -> int:
    """Decimals of a percentage, 1 to 3, that leave its spread (sd or half an interval, a fraction) two digits."""
    if not spread > 0:
        return 2
    return min(3, max(1, 1 - math.floor(math.log10(100 * spread))))


def comparison_digits(comparison: Comparison) -> int:
    return percent_digits((comparison.high - comparison.low) / 2)


def p_value(p: float) -> str:
    """Two decimals from 0.1 up, two digits below; three where two would hide on which side of 0.05 it lies."""
    if math.isnan(p):
        return NOTHING
    if p < 0.001:
        return "<0.001"
    if abs(p - SIGNIFICANCE_LEVEL) < 0.005:
        return f"{p:.3g}"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


def p_equals(p: float) -> str:
    text = p_value(p)
    return f"p {text[0]} {text[1:]}" if text.startswith("<") else f"p = {text}"


def duration(seconds: float) -> str:
    """Such as 0.8 s, 42 s, 3 min 5 s, 2 h 10 min; "-" for NaN."""
    if math.isnan(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(n: int, noun: str) -> str:
    """Such as "1 seed" or "6 seeds"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def typographic(text: str) -> str:
    """A true minus before numbers and a dash for what does not exist; for HTML, where fonts have them."""
    return EN_DASH if text == NOTHING else re.sub(r"(?<!\w)-(?=[\d.])", MINUS, text)


def sentence(comparison: Comparison, *, baseline: str) -> str:
    """The verdict on one comparison, without its cell."""
    arm, reference = arm_name(comparison.arm), arm_name(baseline)
    if comparison.verdict == TOO_FEW_PAIRS:
        text = _too_few(comparison, arm, reference)
    elif comparison.spread:
        text = _without_spread(comparison, arm, reference)
    elif comparison.verdict == NO_CLEAR_DIFFERENCE:
        text = (
            f"no clear difference between {arm} and {reference}: {_difference(comparison)}, "
            f"{_evidence(comparison)}; {_outlook(comparison)}"
        )
    else:
        text = f"{arm} {_beats(comparison)} {reference} by {_difference(comparison)}, {_evidence(comparison)}"
    return text + _sign_flip_remark(comparison) + _left_out_remark(comparison)


def summary(comparisons: Sequence[Comparison], *, baseline: str) -> str:
    """All verdicts in one sentence."""
    verdicts = [comparison.verdict for comparison in comparisons]
    reference = arm_name(baseline)
    if not verdicts:
        return f"The suite compares nothing with {reference}."
    judged = len(verdicts) - verdicts.count(TOO_FEW_PAIRS)
    if not judged:
        return f"Too early to say: no comparison with {reference} has two finished pairs yet."
    parts = [
        f"{verdicts.count(BETTER)} better than {reference}",
        f"{verdicts.count(WORSE)} worse",
        f"{verdicts.count(NO_CLEAR_DIFFERENCE)} without a clear difference",
    ]
    if judged < len(verdicts):
        parts.append(f"{len(verdicts) - judged} with too few pairs to judge")
    return f"Of {count(len(verdicts), 'comparison')}: {', '.join(parts)}."


def sign_flip_note(comparisons: Sequence[Comparison]) -> str:
    """What the sign-flip test could have shown over the whole family; "" where it could reach 0.05 everywhere."""
    limited = [each for each in comparisons if each.pairs > 1 and each.sign_flip_holm_floor > SIGNIFICANCE_LEVEL]
    if not limited:
        return ""
    most = max(each.pairs for each in limited)
    floor = min(each.sign_flip_holm_floor for each in limited)
    scope = "" if len(limited) == len(comparisons) else " or fewer"
    return (
        f"With {count(most, 'pair')}{scope} and {count(len(comparisons), 'comparison')}, the sign-flip test cannot "
        f"fall below {p_value(floor)} after Holm's adjustment: it can confirm no verdict here. "
        f"It would take {count(seeds_needed(len(comparisons)), 'seed')}."
    )


def _beats(comparison: Comparison) -> str:
    return "beats" if comparison.verdict == BETTER else "is worse than"


def _difference(comparison: Comparison) -> str:
    """The difference with its interval: its size where the verb has the direction, else signed."""
    digits = comparison_digits(comparison)
    unclear = comparison.verdict == NO_CLEAR_DIFFERENCE
    values = (comparison.difference, comparison.low, comparison.high)
    if comparison.verdict == BETTER:
        values = (-comparison.difference, -comparison.high, -comparison.low)
    value, low, high = (percent(each, digits, signed=unclear) for each in values)
    return f"{value} points [{low}, {high}]"


def _evidence(comparison: Comparison) -> str:
    return f"{p_equals(comparison.holm_p)} (Holm), {count(comparison.pairs, 'seed')}"


def _outlook(comparison: Comparison) -> str:
    if comparison.seeds_for_clear_answer is None:
        return f"too small for {MAX_SEEDS:,} seeds to settle"
    more = comparison.seeds_for_clear_answer - comparison.pairs
    return f"about {count(more, 'more seed')} would be needed to settle one of this size"


def _without_spread(comparison: Comparison, arm: str, reference: str) -> str:
    n = comparison.pairs
    if comparison.spread == "identical":
        return f"no difference between {arm} and {reference}: the same error in each of {count(n, 'pair')}"
    size = percent(abs(comparison.difference), 2)
    verb = {BETTER: "beats", WORSE: "is worse than"}.get(comparison.verdict, "differs without clear evidence from")
    return (
        f"{arm} {verb} {reference} by exactly {size} points in each of {count(n, 'pair')}; without spread there is no "
        f"t test, so this goes by the sign-flip test: {p_equals(comparison.holm_p)} (Holm)"
    )


def _too_few(comparison: Comparison, arm: str, reference: str) -> str:
    if comparison.pairs == 0:
        return f"{arm} cannot be compared with {reference}: no pair has finished"
    return (
        f"{arm} cannot be judged against {reference}: only one pair has finished "
        f"({percent(comparison.difference, 1, signed=True)} points)"
    )


def _sign_flip_remark(comparison: Comparison) -> str:
    """Where the two tests disagree. That one could not agree is said once for the family, by `sign_flip_note`."""
    if comparison.sign_flip != "disagrees":
        return ""
    remark = "sees a difference" if comparison.verdict == NO_CLEAR_DIFFERENCE else "does not confirm this"
    return f" (the sign-flip test {remark}: {p_equals(comparison.sign_flip_holm_p)})"


def _left_out_remark(comparison: Comparison) -> str:
    if comparison.pairs == 0 or comparison.left_out == 0:
        return ""
    return f"; {comparison.left_out} of {count(comparison.planned, 'pair')} left out, not finished"

"""How results are put into words: names, and one sentence per comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.plan.power import SIGNIFICANCE_LEVEL, seeds_needed
from bench.plan.suite_file import StoppingRule
from reports.formats import count, p_equals, p_value, roughly
from reports.load import Results
from reports.measures import Measure
from reports.statistics import (
    BETTER,
    MAX_SEEDS,
    NO_CLEAR_DIFFERENCE,
    POWER,
    PRACTICALLY_EQUAL,
    TOO_FEW_PAIRS,
    WORSE,
    Comparison,
    Judgement,
)

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


ENOUGH = (
    f"Seeds are enough for a difference that they find clear in {100 * POWER:g} % of cases, if the spread is as it was."
)


def arm_name(arm: str) -> str:
    """An arm's label, or a family's name, as readers know it: erm is an abbreviation."""
    method, *options = arm.split(" ")
    return " ".join(["ERM" if method == "erm" else method, *options])


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def sentence(comparison: Comparison | Judgement, measure: Measure, *, baseline: str, aside: str = "") -> str:
    """The verdict on one comparison, without its cell.

    aside: what to say about the arm right after its name.  Only a Comparison has an outlook and a sign-flip test.
    """
    arm, reference = arm_name(comparison.arm), arm_name(baseline)
    arm = f"{arm}, {aside}," if aside else arm
    if comparison.verdict == TOO_FEW_PAIRS:
        text = _too_few(comparison, measure, arm, reference)
    elif comparison.spread:
        text = _without_spread(comparison, measure, arm, reference)
    elif comparison.verdict == NO_CLEAR_DIFFERENCE:
        text = (
            f"no clear difference between {arm} and {reference}, {_both(comparison, measure)}: "
            f"{_difference(comparison, measure)}, {_evidence(comparison)}{_outlook(comparison, measure)}"
        )
    elif isinstance(comparison, Comparison) and comparison.verdict == PRACTICALLY_EQUAL:
        text = (
            f"{arm} is practically equal to {reference}, {_both(comparison, measure)}: "
            f"{_difference(comparison, measure)}, less than {_what_matters(comparison, measure)} either way, "
            f"{_evidence(comparison)}"
        )
    else:
        text = (
            f"{arm} {_beats(comparison)} {reference}, {_both(comparison, measure)}, by "
            f"{_difference(comparison, measure)}, {_evidence(comparison)}{_negligible(comparison, measure)}"
        )
    return text + _sign_flip_remark(comparison) + _left_out_remark(comparison)


def doubt_mark(comparison: Comparison) -> str:
    """The mark of a verdict that something else does not bear out; "" for the others. See `doubt_notes`."""
    return " §" if comparison.has_faded else {"cannot agree": " †", "disagrees": " ‡"}.get(comparison.sign_flip, "")


def doubt_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What the marks mean, of those that occur."""
    found = {each.sign_flip for each in comparisons}
    notes = []
    if "cannot agree" in found:
        notes.append(f"† {sign_flip_note(comparisons)}")
    if "disagrees" in found:
        notes.append(
            "‡ The sign-flip test, Holm-adjusted like the t test, comes to the other answer at "
            f"{SIGNIFICANCE_LEVEL:g}: do not rest on this verdict alone."
        )
    if any(each.has_faded for each in comparisons):
        notes.append(
            "§ Clear by what the first seeds showed. With those that were added since, the interval does not bear it "
            "out: do not rest on this verdict alone."
        )
    return notes


def how_tested(
    comparisons: int, rule: StoppingRule | None, *, smallest_effect: float | None = None, measure: Measure | None = None
) -> dict[str, str]:
    """How the report tests: what stands below the answer, the comparisons, the forest plot and the secondary ones.

    measure: of the suite's metric, needed with a smallest effect.
    """
    words = _how_tested(comparisons, rule)
    if smallest_effect is not None and measure is not None:
        words["answer"] += f" {how_equality_is_tested(smallest_effect, measure, rule)}"
        words["table"] += (
            " p equal (Holm): two one-sided t tests that the difference is less than "
            f"{effect_in_words(smallest_effect, measure)} either way. Both p are adjusted over both questions; "
            f"practically equal: {SIGNIFICANCE_LEVEL:g} or less where p (Holm) is above."
        )
    return words


def how_equality_is_tested(smallest_effect: float, measure: Measure, rule: StoppingRule | None) -> str:
    """What the verdict "practically equal" means."""
    looks = ", adjusted for the looks too" if rule else ""
    return (
        f"The suite takes a difference of {effect_in_words(smallest_effect, measure)} for the smallest that matters. "
        f"Practically equal means that two one-sided t tests{looks} put the true difference within this, either way. "
        "Both questions, whether there is a difference and whether it is one that matters, share the same "
        f"{100 * SIGNIFICANCE_LEVEL:g} %, so p values are adjusted over both."
    )


def effect_in_words(effect: float, measure: Measure) -> str:
    """A difference as the suite names it, such as "0.5 points"."""
    return _with_points(f"{measure.scale * effect:.10g}", measure)


def _how_tested(comparisons: int, rule: StoppingRule | None) -> dict[str, str]:
    if rule is None:
        return {
            "answer": "Brackets hold the 95 % interval of the difference. The p value is that of the paired t test, "
            f"Holm-adjusted over all {comparisons} comparisons; clear means {SIGNIFICANCE_LEVEL:g} or less. {ENOUGH}",
            "table": "Interval and p (Holm): paired t test, p adjusted over all comparisons. p (sign-flip): exact, "
            "two-sided, not adjusted; the floor is the least it can be with so many pairs. Verdict: by p (Holm) at "
            f"{SIGNIFICANCE_LEVEL:g}.",
            "secondary": "",
        }
    return {
        "answer": f"Every comparison gets {rule.min} seeds, and then one more at a time, up to {rule.max}, until it is "
        f"clear: until its p is {SIGNIFICANCE_LEVEL:g} or less. The p value is that of the paired t test, adjusted for "
        f"looking after every seed and, by Holm's method, over all {comparisons} comparisons. Brackets hold the 95 % "
        "interval of the difference, adjusted for these looks too. A comparison stops early when its first seeds look "
        f"good, so where one stopped early the difference itself leans away from zero. {ENOUGH}",
        "table": "Interval and p (Holm): paired t test, adjusted for looking after every seed, p also over all "
        "comparisons. Pairs count in the order of their seeds. There is no sign-flip test: it takes the number of "
        f"seeds as given. Verdict: by p (Holm) at {SIGNIFICANCE_LEVEL:g}. ± is over all finished seeds, of which a "
        "method has as many as its comparison took, and the baseline as many as the longest: so a difference, over "
        "a row's own pairs, is not that of the two means shown. p goes by the best look so far and the interval by the "
        "last one: either can be clear where the other is not.",
        "secondary": "Seeds were added until the suite's own comparisons were clear, so comparisons have different "
        "numbers of pairs; the p values and intervals here are adjusted for looking after every seed in the same way.",
    }


def how_chosen_is_tested(rule: StoppingRule | None) -> list[str]:
    """What there is to say of choosing among candidates with different numbers of seeds."""
    if rule is None:
        return []
    return [
        "Seeds were added until the suite's own comparisons were clear, so candidates have different numbers of them, "
        "and those that count here are the ones on which every candidate ended. p and interval of a comparison are "
        "adjusted for looking after every seed; what is said against the oracle is not."
    ]


def seeds_in_words(seeds: Sequence[int], rule: StoppingRule | None) -> str:
    """Such as "0, 1, 2", or the rule by which they are added."""
    if rule is None:
        return ", ".join(map(str, seeds))
    return f"{rule.min} to {rule.max} of each comparison, from 0 on, until it is clear"


def tally(verdicts: Sequence[str], *, reference: str) -> str:
    """How many verdicts of each kind, such as "3 better than ERM, 0 worse, 1 without a clear difference"."""
    parts = [
        f"{verdicts.count(BETTER)} better than {reference}",
        f"{verdicts.count(WORSE)} worse",
    ]
    if PRACTICALLY_EQUAL in verdicts:
        parts.append(f"{verdicts.count(PRACTICALLY_EQUAL)} practically equal")
    parts.append(f"{verdicts.count(NO_CLEAR_DIFFERENCE)} without a clear difference")
    if TOO_FEW_PAIRS in verdicts:
        parts.append(f"{verdicts.count(TOO_FEW_PAIRS)} with too few pairs to judge")
    return ", ".join(parts)


def answer(results: Results, comparisons: Sequence[Comparison]) -> str:
    """All verdicts of a suite in one sentence."""
    plan = results.plan
    return summary(comparisons, baseline=plan.baseline, rule=plan.suite.stopping, is_over=results.is_over)


def summary(
    comparisons: Sequence[Comparison], *, baseline: str, rule: StoppingRule | None = None, is_over: bool = False
) -> str:
    """All verdicts in one sentence.  is_over: nothing more will come."""
    verdicts = [comparison.verdict for comparison in comparisons]
    reference = arm_name(baseline)
    if not verdicts:
        return f"The suite compares nothing with {reference}."
    if len(verdicts) == verdicts.count(TOO_FEW_PAIRS):
        fewest = rule.min if rule else "two"
        if is_over:
            return f"Nothing can be said: no comparison with {reference} has {fewest} finished pairs."
        return f"Too early to say: no comparison with {reference} has {fewest} finished pairs yet."
    text = f"Of {count(len(verdicts), 'comparison')}: {tally(verdicts, reference=reference)}."
    going_on = sum(comparison.goes_on for comparison in comparisons)
    return f"{text} Seeds are still being added to {going_on} of them." if going_on else text


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


def floor_note(comparisons: Sequence[Comparison]) -> str:
    """The least p of the sign-flip test, where it can confirm a verdict; where it cannot, `sign_flip_note` says so."""
    judged = [each for each in comparisons if each.pairs > 1 and not math.isnan(each.sign_flip_floor)]
    if not judged or any(each.sign_flip == "cannot agree" for each in judged):
        return ""
    fewest = min(each.pairs for each in judged)
    own = next(each for each in judged if each.pairs == fewest)
    least = "" if all(each.pairs == fewest for each in judged) else " at least"
    return (
        f"Beside each t test stands the exact sign-flip test, which assumes nothing about how differences are "
        f"distributed. Its floor: with{least} {count(fewest, 'pair')} its p cannot be below "
        f"{p_value(own.sign_flip_floor)}, or {p_value(own.sign_flip_holm_floor)} after Holm's adjustment."
    )


def _beats(comparison: Comparison | Judgement) -> str:
    return "beats" if comparison.verdict == BETTER else "is worse than"


def _both(comparison: Comparison | Judgement, measure: Measure) -> str:
    """Both halves of the pairs, such as "15.8 % against 20.1 %"."""
    digits = _digits(comparison, measure)
    return f"{measure.amount(comparison.pair_mean, digits)} against {measure.amount(comparison.baseline_mean, digits)}"


def _digits(comparison: Comparison | Judgement, measure: Measure) -> int:
    return measure.digits((comparison.high - comparison.low) / 2)


def _difference(comparison: Comparison | Judgement, measure: Measure) -> str:
    """The difference with its interval: its size where the verb has the direction, else signed."""
    digits = _digits(comparison, measure)
    unclear = comparison.verdict in (NO_CLEAR_DIFFERENCE, PRACTICALLY_EQUAL)
    values = (comparison.difference, comparison.low, comparison.high)
    if comparison.verdict == BETTER:
        values = (-comparison.difference, -comparison.high, -comparison.low)
    value, low, high = (measure.text(each, digits, signed=unclear) for each in values)
    return f"{_with_points(value, measure)} [{low}, {high}]"


def _with_points(value: str, measure: Measure) -> str:
    return f"{value} {measure.points}" if measure.points else value


def _evidence(comparison: Comparison | Judgement) -> str:
    return f"{p_equals(_deciding_p(comparison))} (Holm), {count(comparison.pairs, 'seed')}"


def _deciding_p(comparison: Comparison | Judgement) -> float:
    """The adjusted p that the verdict goes by."""
    if isinstance(comparison, Comparison) and comparison.verdict == PRACTICALLY_EQUAL:
        return comparison.equal_holm_p
    return comparison.holm_p


def _what_matters(comparison: Comparison, measure: Measure) -> str:
    return effect_in_words(comparison.smallest_effect, measure)


def _negligible(comparison: Comparison | Judgement, measure: Measure) -> str:
    if not isinstance(comparison, Comparison) or not comparison.is_negligible:
        return ""
    return f"; clear, and as clearly less than the {_what_matters(comparison, measure)} that matter"


def _outlook(comparison: Comparison | Judgement, measure: Measure) -> str:
    """What it would take to settle an unclear difference; and, to begin with, what so many seeds could have shown."""
    if not isinstance(comparison, Comparison):
        return ""
    if comparison.goes_on:
        return "; seeds are still being added"
    if measure.unit == "%" and comparison.detectable_difference > 1:
        return f", too few for any difference that there can be{_seeds_to_come(comparison)}"
    detectable = measure.text(comparison.detectable_difference, _digits(comparison, measure))
    return f", enough for a difference of {_with_points(detectable, measure)}{_seeds_to_come(comparison)}"


def _seeds_to_come(comparison: Comparison) -> str:
    if comparison.seeds_for_clear_answer is None:
        return f"; one of the size seen is too small for {MAX_SEEDS:,} seeds to settle"
    if math.isnan(comparison.sign_flip_p):  # seeds were added: still more after a look would be one look too many
        seeds = roughly(comparison.seeds_for_clear_answer, "seed")
        return f"; it would take a new run of {seeds} to settle one of the size seen"
    more = comparison.seeds_for_clear_answer - comparison.pairs
    return f"; {roughly(more, 'more seed')} would be needed to settle one of the size seen"


def _without_spread(comparison: Comparison | Judgement, measure: Measure, arm: str, reference: str) -> str:
    n = comparison.pairs
    if comparison.spread == "identical":
        value = measure.amount(comparison.pair_mean, measure.digits(0))
        equal = comparison.verdict == PRACTICALLY_EQUAL
        return (
            f"no difference between {arm} and {reference}: the same {measure.title} in each of {count(n, 'pair')}, "
            f"{value} on average{f'; practically equal, {p_equals(_deciding_p(comparison))} (Holm)' if equal else ''}"
        )
    size = _with_points(measure.text(abs(comparison.difference), measure.digits(0)), measure)
    verbs = {BETTER: "beats", WORSE: "is worse than", PRACTICALLY_EQUAL: "is practically equal to"}
    verb = verbs.get(comparison.verdict, "differs without clear evidence from")
    by = "which differs by" if comparison.verdict == PRACTICALLY_EQUAL else "by"
    return (
        f"{arm} {verb} {reference}, {_both(comparison, measure)}, {by} exactly {size} in each of {count(n, 'pair')}; "
        f"without spread there is no t test, so this goes by the sign-flip test: "
        f"{p_equals(_deciding_p(comparison))} (Holm)"
    )


def _too_few(comparison: Comparison | Judgement, measure: Measure, arm: str, reference: str) -> str:
    if comparison.pairs == 0:
        return f"{arm} cannot be compared with {reference}: no pair has a result"
    difference = measure.text(comparison.difference, measure.digits(0), signed=True)
    only = "one pair has" if comparison.pairs == 1 else f"{comparison.pairs} pairs have"
    return (
        f"{arm} cannot be judged against {reference}: only {only} a result, {_both(comparison, measure)} "
        f"({_with_points(difference, measure)})"
    )


def _sign_flip_remark(comparison: Comparison | Judgement) -> str:
    """Where the two tests disagree. That one could not agree is said once for the family, by `sign_flip_note`."""
    if not isinstance(comparison, Comparison) or comparison.sign_flip != "disagrees":
        return ""
    remark = "sees a difference" if comparison.verdict == NO_CLEAR_DIFFERENCE else "does not confirm this"
    return f" (the sign-flip test {remark}: {p_equals(comparison.sign_flip_holm_p)})"


def _left_out_remark(comparison: Comparison | Judgement) -> str:
    if comparison.pairs == 0 or comparison.left_out == 0:
        return ""
    return f"; {comparison.left_out} of {count(comparison.planned, 'pair')} left out, without a result"

"""The tables and words of what was chosen on validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from reports import wording
from reports.chosen import Choice, Selection
from reports.formats import NOTHING, count, listed
from reports.measures import Measure, measure
from reports.statistics import TOO_FEW_PAIRS, Judgement
from reports.tables import Table, difference_cells, judged_cells, mean_and_sd, spread_of
from reports.wording import arm_name, tally

MOST_NAMED = 3
"""So many chosen candidates are named in the table; chosen.csv has them all."""

LONGEST_LINE = 40
"""Characters; a longer list has a line for each entry."""


def choices_table(selection: Selection) -> Table:
    """What validation chose among which candidates, and what that gave, grouped by task."""
    figure = measure(selection.test_metric)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for each in selection.choices:
        error = mean_and_sd(spread_of(each.errors), figure)
        row = (arm_name(each.family), str(len(each.candidates)), _span(each, figure), _counts(each), error)
        groups.setdefault(each.task, []).append(row)
    header = (
        "method",
        "candidates",
        f"{figure.label}, best to worst candidate",
        "chosen, on so many seeds",
        f"{figure.label} of the chosen",
    )
    return Table(header, _frozen(groups), tuple(_left_out(selection)), "lines")


def oracle_table(selection: Selection) -> Table:
    """What the choice cost against the oracle's candidate, and how many others are as good as that one."""
    figure = measure(selection.test_metric)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for each in selection.choices:
        if each.is_open and each.oracle is not None:
            error = mean_and_sd(spread_of(each.oracle_errors), figure)
            cost = difference_cells(each.cost.mean, each.cost.low, each.cost.high, figure)
            as_good = (
                NOTHING if each.as_good is None else f"{each.as_good} of {count(len(each.candidates) - 1, 'other')}"
            )
            row = (arm_name(each.family), each.candidates[each.oracle].name, error, *cost, as_good)
            groups.setdefault(each.task, []).append(row)
    header = (
        "method",
        "oracle: best on test",
        f"{figure.label} of the oracle's",
        "cost of choosing",
        "95 % interval",
        "no clear difference from the oracle's",
    )
    return Table(header, _frozen(groups))


def comparisons_table(selection: Selection) -> Table:
    """What was chosen for each method against the baseline's chosen; with several recipes, within each of them too."""
    figure = measure(selection.test_metric)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for task in selection.tasks:
        for each in selection.comparisons:
            if each.cell == task.label and not selection.has_recipes:
                groups.setdefault(task.label, []).append((arm_name(each.arm), *_comparison(each, figure)))
            elif each.cell == task.label:
                rows = groups.setdefault(f"{task.label}: {arm_name(each.arm)}", [])
                rows.append(("each its own best", *_comparison(each, figure)))
                for own in selection.one_recipe:
                    if own.arm == each.arm and own.cell in task.recipes:
                        rows.append((f"both {task.recipes[own.cell]}", *_comparison(own, figure)))
    means = (figure.label, f"{arm_name(selection.baseline)}: {figure.label}")
    first = "recipe" if selection.has_recipes else "method"
    header = (first, *means, "pairs", "difference", "95 % interval", "p (Holm)", "verdict")
    return Table(header, _frozen(groups), kind="judged")


def paragraphs(selection: Selection) -> Iterator[str]:
    """What was done, how to read it, and what came of it."""
    val, test = measure(selection.val_metric), measure(selection.test_metric)
    reference, recipes = arm_name(selection.baseline), selection.has_recipes
    what, candidates = ("its options are", "the arms that its entry in the suite gives")
    if recipes:
        what, candidates = ("its options and the recipe are", f"{candidates}, each under every recipe")
    yield (
        f"What a method gives when {what} chosen without the test set. Its candidates are {candidates}. On every seed "
        f"the candidate with the lowest {val.phrase} is chosen, and its {test.phrase} counts. Test images have no part "
        "in that, so it is an honest error: what one gets who trains each candidate once and looks at validation."
    )
    yield (
        "The oracle's candidate has the lowest mean test error over the seeds. It is chosen on test data, so its error "
        "is too low, and the cost of choosing, which is the chosen error minus the oracle's, is an upper bound. It can "
        "fall below zero, because the oracle keeps to one candidate, while validation also finds each seed's better "
        "run."
    )
    sizes = {(each.task, each.family): len(each.candidates) for each in selection.choices}
    if any(size > sizes.get((task, selection.baseline), size) for (task, _), size in sizes.items()):
        yield (
            f"A method with more candidates than {reference} has more tries: even if all its arms were as good as "
            f"{reference}, validation would pick the luckier of its runs. Weigh a small gain against the number of "
            "candidates."
        )
    if recipes:
        yield (
            f"The recipe that suits {reference} need not suit another method. So each is compared with {reference} "
            "under one and the same recipe, and again with each of the two under the recipe that validation chooses "
            "for it."
        )
    if outcome(selection):
        yield outcome(selection)


def answers(selection: Selection) -> list[tuple[str, str]]:
    """(verdict, sentence) for every family that had several candidates in a task, against the baseline's chosen."""
    made = {(each.task, each.family): each for each in selection.choices}
    recipes = {task.label: task.recipes for task in selection.tasks}
    figure, aside = measure(selection.test_metric), "chosen on each seed's validation images"
    found = []
    for judged in selection.comparisons:
        choice = made[judged.cell, judged.arm]
        if choice.is_open:
            text = wording.sentence(judged, figure, baseline=selection.baseline, aside=aside)
            start = "each under its own best recipe, " if len(recipes[judged.cell]) > 1 else ""
            parts = [text, *_one_recipe(selection, judged, recipes[judged.cell]), *_price(choice, selection)]
            found.append((judged.verdict, f"{judged.cell}: {start}{'; '.join(parts)}."))
    return found


def outcome(selection: Selection) -> str:
    """The verdicts on what was chosen, in one sentence; "" where there is none yet."""
    verdicts = [each.verdict for each in selection.comparisons]
    if not set(verdicts) - {TOO_FEW_PAIRS}:
        return ""
    start = "With each under its own best recipe" if selection.has_recipes else "With what validation chose"
    reference = arm_name(selection.baseline)
    text = f"{start}, of {count(len(verdicts), 'comparison')}: {tally(verdicts, reference=reference)}."
    if not selection.has_recipes:
        return text
    others = sum(
        bool(_other_verdicts(selection, own, task.recipes))
        for task in selection.tasks
        for own in selection.comparisons
        if own.cell == task.label
    )
    if others == 0:
        return f"{text} No recipe gives another verdict when both are under it."
    return f"{text} For {others} of {len(verdicts)}, some recipe gives another verdict when both are under it."


def _one_recipe(selection: Selection, own: Judgement, recipes: Mapping[str, str]) -> Iterator[str]:
    """Whether the verdict under each own best recipe would be the same with both under one."""
    if len(recipes) == 1:
        return
    others = _other_verdicts(selection, own, recipes)
    if others:
        parts = (f"{verdict} with {listed(names, most=2, separator=' or ')}" for verdict, names in others.items())
        number = sum(map(len, others.values()))
        yield f"with both under one recipe, another verdict in {number} of {len(recipes)}: {', '.join(parts)}"
    else:
        yield f"the same verdict with both under one recipe, whichever of the {len(recipes)}"


def _other_verdicts(selection: Selection, own: Judgement, recipes: Mapping[str, str]) -> dict[str, list[str]]:
    """By verdict that is not that of each under its own best recipe, the recipes that give it to both."""
    others: dict[str, list[str]] = {}
    for each in selection.one_recipe:
        if each.arm == own.arm and each.cell in recipes and each.verdict != own.verdict:
            others.setdefault(each.verdict, []).append(recipes[each.cell])
    return others


def _price(choice: Choice, selection: Selection) -> Iterator[str]:
    """What choosing cost against the oracle's candidate, and how many do as well as that one."""
    if choice.oracle is None:
        return
    figure = measure(selection.test_metric)
    difference, interval = difference_cells(choice.cost.mean, choice.cost.low, choice.cost.high, figure)
    within = "" if interval == NOTHING else f" {interval}"
    yield f"choosing cost {difference} {figure.points}{within} against the {_what(choice)} that is best on test"
    if choice.as_good is not None:
        number, verb = choice.as_good or "none", "are" if choice.as_good > 1 else "is"
        others = count(len(choice.candidates) - 1, "other")
        yield f"{number} of {others} {verb} as good as far as these seeds tell"


def _what(choice: Choice) -> str:
    """The one option that its candidates differ in, such as "alpha"; else "candidate"."""
    parts = [candidate.name.replace(", ", " ").split() for candidate in choice.candidates]
    keys = {part.partition("=")[0] for own in parts for part in own}
    return keys.pop() if len(keys) == 1 and all(len(own) == 1 for own in parts) else "candidate"


def _counts(choice: Choice) -> str:
    """Such as "alpha=1: 4, alpha=4: 2"."""
    if not choice.is_open:
        return ""
    named, others = choice.counts[:MOST_NAMED], choice.counts[MOST_NAMED:]
    texts = [f"{candidate.name}: {n}" for candidate, n in named]
    texts += [f"{len(others)} more: {sum(n for _, n in others)}"] if others else []
    line = ", ".join(texts) or NOTHING
    return line if len(line) <= LONGEST_LINE else "\n".join(texts)


def _span(choice: Choice, figure: Measure) -> str:
    """The lowest and the highest mean error of the candidates that never diverged."""
    if not choice.is_open or choice.oracle is None:
        return NOTHING if choice.is_open else ""
    low, high = float(np.nanmin(choice.means)), float(np.nanmax(choice.means))
    digits = figure.digits((high - low) / 2)
    return f"{figure.text(low, digits)} to {figure.text(high, digits)}"


def _comparison(judged: Judgement, figure: Measure) -> tuple[str, ...]:
    digits = figure.digits((judged.high - judged.low) / 2)
    means = (figure.text(judged.pair_mean, digits), figure.text(judged.baseline_mean, digits))
    return (*means, *judged_cells(judged, figure), judged.verdict)


def _left_out(selection: Selection) -> Iterator[str]:
    left_out = [
        f"{arm_name(each.family)} in {each.task}, {each.left_out} of {count(len(each.planned), 'seed')}"
        for each in selection.choices
        if each.left_out
    ]
    if left_out:
        yield f"Left out, because not every candidate has a result there: {'; '.join(left_out)}."
    if any(np.isinf(each.val_errors).any() for each in selection.choices):
        yield "A candidate that diverged is not chosen on that seed, and is neither the oracle's nor in the span."


def _frozen(groups: Mapping[str, Sequence[tuple[str, ...]]]) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    return tuple((heading, tuple(rows)) for heading, rows in groups.items())

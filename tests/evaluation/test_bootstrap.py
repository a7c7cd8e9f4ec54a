"""The vectorised bootstrap against a loop in plain Python, and against cases whose answer is known."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from qat_plugin.evaluation import bootstrap
from qat_plugin.evaluation.bootstrap import (
    MIN_SPEAKERS,
    paired_difference,
    resample_sums,
    sum_by_unit,
    unit_to_resample,
    wer_interval,
)


def random_counts(seed: int, utterances: int) -> np.ndarray:
    """Columns: errors of an arm, errors of a baseline, reference words."""
    rng = np.random.default_rng(seed)
    words = rng.integers(1, 12, utterances)
    return np.column_stack([rng.binomial(words, 0.2), rng.binomial(words, 0.3), words])


def test_against_plain_python() -> None:
    strata = [random_counts(0, 30), random_counts(1, 7)]
    resamples, seed = 200, 5
    generator = np.random.default_rng(seed)
    totals = [[0, 0, 0] for _ in range(resamples)]
    for counts in strata:
        for total in totals:
            for index in generator.integers(0, len(counts), size=len(counts)):
                for column in range(3):
                    total[column] += int(counts[index][column])

    sums = [sum(int(row[column]) for counts in strata for row in counts) for column in range(3)]

    def expansion(of_unit):
        """Satterthwaite's degrees of freedom, and how much narrower than the truth the draws are."""
        drawn = unbiased = doubt = 0.0
        for counts in strata:
            values, n = [of_unit(*map(int, row)) for row in counts], len(counts)
            squares = sum((value - sum(values) / n) ** 2 for value in values)
            drawn, unbiased = drawn + squares, unbiased + squares * n / (n - 1)
            doubt += (squares * n / (n - 1)) ** 2 / (n - 1)
        return unbiased**2 / doubt, math.sqrt(unbiased / drawn)

    def interval(values, freedom, spread):
        quantile = next(t for t in np.arange(1.9, 4, 1e-4) if two_sided_t(t, freedom) <= 0.05)
        tail = NormalDist().cdf(-quantile * spread)
        values = sorted(values)
        # numpy's quantile: linear between the neighbours of rank q * (n - 1)
        ranks = [q * (resamples - 1) for q in (tail, 1 - tail)]
        return [values[int(r)] + (r - int(r)) * (values[int(r) + 1] - values[int(r)]) for r in ranks]

    mine = wer_interval([s[:, [0, 2]] for s in strata], resamples=resamples, seed=seed)
    by_wer = expansion(lambda a, _, w: a - sums[0] / sums[2] * w)
    assert 7 < by_wer[0] < 35  # the seven units' share of the doubt is larger than that of the units
    assert [mine.low, mine.high] == pytest.approx(interval([a / w for a, _, w in totals], *by_wer), abs=2e-4)
    difference = paired_difference(strata, resamples=resamples, seed=seed)
    freedom, spread = by_difference = expansion(lambda a, b, w: a - b - (sums[0] - sums[1]) / sums[2] * w)
    expected = interval([(a - b) / w for a, b, w in totals], *by_difference)
    assert [difference.interval.low, difference.interval.high] == pytest.approx(expected, abs=1e-4)
    expected = interval([(a - b) / b for a, b, _ in totals], *by_difference)
    assert difference.relative_interval is not None
    assert [difference.relative_interval.low, difference.relative_interval.high] == pytest.approx(expected, abs=1e-4)
    errors, baseline, words = np.concatenate(strata).sum(axis=0)
    assert difference.value == pytest.approx((errors - baseline) / words)
    assert difference.relative == pytest.approx((errors - baseline) / baseline)
    tail = min(sum(a <= b for a, b, _ in totals), sum(a >= b for a, b, _ in totals))
    t = -NormalDist().inv_cdf((1 + tail) / (resamples + 1)) / spread
    assert difference.p_value == pytest.approx(two_sided_t(t, freedom), rel=0.01)


def two_sided_t(t: float, freedom: float) -> float:
    """The probability beyond ±t of Student's t, by adding up its density."""
    x = np.linspace(t, t + 60, 60_001)
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    return float(2 * scale * np.trapezoid(density, x))


@pytest.mark.parametrize(("units", "quantile"), [(8, 2.3646), (10, 2.2622), (20, 2.0930), (30, 2.0452), (1000, 1.9623)])
def test_few_units_are_taken_further_out(units: int, quantile: float) -> None:
    """`quantile` is the 97.5 % quantile of Student's t with one degree of freedom less, from a table."""
    counts = np.column_stack([np.arange(units), np.full(units, 1000)])
    draws = resample_sums([counts], 4000, 11)
    tail = NormalDist().cdf(-quantile * math.sqrt(units / (units - 1)))
    expected = np.quantile(draws[:, 0] / draws[:, 1], [tail, 1 - tail])
    mine = wer_interval([counts], resamples=4000, seed=11)
    assert [mine.low, mine.high] == pytest.approx(expected, rel=5e-3)
    assert tail < 0.025


@pytest.mark.parametrize("seed", range(8))
def test_p_value_and_interval_agree(seed: int) -> None:
    counts = random_counts(100 + seed, 12)
    difference = paired_difference([counts], seed=seed)
    assert difference.beyond_interval == (difference.p_value < 0.05)
    assert 0 < difference.p_value <= 1


def test_against_every_possible_draw() -> None:
    counts = np.array([[0, 5], [2, 5], [1, 10], [4, 4]])
    draws = [counts[list(indices)].sum(axis=0) for indices in itertools.product(range(4), repeat=4)]
    tail = NormalDist().cdf(-3.1824 * math.sqrt(4 / 3))  # Student's t with 3 degrees of freedom
    exact = np.quantile([errors / words for errors, words in draws], [tail, 1 - tail])
    mine = wer_interval([counts], resamples=20_000, seed=1)
    assert [mine.low, mine.high] == pytest.approx(exact, abs=0.02)


def test_pairing_takes_out_what_is_hard_for_both() -> None:
    counts = random_counts(2, 300)
    counts[:, 1] = counts[:, 0]
    counts[::10, 1] += 1  # the baseline errs once more in every tenth utterance
    difference = paired_difference([counts])
    single = wer_interval([counts[:, [0, 2]]])
    assert difference.beyond_interval and difference.value < 0 and difference.p_value < 0.01
    assert difference.interval.width < single.width / 2


def test_equal_arms_are_level() -> None:
    counts = random_counts(3, 50)
    counts[:, 1] = counts[:, 0]
    difference = paired_difference([counts])
    assert (difference.value, difference.interval.low, difference.interval.high) == (0, 0, 0)
    assert difference.p_value == 1 and not difference.beyond_interval


def test_swapping_the_arms_turns_the_sign() -> None:
    counts = random_counts(4, 80)
    one, other = paired_difference([counts]), paired_difference([counts[:, [1, 0, 2]]])
    expected = (-other.value, -other.interval.high, other.p_value)
    assert (one.value, one.interval.low, one.p_value) == pytest.approx(expected)


def test_faultless_baseline_has_no_relative_difference() -> None:
    difference = paired_difference([np.array([[1, 0, 5], [0, 0, 5], [2, 0, 5]])])
    assert difference.value == 3 / 15
    assert difference.relative is None and difference.relative_interval is None


def test_draws_do_not_depend_on_the_memory_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = random_counts(5, 33)
    whole = resample_sums([counts], 100, 7)
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS_AT_ONCE", 50)
    assert np.array_equal(resample_sums([counts], 100, 7), whole)
    assert not np.array_equal(resample_sums([counts], 100, 8), whole)


def test_one_utterance_has_an_interval() -> None:
    difference = paired_difference([np.array([[1, 2, 4]])])
    assert (difference.interval.low, difference.interval.high) == (-0.25, -0.25)


# --- the unit that is drawn


def test_speakers_are_drawn_where_there_are_enough() -> None:
    enough = [f"s{i}" for i in range(MIN_SPEAKERS)]
    assert unit_to_resample([*enough, *enough]) == "speakers"
    assert unit_to_resample([*enough[1:], *enough[1:]]) == "utterances"
    assert unit_to_resample([*enough, None]) == "utterances"
    assert unit_to_resample([None] * 50) == "utterances"


def test_counts_of_a_speaker_are_added() -> None:
    speakers = [f"s{i % MIN_SPEAKERS}" for i in range(3 * MIN_SPEAKERS)]
    counts = random_counts(8, len(speakers))
    expected = counts.reshape(3, MIN_SPEAKERS, 3).sum(axis=0)
    assert np.array_equal(sum_by_unit(counts, speakers), expected)
    assert sum_by_unit(counts, [None] * len(speakers)) is counts


# --- of many samples from a known population, about 95 % have the truth in their interval

WORDS = 8


def draw(rng: np.random.Generator, speakers: int, each: int, *, correlated: bool) -> tuple[np.ndarray, list[str]]:
    """Errors of an arm with 22 % WER, of a baseline with 20 %, and words; where correlated, speakers differ in both."""
    names = [f"s{i}" for i in range(speakers) for _ in range(each)]
    rates, factors = np.full(speakers, 0.2), np.full(speakers, 1.1)
    if correlated:
        rates, factors = rng.beta(4, 16, speakers), rng.uniform(0.8, 1.4, speakers)
    baseline, arm = np.repeat(rates, each), np.minimum(np.repeat(rates * factors, each), 1)
    counts = np.column_stack([rng.binomial(WORDS, arm), rng.binomial(WORDS, baseline), np.full(len(names), WORDS)])
    return counts, names


def coverage(
    speakers: int, each: int, *, correlated: bool, by_speaker: bool, trials: int = 1000
) -> tuple[float, float]:
    """How often the interval of the baseline's WER, and that of the difference, hold the truth."""
    rng = np.random.default_rng(6)
    wer = difference = 0
    for trial in range(trials):
        counts, names = draw(rng, speakers, each, correlated=correlated)
        counts = sum_by_unit(counts, names if by_speaker else [None] * len(names))
        interval = wer_interval([counts[:, 1:]], resamples=400, seed=trial)
        wer += interval.low <= 0.2 <= interval.high
        interval = paired_difference([counts], resamples=400, seed=trial).interval
        difference += interval.low <= 0.02 <= interval.high
    return wer / trials, difference / trials


def test_intervals_over_utterances_cover_what_they_say() -> None:
    assert all(0.93 <= share <= 0.97 for share in coverage(1, 100, correlated=False, by_speaker=False))


def test_intervals_over_speakers_cover_what_they_say() -> None:
    assert all(0.93 <= share <= 0.97 for share in coverage(30, 12, correlated=True, by_speaker=True))


def test_a_corpus_of_few_units_is_not_made_sure_by_another_of_many() -> None:
    """Sixty clips and ten long ones of half of the words: what the pooled interval says holds."""
    rng = np.random.default_rng(3)
    wer = difference = 0
    for trial in range(600):
        strata = []
        for units, words in ((60, 8), (10, 60)):
            baseline = rng.beta(4, 16, units)
            arm = np.minimum(baseline * rng.uniform(0.8, 1.4, units), 1)
            heard = [rng.binomial(words, arm), rng.binomial(words, baseline), np.full(units, words)]
            strata.append(np.column_stack(heard))
        interval = wer_interval([counts[:, 1:] for counts in strata], resamples=400, seed=trial)
        wer += interval.low <= 0.2 <= interval.high
        interval = paired_difference(strata, resamples=400, seed=trial).interval
        difference += interval.low <= 0.02 <= interval.high
    assert 0.93 <= wer / 600 <= 0.97 and 0.93 <= difference / 600 <= 0.97


def test_utterances_of_one_speaker_are_no_evidence_of_their_own() -> None:
    """The same speech, drawn by utterance: the interval is too narrow for other speakers."""
    wer, difference = coverage(30, 12, correlated=True, by_speaker=False, trials=400)
    assert wer < 0.8 and difference < 0.93


def test_fewest_speakers_that_are_drawn() -> None:
    """With so few, the interval still covers nearly what it says, and drawing utterances would be far off."""
    by_speaker = coverage(MIN_SPEAKERS, 12, correlated=True, by_speaker=True)
    by_utterance = coverage(MIN_SPEAKERS, 12, correlated=True, by_speaker=False, trials=400)
    assert all(0.91 <= share <= 0.97 for share in by_speaker) and by_utterance[0] < 0.8

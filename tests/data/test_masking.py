import numpy as np
import pytest

from lmjax.data import masking
from lmjax.data.masking import MaskingConfig, RowKeys, mask_tokens, random_bits, unit_numbers, unit_order
from lmjax.data.store import WORD_BEGINS, WORD_INSIDE
from lmjax.data.tf import tensorflow
from lmjax.errors import UserError

VOCAB, MASK = 1000, 4


def make_keys(rows, data_pass=0, seed=3):
    tf = tensorflow()
    rows = np.asarray(rows, np.int64)
    return RowKeys(*(tf.constant(np.broadcast_to(x, rows.shape), tf.int64) for x in (seed, data_pass, rows)))


def make_features(rows=512, length=64, seed=0, inside=0.35):
    """[CLS] A [SEP] B [SEP] and padding; every third row is full."""
    rng = np.random.default_rng(seed)
    end = np.where(np.arange(rows) % 3, rng.integers(8, length, rows), length)[:, None]
    position = np.arange(length)
    special = (position == 0) | (position == end // 2) | (position == end - 1) | (position >= end)
    flags = np.where(rng.random((rows, length)) < inside, WORD_INSIDE, WORD_BEGINS)
    tokens = rng.integers(5, VOCAB, (rows, length), np.int32)
    return {
        "tokens": np.where(special, 3, tokens).astype(np.int32),
        "flags": np.where(special, 0, flags).astype(np.uint8),
        "segment_ids": (position < end).astype(np.int32),
    }


def mask(features, cfg, keys=None):
    tf = tensorflow()
    keys = make_keys(np.arange(len(features["tokens"]))) if keys is None else keys
    graph = tf.function(lambda f: mask_tokens(f, keys, cfg, MASK, VOCAB))
    return {k: v.numpy() for k, v in graph({k: tf.constant(v) for k, v in features.items()}).items()}


def chosen_of(masked, length):
    """bool [N, L] from mlm_positions."""
    chosen = np.zeros((len(masked["tokens"]), length), bool)
    rows, slots = np.nonzero(masked["loss_weights"])
    chosen[rows, masked["mlm_positions"][rows, slots]] = True
    return chosen


def within(successes, trials, rate, sigmas=5):
    return abs(successes - trials * rate) <= sigmas * np.sqrt(trials * rate * (1 - rate)) + 1e-9


@pytest.mark.parametrize("unit", ["token", "word"])
@pytest.mark.parametrize(("rate", "cap"), [(0.15, 20), (0.15, 5), (0.4, 64), (1.0, 64)])
def test_counts_are_exact_and_special_tokens_are_left_alone(unit, rate, cap):
    features = make_features(inside=0)
    masked = mask(features, MaskingConfig(unit, rate, max_predictions=cap))
    chosen = chosen_of(masked, 64)
    wanted = [min(cap, max(1, round(int(n) * rate))) for n in features["segment_ids"].sum(1)]
    np.testing.assert_array_equal(chosen.sum(1), np.minimum(wanted, (features["flags"] > 0).sum(1)))
    assert not (chosen & (features["flags"] == 0)).any()
    np.testing.assert_array_equal(masked["tokens"][~chosen], features["tokens"][~chosen])


def test_outputs_are_laid_out_as_promised():
    features = make_features()
    masked = mask(features, MaskingConfig("word"))
    positions, used = masked["mlm_positions"], masked["loss_weights"] == 1
    assert "flags" not in masked
    assert positions.shape == masked["targets"].shape == masked["loss_weights"].shape == (512, 20)
    assert (positions.dtype, masked["targets"].dtype, masked["loss_weights"].dtype) == (np.int32, np.int32, np.float32)
    assert set(np.unique(masked["loss_weights"])) == {0, 1}
    np.testing.assert_array_equal(masked["targets"], np.take_along_axis(features["tokens"], positions, 1))
    assert (np.diff(positions)[used[:, 1:]] > 0).all()
    assert (positions[~used] == 0).all()
    assert (used[:, :-1] >= used[:, 1:]).all()


@pytest.mark.parametrize("unit", ["token", "word"])
def test_fates_lie_within_binomial_bounds(unit):
    features = make_features(rows=8192)
    masked = mask(features, MaskingConfig(unit, rate=0.3, mask=0.7, random=0.2))
    rows, slots = np.nonzero(masked["loss_weights"])
    now, before = masked["tokens"][rows, masked["mlm_positions"][rows, slots]], masked["targets"][rows, slots]
    n = len(rows)
    assert n > 60_000
    assert within((now == MASK).sum(), n, 0.7 + 0.2 / VOCAB)
    assert within((now == before).sum(), n, 0.1 + 0.2 / VOCAB)
    words = now[(now != MASK) & (now != before)]
    counts = np.bincount(words, minlength=VOCAB)
    assert words.max() == VOCAB - 1
    assert counts[:4].min() > 0  # the whole vocabulary, special tokens included
    assert within(counts[: VOCAB // 2].sum(), len(words), 0.5)


def test_every_position_is_chosen_equally_often_and_independently():
    features = make_features(rows=1)
    features = {k: np.repeat(v, 8192, 0) for k, v in features.items()}
    chosen = chosen_of(mask(features, MaskingConfig()), 64)[:, features["flags"][0] > 0]
    rate = 10 / 61
    assert all(within(n, 8192, rate) for n in chosen.sum(0))
    together = chosen.astype(float).T @ chosen
    pairs = together[np.triu_indices(61, 1)]
    assert all(within(n, 8192, rate * 9 / 60, sigmas=5.5) for n in pairs)


def bert_reference(flags, order, predictions):
    """The loop of create_masked_lm_predictions, with the shuffle given as a number for each token's group."""
    groups = []
    for position, flag in enumerate(flags):
        if flag == 0:
            continue
        if groups and flag & WORD_INSIDE:
            groups[-1].append(position)
        else:
            groups.append([position])
    taken = []
    for group in sorted(groups, key=lambda group: -order[group[0]]):
        assert len({order[p] for p in group}) == 1
        if len(taken) >= predictions:
            break
        if len(taken) + len(group) > predictions:
            continue
        taken += group
    return sorted(taken)


@pytest.mark.parametrize("inside", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("cap", [3, 20])
def test_whole_words_follow_berts_greedy_rule(inside, cap):
    tf = tensorflow()
    features = make_features(rows=300, inside=inside)
    cfg = MaskingConfig("word", max_predictions=cap)
    masked = mask(features, cfg)
    order = unit_order(tf.constant(features["flags"], tf.int32), make_keys(np.arange(300)), "word").numpy()
    overshot = 0
    for row in range(300):
        predictions = min(cap, max(1, round(0.15 * int(features["segment_ids"][row].sum()))))
        wanted = bert_reference(features["flags"][row], order[row], predictions)
        found = masked["mlm_positions"][row][masked["loss_weights"][row] > 0]
        assert found.tolist() == wanted
        overshot += len(wanted) < predictions
    assert inside < 0.9 or overshot


def test_phrases_and_entities_read_their_own_bits():
    features = make_features(rows=64)
    words = chosen_of(mask(features, MaskingConfig("word")), 64)
    for unit, shift in (("phrase", 2), ("entity", 4)):
        moved = features | {"flags": features["flags"] << shift}
        np.testing.assert_array_equal(chosen_of(mask(moved, MaskingConfig(unit)), 64), words)


def test_a_mask_belongs_to_seed_pass_and_row_alone():
    features = make_features(rows=128)
    rows = np.arange(128) + 2**33
    whole = mask(features, MaskingConfig(), make_keys(rows))
    part = mask({k: v[77:20:-1] for k, v in features.items()}, MaskingConfig(), make_keys(rows[77:20:-1]))
    for name, value in part.items():
        np.testing.assert_array_equal(value, whole[name][77:20:-1])
    for other in (make_keys(rows, data_pass=1), make_keys(rows, seed=4), make_keys(rows - 2**33)):
        positions = mask(features, MaskingConfig(), other)["mlm_positions"]
        assert (positions != whole["mlm_positions"]).any(1).mean() > 0.95


def test_static_masks_are_the_same_in_every_pass():
    features, cfg = make_features(rows=64), MaskingConfig(dynamic=False)
    first, second = (mask(features, cfg, make_keys(np.arange(64), data_pass)) for data_pass in (0, 5))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_random_bits_are_uniform_and_change_with_every_input():
    counters = np.arange(64)[None]
    bits = random_bits(make_keys(np.arange(4096)), counters, 1).numpy()
    assert bits.shape == (4096, 64)
    assert all(len(np.unique(row)) == 64 for row in bits[:100])
    for bit in range(32):
        assert within((bits >> bit & 1).sum(), bits.size, 0.5)
    others = [
        random_bits(make_keys(np.arange(4096)), counters, 2),
        random_bits(make_keys(np.arange(4096) + 1), counters, 1),
        random_bits(make_keys(np.arange(4096), data_pass=1), counters, 1),
        random_bits(make_keys(np.arange(4096), seed=2), counters, 1),
        random_bits(make_keys(np.arange(4096)), counters + 1, 1),
    ]
    for other in others:
        flips = np.bitwise_count(bits ^ other.numpy()).sum()
        assert within(flips, bits.size * 32, 0.5)


def test_impossible_rates_are_refused():
    for bad in (
        {"rate": 0.0},
        {"rate": 1.5},
        {"mask": 0.9, "random": 0.2},
        {"max_predictions": -1},
        {"random_from": -5},
    ):
        with pytest.raises(UserError, match="masking"):
            MaskingConfig(**bad)


def test_units_with_equal_hashes_do_not_mingle(monkeypatch):
    tf = tensorflow()
    monkeypatch.setattr(masking, "random_bits", lambda keys, counters, purpose: tf.zeros_like(counters, tf.uint32))
    flags = tf.constant([[0, 1, 2, 1, 2, 2, 1, 0]], tf.int32)
    order = unit_order(flags, make_keys([0]), "word").numpy()[0]
    assert len(set(order[1:7])) == 3
    assert order[0] == order[7] == -1


@pytest.mark.parametrize("length", [13, 64])
def test_robertas_draw_is_fairseqs(length):
    """floor(0.15 n + u) of all n positions, special tokens too, each as likely as another; random words from id 4 on,
    <mask> among them."""
    cfg = MaskingConfig(selection="roberta", max_predictions=0, random_from=4)
    features = make_features(rows=8192, length=length)
    masked = mask(features, cfg)
    chosen, real = chosen_of(masked, length), features["segment_ids"]
    exact = 0.15 * real.sum(1)
    assert np.isin(chosen.sum(1) - np.floor(exact), [0, 1]).all()
    ups, part = (chosen.sum(1) > np.floor(exact)), exact % 1
    assert abs(ups.sum() - part.sum()) < 5 * np.sqrt((part * (1 - part)).sum())
    assert not chosen[real == 0].any()
    full = real.all(1)
    special = features["flags"][0] == 0
    for group in (special, ~special):
        assert within(chosen[full][:, group].sum(), full.sum() * group.sum(), 0.15)
    rows, slots = np.nonzero(masked["loss_weights"])
    now, before = masked["tokens"][rows, masked["mlm_positions"][rows, slots]], masked["targets"][rows, slots]
    words = now[(now != MASK) & (now != before)]
    assert words.min() > 4
    assert within((now == MASK).sum(), len(now), 0.8 + 0.1 / (VOCAB - 4))
    assert within((now == before).sum(), len(now), 0.1 + 0.1 / (VOCAB - 4) * (before > 3).mean())


def test_a_row_has_room_for_all_that_its_selection_can_ask_for():
    assert MaskingConfig(selection="roberta", max_predictions=0).predictions(512) == 77
    assert MaskingConfig(max_predictions=0).predictions(512) == 77
    assert MaskingConfig().predictions(512) == 20
    assert MaskingConfig(selection="ernie", max_predictions=512).predictions(128) == 128  # the whole row
    for unit, size in (("token", 1), ("word", 2), ("phrase", 2), ("entity", 3)):  # as a coin takes so many tokens
        wanted = 0.15 * 128 + 6 * np.sqrt(0.15 * 0.85 * 128 * size)
        assert MaskingConfig(unit, selection="ernie", max_predictions=0).predictions(128) == np.ceil(wanted)
    with pytest.raises(UserError, match="selection 'roberta' takes single positions; unit 'word'"):
        MaskingConfig("word", selection="roberta")


def ernie(unit="word", fate="token", room=64, **changes):
    return MaskingConfig(unit, selection="ernie", fate=fate, max_predictions=room, random_from=1, **changes)


@pytest.mark.parametrize("unit", ["token", "word"])
def test_ernies_coins_lie_within_binomial_bounds(unit):
    """Whole length, as in parity: nothing overflows, and each unit is chosen by itself."""
    features = make_features(rows=8192)
    masked = mask(features, ernie(unit))
    chosen, numbers = (
        chosen_of(masked, 64),
        unit_numbers(tensorflow().constant(features["flags"], "int32"), unit).numpy(),
    )
    numbers = np.where(features["flags"] == 0, 0, numbers)
    taken = np.array([len({*n[c]}) for n, c in zip(numbers, chosen, strict=True)])
    units = np.array([len({*n} - {0}) for n in numbers])
    assert within(taken.sum(), units.sum(), 0.15)
    assert abs(np.var(taken - 0.15 * units) / np.mean(units * 0.15 * 0.85) - 1) < 0.1  # no fixed number a row
    assert not masked["mlm_overflow"].any()
    assert (masked["masking_level"] == ["token", "word"].index(unit)).all()
    rows, slots = np.nonzero(masked["loss_weights"])
    now, before = masked["tokens"][rows, masked["mlm_positions"][rows, slots]], masked["targets"][rows, slots]
    assert within((now == MASK).sum(), len(now), 0.8 + 0.1 / (VOCAB - 1))
    assert within((now == before).sum(), len(now), 0.1 + 0.1 / (VOCAB - 1))
    assert now.min() >= 1


@pytest.mark.parametrize("fate", ["token", "unit"])
def test_a_units_tokens_meet_their_fate_alone_or_together(fate):
    features = make_features(rows=4096, inside=0.6)
    masked = mask(features, ernie(fate=fate, random=0.0, mask=0.5))
    numbers = unit_numbers(tensorflow().constant(features["flags"], "int32"), "word").numpy()
    chosen, hidden = chosen_of(masked, 64), masked["tokens"] == MASK
    inner = chosen[:, 1:] & chosen[:, :-1] & (numbers[:, 1:] == numbers[:, :-1])
    same = (hidden[:, 1:] == hidden[:, :-1])[inner]
    assert len(same) > 5000
    assert same.all() if fate == "unit" else within(same.sum(), len(same), 0.5)


@pytest.mark.parametrize("unit", ["token", "word"])
def test_what_finds_no_room_is_counted_and_units_stay_whole(unit):
    features = make_features(rows=2048)
    whole, capped = (mask(features, ernie(unit, room=room)) for room in (64, 6))
    left, all_ = capped["loss_weights"].sum(1), whole["loss_weights"].sum(1)
    np.testing.assert_array_equal(left + capped["mlm_overflow"], all_)
    assert (capped["mlm_overflow"][all_ <= 6] == 0).all()
    assert capped["mlm_overflow"].mean() > 1
    assert capped["loss_weights"].shape == (2048, 6)
    kept, chosen = chosen_of(capped, 64), chosen_of(whole, 64)
    assert not (kept & ~chosen).any()
    numbers = unit_numbers(tensorflow().constant(features["flags"], "int32"), unit).numpy()
    for row in range(200):
        assert not {*numbers[row][kept[row]]} & {*numbers[row][chosen[row] & ~kept[row]]}


@pytest.mark.parametrize("unit", ["token", "word"])
def test_mean_and_six_deviations_hold_all(unit):
    masked = mask(make_features(rows=8192), ernie(unit, room=0))
    assert masked["loss_weights"].shape[1] < 50
    assert not masked["mlm_overflow"].any()

"""Tasks put to small models: figures against slow, plain computations; what does not fit; who cannot do what."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from etils import epath

from lmjax import commands
from lmjax.beam import Beam, Found
from lmjax.errors import UserError
from lmjax.evals.evaluate import Protocol, Trial, evaluate, fitted
from lmjax.evals.fewshot import TASKS, first_line, rows_of
from lmjax.evals.generated import bleu
from lmjax.evals.scoring import RULES, Request, Score, score, split
from lmjax.evals.stop_words import STOP_WORDS
from lmjax.generate import Sampling, generate
from lmjax.interop import LanguageModel
from tests.evals.tasks_folder import ROWS, write_tasks
from tests.models.tiny import noisy, tiny
from tests.tiny_runs import tiny_tokenizer, write_run


def model(family, kind, heads, **shape):
    tokenizer = tiny_tokenizer(kind)
    cfg = tiny(family, vocab_size=tokenizer.vocab_size, **shape)
    return LanguageModel(cfg, heads, noisy(cfg, heads), tokenizer)


@pytest.fixture(scope="module")
def gpt():
    return model("gpt2", "byte_bpe", ("clm",), max_position_embeddings=128)


@pytest.fixture(scope="module")
def bert():
    return model("bert", "wordpiece", ("mlm",), max_position_embeddings=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return folder


def log_p(lm, context, continuation):
    """Of each token of the continuation, by the whole distribution of an unpadded row."""
    read = lm.tokenizer.encode(context) or [lm.tokenizer.eos_id]
    asked = lm.tokenizer.encode(context + continuation)[len(lm.tokenizer.encode(context)) :]
    tokens = np.zeros((1, 128), np.int32)  # what stands behind is not seen
    tokens[0, : len(read) + len(asked)] = read + asked
    table = jax.nn.log_softmax(lm(tokens=tokens)["logits"][0])
    return [float(table[len(read) + i - 1, token]) for i, token in enumerate(asked)]


@pytest.fixture(scope="module")
def questions(gpt, tmp_path_factory):
    """A folder of 12 questions with three answers each, and what the model makes of each answer: its text, its
    log-probabilities, and their sum after "Answer:" alone."""
    rng, words = np.random.default_rng(0), ["dog", "river", "bank", "postman", "elephants", "walked", "away", "naïve"]
    rows = [
        {"query": f"Question: {rng.choice(words)}\n", "choices": [" ".join(rng.choice(words, n)) for n in (1, 2, 4)]}
        for _ in range(12)
    ]
    rows = [row | {"gold": i % 3} for i, row in enumerate(rows)]
    folder = tmp_path_factory.mktemp("questions")
    (folder / "gpt_eval").mkdir()
    (folder / "gpt_eval/piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = [
        (c, log_p(gpt, f"{row['query']}Answer:", f" {c}"), sum(log_p(gpt, "Answer:", f" {c}")))
        for row in rows
        for c in row["choices"]
    ]
    return folder, seen


@pytest.mark.parametrize("rule", RULES)
def test_the_best_option_is_chosen_by_the_rule(rule, gpt, questions, monkeypatch):
    (folder, seen), asked = questions, []
    monkeypatch.setattr("lmjax.evals.evaluate.split", lambda tokenizer, x: asked.extend(x) or split(tokenizer, x))
    lengths = [(len(p), len(text), len(text.encode())) for text, p, _ in seen]
    by = {"per_token": 0, "per_character": 1, "per_byte": 2}
    values = [
        sum(p) - alone if rule == "unconditional" else sum(p) / (n[by[rule]] if rule in by else 1)
        for (_, p, alone), n in zip(seen, lengths, strict=True)
    ]
    expected = np.mean(np.argmax(np.reshape(values, (12, 3)), 1) == np.arange(12) % 3)
    found = evaluate(gpt, "piqa", folder, Protocol(rule=rule, batch_size=4))
    assert found["metrics"] == {"accuracy": pytest.approx(expected), "chance": pytest.approx(1 / 3)}
    assert (found["examples"], found["rule"], found["prompts_cut"]) == (12, rule, 0)
    alone = [text for text in asked if text[0] == "Answer:"]
    assert alone == [("Answer:", f" {text}") for text, *_ in seen if rule == "unconditional"]


def test_equally_good_answers_share_and_broken_scores_are_refused(gpt, questions, monkeypatch):
    """The right answer may always stand first, as in BLiMP: the first of all is no answer."""
    values = dict.fromkeys(RULES, lambda scored, text, alone: 0.0 if text != "walked" else -1.0)
    monkeypatch.setattr("lmjax.evals.evaluate.RULES", values)
    found = evaluate(gpt, "piqa", questions[0], Protocol(batch_size=4))["metrics"]
    rows = [json.loads(line) for line in (questions[0] / "gpt_eval/piqa.jsonl").read_text().splitlines()]
    shares = [(row["choices"][row["gold"]] != "walked") / sum(c != "walked" for c in row["choices"]) for row in rows]
    assert found["accuracy"] == pytest.approx(np.mean(shares))
    monkeypatch.setattr("lmjax.evals.evaluate.RULES", dict.fromkeys(RULES, lambda scored, text, alone: np.nan))
    with pytest.raises(UserError, match="probabilities are not numbers; its weights are damaged"):
        evaluate(gpt, "piqa", questions[0], Protocol(batch_size=4))


def test_partial_evaluation_reads_either_name_and_judges_the_rest(gpt, folder):
    hits = []
    for row in ROWS["gpt_eval/winogrande.jsonl"]:
        sums = [sum(log_p(gpt, context, f" {row['continuation']}")) for context in row["context_options"]]
        hits.append(int(np.argmax(sums)) == row["gold"])
    assert evaluate(gpt, "winogrande", folder, Protocol())["metrics"]["accuracy"] == np.mean(hits)


def test_words_foreseen(gpt, folder):
    sums = [sum(log_p(gpt, r["context"], f" {r['continuation']}")) for r in ROWS["gpt_eval/lambada_openai.jsonl"]]
    found = evaluate(gpt, "lambada", folder, Protocol())["metrics"]
    assert found["perplexity"] == pytest.approx(np.exp(-np.mean(sums)), rel=1e-4)
    assert found["accuracy"] == 0


def test_function_words_are_not_foreseen(gpt, folder, monkeypatch):
    """The tokens of LAMBADA's filter: those that are a whole function word, small or with a capital."""
    seen = []

    def judged(lm, requests, batch_size, progress, barred):
        seen.append([lm.tokenizer.decode([token]) for token in barred])
        return [Score(np.zeros(1), greedy=True)] * len(requests)

    monkeypatch.setattr("lmjax.evals.evaluate.score", judged)
    for name in ("lambada", "lambada_filtered"):
        assert evaluate(gpt, name, folder, Protocol())["metrics"]["accuracy"] == 1
    assert seen[0] == []
    assert {" the", " and", " a"} < set(seen[1])
    assert all(word[1:].lower() in STOP_WORDS for word in seen[1])


def test_perplexity_of_the_words_as_the_file_has_them(gpt, folder):
    """33 and 13 words between spaces; with windows of the whole model an article is read at once."""
    texts = [
        '= The dog =\nThe dog, a well-known animal (3.1 ft), said "bark".\n== Name ==\nIt\'s old.',
        "= A bank =\nThe clerk's bank, 1,000.",
    ]
    total = sum(sum(log_p(gpt, "", text)) for text in texts)
    tokens = sum(len(gpt.tokenizer.encode(text)) for text in texts)
    found = evaluate(gpt, "wikitext2", folder, Protocol(stride=128))["metrics"]
    assert found["words"] == 33 + 13
    assert found["tokens"] == tokens
    assert found["word_perplexity"] == pytest.approx(np.exp(-total / found["words"]), rel=1e-4)
    assert found["token_perplexity"] == pytest.approx(np.exp(-total / tokens), rel=1e-4)


def test_a_demonstration_changes_what_is_read_and_too_many_are_left_out(gpt, folder):
    bare, one, many = (evaluate(gpt, "lambada", folder, Protocol(shots=k, limit=1)) for k in (0, 1, 2))
    assert len({found["metrics"]["perplexity"] for found in (bare, one, many)}) == 3
    assert one["demonstrations_dropped"] == many["demonstrations_dropped"] == 0
    assert many["examples"] == 1
    small = model("gpt2", "byte_bpe", ("clm",), max_position_embeddings=32)
    found = evaluate(small, "piqa", folder, Protocol(shots=2, limit=2))
    assert found["demonstrations_dropped"] > 0
    assert found["prompts_cut"] == 1


def test_what_a_task_says_once_stands_before_all_demonstrations():
    task, tokenizer = TASKS["reversed_words"], tiny_tokenizer("byte_bpe")
    rows = [{"context": f"{word} =", "completion": word[::-1]} for word in ("god", "tac", "gip")]
    cfg = tiny("gpt2", vocab_size=tokenizer.vocab_size, max_position_embeddings=200)
    trial = Trial(LanguageModel(cfg, ("clm",), {}, tokenizer), task, Protocol(), rows, [])
    for shots, shown in ((rows[:2], "god = dog\ntac = cat\n"), ([], "")):
        (found,) = fitted(trial, shots, task.options(rows[2]))
        wanted = f"Please unscramble the letters into a word, and write that word:\n{shown}gip ="
        assert tokenizer.decode(found.context) == wanted
    (cloze,) = fitted(replace(trial, task=TASKS["lambada_cloze"]), [], [("An old ____. ->", " dog")])
    assert tokenizer.decode(cloze.context) == "Fill in blank:\n\nAn old ____. ->"


def test_demonstrations_are_left_out_one_at_a_time():
    task, tokenizer = TASKS["add_2_digits"], tiny_tokenizer("byte_bpe")
    rows = [{"context": f"Q: What is {i}?\n\nA:", "completion": f"{i}"} for i in range(4)]
    for left in range(4):
        text = "\n\n".join([*map(task.demonstration, rows[3 - left : 3]), rows[3]["context"]])
        exactly = len(tokenizer.encode(text)) + task.max_new_tokens
        for positions, dropped in ((exactly, 3 - left), (exactly - 1, min(4 - left, 3))):
            cfg = tiny("gpt2", vocab_size=tokenizer.vocab_size, max_position_embeddings=positions)
            trial = Trial(LanguageModel(cfg, ("clm",), {}, tokenizer), task, Protocol(), rows, [])
            (found,) = fitted(trial, rows[:3], [(rows[3]["context"], "")])
            assert (tokenizer.decode(found.context) == text) == (positions == exactly or left == 0)
            assert (trial.demonstrations_dropped, trial.prompts_cut) == (dropped, positions < exactly and left == 0)


def test_generated_answers(gpt, folder, monkeypatch):
    """Greedy text of a model that always says the same: its first line is measured."""
    prompts, new = [], []

    def say(cfg, params, rows, sampling, *, eos_id, seed):
        prompts.extend(gpt.tokenizer.decode(row) for row in rows)
        new.append(sampling.max_new_tokens)
        assert (sampling.temperature, len(rows)) == (0, 3)
        return [gpt.tokenizer.encode(" a dog!\nQuestion: Who")] * len(rows)

    monkeypatch.setattr("lmjax.evals.evaluate.generate", say)
    assert evaluate(gpt, "triviaqa", folder, Protocol(batch_size=3))["metrics"] == {"exact_match": 0.5}
    assert prompts == ["Question: Who barked?\nAnswer:", "Question: Who ran?\nAnswer:", prompts[0]]
    prompts.clear()
    evaluate(gpt, "triviaqa", folder, Protocol(shots=1, batch_size=3))
    assert prompts[0] == "Question: Who ran?\nAnswer: Postman\n\nQuestion: Who barked?\nAnswer:"
    prompts.clear()
    evaluate(gpt, "flores_en_de", folder, Protocol(batch_size=3, limit=1))
    evaluate(gpt, "flores_en_de", folder, Protocol(batch_size=3, limit=1, shots=1))
    assert prompts[::3] == [
        "Q: What is the German translation of A dog barks. A:",
        "A man runs. = Ein Mann läuft.\nA dog barks. =",
    ]
    assert new == [16, 16, 64, 64]


def test_text_behind_the_first_line_end_is_no_answer():
    assert [first_line(text) for text in (" a dog!\nQ", "\n143\n", "143")] == ["a dog!", "", "143"]


def test_answers_searched_for_by_beams_end_with_their_line(gpt, folder, monkeypatch):
    prompts = []

    def say(cfg, params, rows, beam, ends):
        prompts.extend(rows)
        assert (beam.beams, beam.alpha, beam.length_penalty, beam.max_extra) == (4, 0.6, "gnmt", 16)
        assert gpt.tokenizer.eos_id in ends
        assert gpt.tokenizer.encode("\n")[0] in ends
        assert all("\n" in gpt.tokenizer.decode([t]) for t in ends if t != gpt.tokenizer.eos_id)
        return [Found(gpt.tokenizer.encode(" a dog!"), -1.0)] * len(rows)

    with monkeypatch.context() as patched:
        patched.setattr("lmjax.evals.evaluate.continue_texts", say)
        found = evaluate(gpt, "triviaqa", folder, Protocol(batch_size=3, beams=4))
    assert found["metrics"] == {"exact_match": 0.5}
    assert len(prompts) == 3
    found = evaluate(gpt, "add_2_digits", folder, Protocol(limit=1, batch_size=1, beams=2))
    assert found["metrics"] == {"exact_match": 0.0}


def test_summaries_keep_the_cue_of_a_prompt_that_is_cut(folder, monkeypatch):
    gpt, seen = model("gpt2", "byte_bpe", ("clm",), max_position_embeddings=114), []

    def say(cfg, params, rows, sampling, *, eos_id, seed):
        seen.extend(rows)
        assert (sampling.top_k, sampling.max_new_tokens) == (2, 100)
        return [gpt.tokenizer.encode("Dog barked. Postman ran.")] * len(rows)

    monkeypatch.setattr("lmjax.evals.evaluate.generate", say)
    found = evaluate(gpt, "cnn_dailymail", folder, Protocol(batch_size=1))
    assert found["metrics"]["rougeLsum"] == pytest.approx(100)
    assert found["prompts_cut"] == 1
    assert len(seen[0]) == 14
    text = gpt.tokenizer.decode(seen[0])
    assert text.startswith("The dog")
    assert text.endswith("\nTL;DR:")


def test_text_is_really_generated(gpt, folder, monkeypatch):
    """An answer that the model gives is one that counts."""
    (row,) = rows_of(TASKS["add_2_digits"], folder, TASKS["add_2_digits"].files, 1)
    prompt = gpt.tokenizer.encode(row["context"])
    (said,) = generate(gpt.config, gpt.params, [prompt], Sampling(16, temperature=0), eos_id=gpt.tokenizer.eos_id)
    answer = first_line(gpt.tokenizer.decode(said))
    assert answer
    for wanted, share in ((answer, 1.0), (f"{answer} or not", 0.0)):
        told = replace(TASKS["add_2_digits"], target=f" {wanted}")
        monkeypatch.setitem(TASKS, "add_2_digits", told)
        found = evaluate(gpt, "add_2_digits", folder, Protocol(limit=1, batch_size=1))
        assert found["metrics"] == {"exact_match": share}


def test_a_model_that_translates(folder, monkeypatch):
    """It reads the source alone; its own translations are measured."""
    marian, seen = model("marian", "sentencepiece", ("seq2seq",), max_position_embeddings=16), []
    (said,) = marian.translate(["A dog barks."], Beam(4), 16)
    found = evaluate(marian, "flores_en_de", folder, Protocol(limit=1))
    assert found["metrics"] == bleu()([said], [["Ein Hund bellt."]])

    def say(self, texts, beam, batch_size):
        seen.extend([*texts, beam])
        return ["Ein Hund bellt.", "Ein Mann läuft."]

    monkeypatch.setattr(LanguageModel, "translate", say)
    assert evaluate(marian, "flores_en_de", folder, Protocol(beams=2))["metrics"]["bleu"] == pytest.approx(100)
    assert seen == ["A dog barks.", "A man runs.", Beam(2)]


def test_an_encoder_chooses(bert, folder):
    """The sentence whose tokens, masked in turn, are likelier."""
    pairs = [row["sentences"] for row in rows_of(TASKS["blimp"], folder, TASKS["blimp"].files, 2)]
    totals = [
        [score(bert, [Request((), bert.tokenizer.encode(text))])[0].log_probabilities.sum() for text in pair]
        for pair in pairs
    ]
    found = evaluate(bert, "blimp", folder, Protocol(limit=2))
    assert found["metrics"] == {"accuracy": np.mean([good > bad for good, bad in totals]), "chance": 0.5}
    assert found["examples"] == 2


REFUSED = [
    ("bert", "lambada", {}, "lambada: Bert predicts masked words and cannot continue a text"),
    ("bert", "nq", {}, "nq: Bert predicts masked words"),
    ("marian", "piqa", {}, "piqa: Transformer translates and reads no prompts"),
    ("marian", "flores_en_de", {"shots": 1}, "without shots"),
    ("elmo", "blimp", {}, "blimp: Elmo with heads bilm does no such task"),
    ("gpt2", "piqqa", {}, "unknown task 'piqqa'; did you mean 'piqa'"),
    ("gpt2", "wikitext2", {"shots": 1}, "knows no demonstrations"),
    ("gpt2", "wikitext2", {"stride": 17}, "--stride 17 is not within 1 and the model's 16"),
    ("gpt2", "cnn_dailymail", {}, "100 new tokens do not fit into the model's 16 positions"),
]


@pytest.mark.parametrize(("family", "task", "protocol", "complaint"), REFUSED)
def test_what_a_model_cannot_do(family, task, protocol, complaint, folder):
    heads = {"bert": "mlm", "marian": "seq2seq", "elmo": "bilm", "gpt2": "clm"}[family]
    lm = LanguageModel(tiny(family), (heads,), {}, tiny_tokenizer("byte_bpe"))
    with pytest.raises(UserError, match=complaint):
        evaluate(lm, task, folder, Protocol(**protocol))


def test_the_verb_prints_and_writes(tmp_path, folder, capsys):
    write_run("gpt2", tmp_path / "run", max_position_embeddings=64)
    arguments = ["--tasks", "piqa", "lambada", "--limit", "2", "--data", folder, "--out", tmp_path / "results.json"]
    commands.run(["evaluate", str(tmp_path / "run"), *map(str, arguments)])
    printed = capsys.readouterr()
    assert [line.split()[:2] for line in printed.out.splitlines()] == [["piqa", "accuracy"], ["lambada", "accuracy"]]
    assert "score: 100%" in printed.err
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["tasks"]["piqa"]["rule"] == "per_token"
    assert written["tasks"]["lambada"]["examples"] == written["protocol"]["limit"] == 2
    assert "jax" in json.dumps(written["environment"])
    with pytest.raises(UserError, match="no task; --tasks takes some of lambada, "):
        commands.run(["evaluate", str(tmp_path / "run")])


def test_arguments_that_make_no_sense(tmp_path, folder):
    with pytest.raises(UserError, match="--batch-size 1 or more"):
        Protocol(batch_size=0)
    with pytest.raises(UserError, match=r"--out .*results.json: no directory"):
        commands.run(["evaluate", "run", "--tasks", "piqa", "--out", str(tmp_path / "none/results.json")])


@pytest.mark.parametrize("name", ["winogrande", "openbookqa", "blimp"])
def test_real_rows(name, gpt, shared_data):
    """What is chosen, by the whole distribution of unpadded rows."""
    shared_data(TASKS[name].files[0].partition("/")[0])
    folder, task = epath.Path(shared_data("README.md").parent), TASKS[name]

    def value(option):
        alone = sum(log_p(gpt, "Answer:", option.target)) if task.rule == "unconditional" else 0
        return sum(log_p(gpt, *option)) - alone

    rows = rows_of(task, folder, task.files, 4)
    chosen = [int(np.argmax([value(option) for option in task.options(row)])) for row in rows]
    found = evaluate(gpt, name, folder, Protocol(limit=4))
    assert found["metrics"]["accuracy"] == np.mean([a == row[task.gold] for a, row in zip(chosen, rows, strict=True)])
    assert (found["examples"], found["prompts_cut"]) == (4, 0)

"""A conversation: streaming, history, stopping, UTF-8; a person at a terminal, or lines over a pipe."""

import io
from dataclasses import replace

import pytest

from lmjax import chat as chat_module
from lmjax import commands, interop
from lmjax.chat import chat, fitted, pieces
from lmjax.data.chat_template import TEMPLATES, Turn, prompt_tokens
from lmjax.errors import UserError
from lmjax.generate import Sampling, generate, stream
from lmjax.interop import load
from lmjax.train.saved import Saved, read_saved
from tests.tiny_runs import tiny_tokenizer, write_run


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece"])
def test_a_character_of_several_tokens_comes_whole(kind):
    tokenizer = tiny_tokenizer(kind)
    text = "The dog – 漢字 and 🙂🙂! é" if kind == "byte_bpe" else "The river and the dog"
    ids = tokenizer.encode(text)
    parts = list(pieces(tokenizer, ids))
    assert "".join(parts) == text
    assert len(parts) > 5
    assert not any("\ufffd" in part for part in parts)
    cut = tokenizer.encode("a 🙂")[:-1]
    assert "".join(pieces(tokenizer, cut)) == tokenizer.decode(cut)  # what never became one is shown at the end


def test_the_history_is_cut_by_whole_exchanges_and_the_system_turn_stays():
    template, tokenizer = TEMPLATES["plain"], tiny_tokenizer("byte_bpe")
    system = Turn("system", "Be kind.")
    turns = [turn for i in range(9) for turn in (Turn("user", f"dog {i}"), Turn("assistant", "river " * i))][:-1]
    sizes = [len(prompt_tokens(template, tokenizer, [system, *turns[i:]])) for i in range(0, 17, 2)]
    for begin, size in enumerate(sizes):
        assert fitted(template, tokenizer, [system, *turns], size) == [system, *turns[2 * begin :]]
    for room in range(sizes[-1], sizes[0]):
        assert fitted(template, tokenizer, [system, *turns], room)[1].role == "user"
    with pytest.raises(UserError, match=rf"a prompt of {sizes[-1]} tokens, and the model has room for {sizes[-1] - 1}"):
        fitted(template, tokenizer, [system, *turns], sizes[-1] - 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("chat") / "run"
    write_run("gpt2", directory, max_position_embeddings=128)
    tiny_tokenizer("byte_bpe").with_chat_template(TEMPLATES["plain"]).save(directory / "tokenizer")
    return directory


@pytest.fixture
def talk(model, monkeypatch, capsys):
    """Says lines to the model, over a pipe or as a person who types, and returns what it printed."""

    def run(*lines, person=False, arguments=()):
        def typed(prompt):
            line = next(said)
            if isinstance(line, type):
                raise line
            return line

        said = iter([*lines, EOFError])
        monkeypatch.setattr("builtins.input", typed)
        stdin = io.StringIO("".join(f"{line}\n" for line in lines if not isinstance(line, type)))
        stdin.isatty = lambda: person
        monkeypatch.setattr("sys.stdin", stdin)
        commands.run(["chat", str(model), "--max-new-tokens", "8", "--temperature", "1", *arguments])
        return capsys.readouterr()

    return run


def test_streaming_gives_what_generate_gives(model):
    lm, sampling = load(model), Sampling(8)
    for prompt, seed in (([5, 7, 11, 2], 0), ([3] * 20, 1)):
        (wanted,) = generate(lm.config, lm.params, [prompt], sampling, seed=seed)
        assert list(stream(lm.config, lm.params, prompt, sampling, seed=seed)) == wanted
        cut = wanted[: wanted.index(wanted[5])]
        assert list(stream(lm.config, lm.params, prompt, sampling, eos_id=wanted[5], seed=seed)) == cut
    with pytest.raises(UserError, match="a prompt of 125 tokens and 8 new ones exceed"):
        next(stream(lm.config, lm.params, [3] * 125, sampling))


def expected(lm, *turns, seed=0):
    """What the model says next, whole, and as the history has it."""
    prompt = prompt_tokens(lm.chat_template, lm.tokenizer, turns).tolist()
    sampling = Sampling(8)
    (ids,) = generate(lm.config, lm.params, [prompt], sampling, eos_id=lm.tokenizer.eos_id, seed=seed)
    text = lm.tokenizer.decode(ids)
    assert lm.answer([turns], sampling, seed) == [text.strip()]
    return text.lstrip(), Turn("assistant", text.strip())


def test_piped_lines_are_answered_with_their_history_each_from_its_seed(model, talk):
    lm, first, second = load(model), Turn("user", "The dog"), Turn("user", "A bank")
    one, said = expected(lm, first, seed=3)
    two, _ = expected(lm, first, said, second, seed=4)
    three, _ = expected(lm, second, seed=5)
    assert len({one, two, three, expected(lm, first, seed=5)[0], expected(lm, second, seed=4)[0]}) == 5
    lines = ("The dog", "  A bank ", "", "/reset", "A bank", "/quit", "The dog")
    found = talk(*lines, arguments=("--seed", "3"))
    assert (found.out, found.err) == (f"{one}\n{two}\n{three}\n", "")
    told, _ = expected(lm, Turn("system", "Be."), second)
    assert talk("A bank", arguments=("--system", "Be.")).out == f"{told}\n"
    assert talk("/reset", "A bank", arguments=("--system", "Be.")).out == f"{told}\n"


def test_an_answer_ends_with_the_end_token(model, talk, monkeypatch):
    """Whichever that is: here one that the model is about to say."""
    lm = load(model)
    prompt = prompt_tokens(lm.chat_template, lm.tokenizer, [Turn("user", "The dog")]).tolist()
    (ids,) = generate(lm.config, lm.params, [prompt], Sampling(8), seed=0)
    assert ids[5] not in ids[:5]
    monkeypatch.setattr(
        type(lm.tokenizer), "eos_id", property(lambda self: ids[5], lambda self, value: None), raising=False
    )
    assert talk("The dog").out == f"{lm.tokenizer.decode(ids[:5]).lstrip()}\n"


def test_a_long_talk_goes_on_without_its_beginning(model, talk):
    found = talk(*["dog " * 12] * 9, "/helo", person=True)
    assert found.err == ""
    assert found.out.count("2 older turns do not fit, and are left out from now on") > 3
    assert "no command /helo; /help shows this" in found.out


def test_a_person_may_stop_an_answer_and_leaves_cleanly(model, talk, monkeypatch):
    def interrupted(*arguments, **options):
        prompts.append(arguments[2])
        yield from list(real(*arguments, **options))[:2]
        raise KeyboardInterrupt

    real, prompts = chat_module.stream, []
    monkeypatch.setattr(chat_module, "stream", interrupted)
    found = talk("The dog", "dog " * 200, "/help", "And then?", person=True)
    assert found.out.count("/reset") == 2
    assert "lmjax: the message makes a prompt of" in found.err
    assert found.err.count("\n") == 1
    assert len(prompts) == 2
    assert len(prompts[1]) > len(prompts[0]) + 10  # the stopped answer is part of the history
    assert talk(KeyboardInterrupt, person=True).err == ""
    assert talk(" /quit", "The dog", person=True).out.count("\n") == 1
    with pytest.raises(KeyboardInterrupt):
        talk("The dog")  # over a pipe it ends the command
    with pytest.raises(UserError, match="the message makes a prompt of"):
        talk("dog " * 200)


def test_a_model_without_a_template_says_so(model, talk, monkeypatch):
    tokenizer, without = load(model).tokenizer, tiny_tokenizer("byte_bpe")
    assert tokenizer.fingerprint == without.fingerprint
    saved = read_saved(model)
    monkeypatch.setattr(interop, "read_saved", lambda path, average: Saved(saved.model, without))
    with pytest.raises(UserError, match="this model has no chat template: it was not tuned to answer"):
        talk("The dog")
    assert talk("The dog", arguments=("--template", "plain")).out.endswith("\n")
    with pytest.raises(UserError, match="unknown chat template 'plan'; did you mean 'plain'"):
        talk("The dog", arguments=("--template", "plan"))


def test_a_reward_model_does_not_talk(model):
    """It has the template, and a tied output layer that nobody trained."""
    with pytest.raises(UserError, match="generate needs a model with head clm, and this GptConfig has none"):
        chat(replace(load(model), heads=()), Sampling(8))


def test_the_template_goes_where_the_model_goes(model, tmp_path):
    load(model / "best").save_hf(tmp_path / "hf")
    assert load(tmp_path / "hf").chat_template == TEMPLATES["plain"]
    load(tmp_path / "hf").save_hf(tmp_path / "again")
    assert load(tmp_path / "again").chat_template == TEMPLATES["plain"]

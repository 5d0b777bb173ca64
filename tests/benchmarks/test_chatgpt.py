"""benchmarks/chatgpt: what its file of results remembers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import chatgpt
from lmjax.chatgpt.recipe import Recipe


def test_results_remember_the_seeds_of_the_same_recipe_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatgpt, "FILE", tmp_path / "results.json")
    found = chatgpt.known()
    assert (found["seeds"], found["courses"]) == ({}, {})
    found["seeds"]["1"] = {"gain": [1.0, 0.1]}
    chatgpt.FILE.write_text(json.dumps(found))
    assert chatgpt.known() == found
    longer = replace(Recipe(), iterations=Recipe().iterations + 1)
    monkeypatch.setattr(chatgpt, "Recipe", lambda: longer)
    assert chatgpt.known()["seeds"] == {}

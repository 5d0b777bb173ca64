"""Configs: to JSON and back, what changes a run's meaning, and what the command line makes of right and wrong input."""

import json
from dataclasses import dataclass, replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.config import (
    SCHEMA_VERSION,
    differences,
    from_json,
    from_stored,
    load_and_override,
    load_config,
    operational,
    override,
    stored,
    to_json,
)
from lmjax.errors import UserError

pytestmark = pytest.mark.core


@dataclass(frozen=True)
class Source:
    seed: int = 0


@dataclass(frozen=True)
class Files(Source):
    paths: tuple[str, ...] = ()
    encoding: Literal["utf-8", "latin-1"] = "utf-8"


@dataclass(frozen=True)
class Lines(Files):
    limit: int | None = None


@dataclass(frozen=True)
class Stage:
    until_step: int
    batch_size: int = 8


@dataclass(frozen=True)
class Optim:
    peak_lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Mesh:
    data: int = -1


@dataclass(frozen=True)
class Run:
    source: Source = Source()
    stages: tuple[Stage, ...] = (Stage(10), Stage(20))
    optim: Optim = Optim()
    masking: Stage | None = None
    skips: tuple[tuple[int, int], ...] = ()
    mesh: Mesh = operational(Mesh())
    every: int = operational(100)


integers = st.integers(-(2**40), 2**40)
stages = st.builds(Stage, integers, integers)
sources = st.one_of(
    st.builds(Source, integers),
    st.builds(Files, integers, st.lists(st.text()).map(tuple), st.sampled_from(["utf-8", "latin-1"])),
    st.builds(Lines, integers, st.lists(st.text()).map(tuple), limit=st.none() | integers),
)
runs = st.builds(
    Run,
    sources,
    st.lists(stages).map(tuple),
    st.builds(Optim, st.floats(allow_nan=False), st.tuples(st.floats(0, 1), st.floats(0, 1))),
    st.none() | stages,
    st.lists(st.tuples(integers, integers)).map(tuple),
)


@given(runs)
def test_json_round_trip_gives_an_equal_config(cfg):
    assert from_json(Run, json.loads(json.dumps(to_json(cfg)))) == cfg
    assert from_stored(Run, json.loads(json.dumps(stored(cfg))), "config.json") == cfg


def test_a_missing_field_takes_its_default_and_an_integer_serves_as_a_float():
    cfg = from_json(Run, {"optim": {"peak_lr": 1}})
    assert cfg == Run(optim=Optim(peak_lr=1.0))
    assert type(cfg.optim.peak_lr) is float


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"optim": {"peek_lr": 1.0}}, "config.optim: unknown key 'peek_lr'; did you mean 'peak_lr'?"),
        ({"source": {"type": "Flies"}}, "config.source: unknown type 'Flies'; did you mean 'Files'?"),
        ({"source": {"type": "Stage"}}, "config.source: unknown type 'Stage'"),
        ({"source": {"type": ["Files"]}}, "config.source: unknown type"),
        ({"source": {"paths": []}}, "config.source: unknown key 'paths'; known: seed"),
        ({"source": {"type": "Files", "encoding": "utf8"}}, "config.source.encoding: 'utf8' is none of 'utf-8'"),
        ({"stages": [{"until_step": 1}, {"until_step": "2"}]}, "config.stages.1.until_step: expected int, found '2'"),
        ({"stages": [{}]}, "config.stages.0: .*until_step"),
        ({"stages": {}}, "config.stages: expected a list"),
        ({"optim": {"betas": [0.9]}}, "config.optim.betas: expected 2 values"),
        ({"every": True}, "config.every: expected int, found True"),
        ({"mesh": None}, "config.mesh: expected an object, found None"),
    ],
)
def test_wrong_json_is_one_line_that_names_the_key(data, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as error:
        from_json(Run, data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, None])
def test_another_schema_is_refused_by_its_version(version):
    old = stored(Run()) | {"schema_version": version}
    with pytest.raises(UserError, match=f"runs/a/config.json: config schema {version}, .* reads {SCHEMA_VERSION}"):
        from_stored(Run, old, "runs/a/config.json")


def test_differences_name_what_changes_the_meaning_and_pass_over_the_operational():
    old = Run()
    assert differences(old, Run(mesh=Mesh(4), every=7)) == []
    new = replace(old, stages=(Stage(10), Stage(20, 4)), optim=Optim(betas=(0.9, 0.98)), mesh=Mesh(2))
    assert differences(old, new) == ["stages.1.batch_size (8 -> 4)", "optim.betas.1 (0.999 -> 0.98)"]
    assert differences(old, replace(old, source=Files())) == ["source (Source -> Files)"]
    (difference,) = differences(old, replace(old, stages=(Stage(10),)))
    assert difference.startswith("stages (")


def test_the_command_line_overrides_nested_fields_of_what_the_config_chose():
    cfg = Run(source=Files(paths=("a",)))
    line = "--stages.0.until-step 5 --optim.betas 0.8 0.9 --source.paths b c --skips 3 1 7 2 --mesh.data 2"
    assert override(cfg, line.split(), "run") == Run(
        source=Files(paths=("b", "c")),
        stages=(Stage(5), Stage(20)),
        optim=Optim(betas=(0.8, 0.9)),
        skips=((3, 1), (7, 2)),
        mesh=Mesh(2),
    )
    assert override(cfg, [], "run") == cfg


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--stages.0.untl-step 5", "--stages.0.until-step"),
        ("--optim.peek-lr 1", "--optim.peak-lr"),
        ("--every often", "--every"),
    ],
)
def test_a_wrong_override_exits_with_2_and_names_the_near_field(line, said, capfd):
    with pytest.raises(SystemExit) as error:
        override(Run(), line.split(), "run")
    assert error.value.code == 2
    assert said in "".join(capfd.readouterr())


def test_a_config_file_is_read_and_overridden(tmp_path):
    file = tmp_path / "mini.py"
    file.write_text("from lmjax.parallel import MeshConfig\n\n\ndef config():\n    return MeshConfig(data=4)\n")
    from lmjax.parallel import MeshConfig

    assert load_and_override([str(file), "--fsdp", "2"], "run", MeshConfig) == MeshConfig(data=4, fsdp=2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "no config file .*mini.py"),
        ("x = 1\n", r"mini.py defines no function config\(\) -> Run"),
        ("def config():\n    return 1\n", r"mini.py: config\(\) returned int, not Run"),
    ],
)
def test_a_wrong_config_file_is_one_line(tmp_path, source, message):
    file = tmp_path / "mini.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(UserError, match=message):
        load_config(str(file), Run)
    (tmp_path / "config.json").touch()
    with pytest.raises(UserError, match=r"config\.json is no Python file"):
        load_config(str(tmp_path / "config.json"), Run)


@pytest.mark.parametrize("arguments", [[], ["--every", "3"]])
def test_without_a_config_file_the_usage_is_told(arguments):
    with pytest.raises(UserError, match=r"usage: run CONFIG.py"):
        load_and_override(arguments, "run", Run)

"""From a config to what the loop runs: task, model, mesh, optimizer, placed state, compiled steps, open data.

Everything that can be wrong with a config is found here, by abstract evaluation, before data or devices are touched.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax.data.examples import Encoded, open_examples, table_of
from lmjax.data.instances import Table, open_table
from lmjax.data.pipeline import Stream, batches, heldout_batches
from lmjax.data.prepare import rows_of
from lmjax.data.schedule import Schedule
from lmjax.data.store import Store
from lmjax.errors import UserError
from lmjax.models import architecture_of
from lmjax.models.architecture import Architecture, abstract_params, check, init_params, model_inputs
from lmjax.models.wrapped import init_wrapped, with_new_layers, wrap
from lmjax.parallel import Rules, batch_sharding, batch_share, check_rows, like_params, make_mesh, shardings
from lmjax.tasks import Task, make_task
from lmjax.train.evaluate import make_predict_step
from lmjax.train.optim import frozen, make_optimizer, make_schedule
from lmjax.train.step import Apply, make_eval_step, make_train_step
from lmjax.train.warm_start import warm_started
from lmjax.types import Outputs, Params, TrainState

if TYPE_CHECKING:
    from lmjax.run import RunConfig


@dataclass(frozen=True)
class Program:
    """The compiled side of a run. `train_step` donates the state."""

    task: Task
    architecture: Architecture
    schedule: Schedule
    mesh: Mesh
    init_state: Callable[[], TrainState]
    abstract_state: TrainState  # ShapeDtypeStructs with shardings
    train_step: Callable[..., tuple[TrainState, dict[str, Any]]]
    eval_step: Callable[..., tuple[Mapping[str, Any], dict[str, Any]]]
    predict_step: Callable[..., tuple[Mapping[str, Any], Mapping[str, Any]]]  # of a task on labelled examples
    heldout_carry: Callable[[], dict[str, Any]]  # what evaluation begins with: {"carry": ...}, or nothing
    flops: Callable[[int], float]  # of one row of a stage's batch, forwards and, of what is trained, backwards


def assemble(cfg: "RunConfig") -> Program:
    """Builds and checks the program of a run.

    Raises:
      UserError: a shape, batch size, head count or mesh that does not fit.
    """
    task, architecture, schedule = make_task(cfg.task), architecture_of(cfg.model), Schedule(cfg.stages, cfg.skips)
    mesh = make_mesh(cfg.mesh)
    heads = task.heads_of(architecture)
    if lacking := [head for head in heads if head not in architecture.heads]:
        task_name, model_name = type(cfg.task).__name__, type(cfg.model).__name__
        raise UserError(f"{task_name} needs a model with head {lacking[0]}, which {model_name} lacks; choose another")
    for stage in cfg.stages:
        check(cfg.model, stage.length)
        check_rows(stage.micro_batch, mesh)
    if task.carry:
        _check_carry(cfg)
    apply, draw = _model(cfg, task, architecture, heads)

    layer = task.supervised.layer if task.supervised else None
    tx, is_frozen = make_optimizer(cfg.optim), bool(task.supervised and task.supervised.features.frozen)
    if is_frozen:
        tx = frozen(tx, abstract_params(architecture, cfg.model, heads))
    whole_run = schedule.steps if cfg.optim.unit == "steps" else schedule.tokens_before(schedule.steps)
    train_step = make_train_step(apply, task.objective, tx, make_schedule(cfg.optim, whole_run), cfg.optim.unit)
    eval_step = make_eval_step(apply, task.objective)

    def init() -> TrainState:
        key = jax.random.key(cfg.seed, impl=cfg.prng)
        # Parameters always by the same generator: the choice for dropout must not change them.
        params = draw(jax.random.key(cfg.seed, impl="threefry2x32"))
        best = {"step": jnp.full((), -1, jnp.int32), "loss": jnp.full((), jnp.inf, jnp.float32)}
        extra = {"best": best, **carry(cfg.stages[0].micro_batches)}
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), key, extra)

    def carry(*micro_batches: int) -> dict[str, Any]:
        if not task.carry or architecture.carry is None:
            return {}
        empty = architecture.carry(cfg.model, cfg.stages[-1].micro_batch)
        return {"carry": jax.tree.map(lambda x: jnp.broadcast_to(x, (*micro_batches, *x.shape)), empty)}

    by_rows = jax.tree.map(lambda _: batch_sharding(mesh, False)(np.zeros(1)), jax.eval_shape(carry))
    abstract = jax.eval_shape(init)
    placed = _place(abstract, with_new_layers(architecture, cfg.model, heads, abstract.params), mesh)
    where = jax.tree.map(lambda leaf: leaf.sharding, placed)
    train_step = jax.jit(train_step, donate_argnums=0, out_shardings=(where, None))
    with jax.set_mesh(mesh):
        for index in range(len(cfg.stages)):
            train_step.eval_shape(placed, _abstract_batch(task, cfg, index, mesh))  # the first step finds this trace

    def flops(index: int) -> float:
        stage = cfg.stages[index]
        predictions = task.predictions(stage.length, stage.masking)
        sequences = task.supervised.sequences if task.supervised else 1
        return (1 if is_frozen else 3) * sequences * architecture.flops(cfg.model, stage.length, heads, predictions)

    return Program(
        task=task,
        architecture=architecture,
        schedule=schedule,
        mesh=mesh,
        init_state=lambda: warm_started(jax.jit(init, out_shardings=where)(), cfg.init_from, cfg.model, layer),
        abstract_state=placed,
        train_step=train_step,
        eval_step=jax.jit(eval_step),
        predict_step=jax.jit(make_predict_step(apply, task)),
        heldout_carry=jax.jit(carry, out_shardings=by_rows),
        flops=flops,
    )


def _model(
    cfg: "RunConfig", task: Task, architecture: Architecture, heads: tuple[str, ...]
) -> tuple[Apply, Callable[[jax.Array], Params]]:
    """The model with what the task puts on top: what applies it, and what draws its parameters from a key."""
    module: Any = architecture.build(cfg.model, heads)
    draw = partial(init_params, architecture, cfg.model, heads)
    if task.supervised:
        module = wrap(architecture, cfg.model, heads, task.supervised.read, task.supervised.features)
        rows = cfg.stages[-1].micro_batch  # as many as the mesh divides: a task may read logits, which lie on it
        draw = partial(init_wrapped, module, task.features(rows, cfg.stages[-1].length, None))

    def apply(params: Any, batch: Any, key: jax.Array | None) -> Outputs:
        rngs = {} if key is None else {"rngs": {"dropout": key}}
        inputs = {"batch": batch} if task.supervised else model_inputs(architecture, batch)
        return module.apply({"params": params}, **inputs, train=key is not None, **rngs)

    return apply, draw


def _check_carry(cfg: "RunConfig") -> None:
    """A state carried from batch to batch belongs to the rows of one batch size, all of them read at each step."""
    if len({(s.batch_size, s.micro_batches) for s in cfg.stages}) > 1 or any(s.ramp_from for s in cfg.stages):
        raise UserError("a task that carries states needs one batch_size and micro_batches in all stages, and no ramp")


def _place(state: TrainState, rules: Rules, mesh: Mesh) -> TrainState:
    params = shardings(rules, state.params, mesh)
    replicated, by_rows = NamedSharding(mesh, P()), batch_sharding(mesh)(np.zeros(1))
    extra = {k: jax.tree.map(lambda _, k=k: by_rows if k == "carry" else replicated, v) for k, v in state.extra.items()}
    where = jax.tree.map(lambda _: replicated, state).replace(
        params=params, opt_state=like_params(state.opt_state, state.params, params, mesh), extra=extra
    )
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, where)


def _abstract_batch(task: Task, cfg: "RunConfig", index: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    stage, place = cfg.stages[index], batch_sharding(mesh)
    features = task.features(stage.micro_batch, stage.length, stage.masking)
    cut = {k: jax.ShapeDtypeStruct((stage.micro_batches, *v.shape), v.dtype) for k, v in features.items()}
    counts = {"micro_batches": np.int32, "tokens_seen": np.float32}
    whole = cut | {k: jax.ShapeDtypeStruct((), dtype) for k, dtype in counts.items()}
    return {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=place(v)) for k, v in whole.items()}


@dataclass(frozen=True)
class Data:
    """The open data of a run, this process's share where nothing else is said."""

    tokenizer: Any
    train: Callable[[int, int], Iterator[tuple[int, dict[str, np.ndarray]]]]  # (first step, end) -> (step, batch)
    heldout: Callable[..., Iterator[dict[str, np.ndarray]]]  # of labelled examples, of any split by its name
    heldout_whole: Callable[[], Iterator[dict[str, np.ndarray]]]  # the rows of all processes
    token_counts: Callable[[], np.ndarray]  # int64 [vocabulary], over the first tokens of the training side
    examples: Mapping[str, Encoded]  # the splits of labelled examples; of text, nothing


def open_data(cfg: "RunConfig", program: Program) -> Data:
    """Opens the stores. Raises UserError where they are missing, or of another vocabulary than the model's; the table
    of a model that was trained before may have rows that its tokenizer does not use."""
    task, share = program.task, batch_share(program.mesh)
    stores = [Store.open(entry.data.store) for entry in cfg.data]
    tokenizer = stores[0].tokenizer
    if any(s.tokenizer.fingerprint != tokenizer.fingerprint for s in stores):
        raise UserError("the run's stores were made with different tokenizers; prepare them with one")
    unused = cfg.model.vocab_size - tokenizer.vocab_size - (task.supervised.new_tokens if task.supervised else 0)
    if unused < 0 or (unused and not task.supervised and not cfg.init_from):
        raise UserError(
            f"model.vocab_size is {cfg.model.vocab_size}, but the tokenizer of {cfg.data[0].data.store} has "
            f"{tokenizer.vocab_size} entries; set model.vocab_size to that"
        )
    for field, theirs in {"decoder_start_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.eos_id}.items():
        if getattr(cfg.model, field, theirs) != theirs:
            raise UserError(f"model.{field} is {getattr(cfg.model, field)}, but the tokenizer's is {theirs}; set it so")

    examples = open_examples(stores[0]) if task.supervised else {}

    def open_split(i: int, rows: Any, split: str) -> Table:
        if task.supervised:
            return table_of(examples[split], rows.length, tokenizer)
        return open_table(rows, stores[i], split, cfg.seed)

    def tables(index: int, split: str) -> tuple[list[Any], list[float]]:
        stage = cfg.stages[index]
        chosen = stage.data or range(len(stores))
        if not set(chosen) <= set(range(len(stores))):
            raise UserError(f"stages.{index}.data {stage.data}: the run has data entries 0 to {len(stores) - 1}")
        rows = {i: rows_of(cfg.data[i].data.source, task.instances(stage.length)) for i in chosen}
        for i, instances in rows.items():
            types = getattr(cfg.model, "type_vocab_size", instances.token_types)
            if instances.token_types > types:
                raise UserError(
                    f"rows of {cfg.data[i].data.store} have {instances.token_types} token types, the model {types}; "
                    "raise model.type_vocab_size"
                )
        return [open_split(i, rows[i], split) for i in chosen], [cfg.data[i].weight for i in chosen]

    def stream(index: int) -> Stream:
        found, weights = tables(index, "train")
        return Stream(tuple(found), tuple(weights), task.transform(cfg.stages[index].masking, tokenizer))

    streams = [stream(index) for index in range(len(cfg.stages))]
    last = cfg.stages[-1]
    heldout_tables, _ = tables(len(cfg.stages) - 1, "heldout")

    @cache
    def sources(process: int, processes: int, split: str) -> list[Iterable[dict[str, np.ndarray]]]:
        shown = [table_of(examples[split], last.length, tokenizer)] if task.supervised else heldout_tables
        rows, transform = math.ceil(cfg.evaluation.rows / len(shown)) or None, task.transform(last.masking, tokenizer)
        read = partial(heldout_batches, transform=transform, batch_size=last.micro_batch, seed=cfg.seed, rows=rows)
        return [read(table, process_index=process, process_count=processes) for table in shown]

    def heldout(process: int, processes: int, split: str = "heldout") -> Iterator[dict[str, np.ndarray]]:
        return chain.from_iterable(sources(process, processes, split))

    def token_counts() -> np.ndarray:
        predicted = [task.instances(last.length).predicted(s.split("train")) for s in stores]
        return np.sum([np.bincount(tokens, minlength=tokenizer.vocab_size) for tokens in predicted], axis=0)

    def train(first: int, end: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        return batches(streams, program.schedule, cfg.seed, first, end, *share)

    return Data(tokenizer, train, partial(heldout, *share), partial(heldout, 0, 1), token_counts, examples)

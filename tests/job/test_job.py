"""The job file: what is accepted, and what is said about the rest."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from incr_core.engines import LocalEngine
from incr_core.errors import ArgumentError, JobError, StrategyError, StreamError
from incr_core.job import Job

MINIMAL = """
[stream]
path = "people.parquet"
every = 500

[features]
label = "tall"

[learner]
objective = "binary"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(text)
    return path


def test_ten_lines_without_columns_take_all_columns_by_their_type(table: Path) -> None:
    job = Job.read(write(table.parent, MINIMAL), ['features.label="size"', "learner.objective=multiclass"])
    assert job.features.numeric == ["height", "weight", "tall", "score"]
    assert job.features.categorical == ["colour"]
    assert job.features.classes == ["large", "medium", "small"]
    assert job.stream.path == str(table)


@pytest.mark.parametrize("written", ["2013-02-01", "2013-02-01T06:00:00", "2013-02-01 06:00:00Z"])
def test_a_time_may_be_a_date_of_toml_or_text(table: Path, written: str) -> None:
    """And leaves the same job, so that one may be changed into the other in the midst of a run."""
    text = MINIMAL.replace("every = 500", 'every = 500\npredict_at = "at"\nwarm_start = "%s"')
    quoted = Job.read(write(table.parent, text % written.replace(" ", "T").replace("Z", "+00:00")))
    plain = Job.read(write(table.parent, text.replace('"%s"', "%s") % written))
    assert plain == quoted
    assert plain.fingerprint() == quoted.fingerprint()


@pytest.mark.parametrize("objective", ["multiclass", "multilabel"])
def test_a_job_whose_classes_nobody_looked_for_says_so(table: Path, objective: str) -> None:
    document = {"stream": {"path": str(table)}, "features": {"label": "size"}, "learner": {"objective": objective}}
    with pytest.raises(JobError, match=rf"features.classes: expected those of the objective {objective}, got none"):
        Job.from_document(document).objective()


def test_a_resolved_job_reads_back_as_itself(table: Path) -> None:
    job = Job.read(write(table.parent, MINIMAL))
    again = Job.read(write(table.parent, job.toml()))
    assert again == job
    assert again.fingerprint() == job.fingerprint()
    assert again.with_settings(["learner.seed=1"]).fingerprint() != job.fingerprint()


@pytest.mark.parametrize(
    "setting",
    [
        "cluster.address=10.0.0.7:6379",
        "cluster.timeout=5",
        "cluster.spares=1",
        "cluster.replicas=7",
        "cluster.gpus=0.3333",
        "learner.graphs=true",
        "model.encoder_cache=1GB",
        "publish.keep=3",
    ],
)
def test_how_a_run_is_operated_makes_no_other_run(table: Path, setting: str) -> None:
    job = Job.read(write(table.parent, MINIMAL))
    assert job.with_settings([setting]).fingerprint() == job.fingerprint()
    assert job.with_settings(["cluster.average_every=7"]).fingerprint() != job.fingerprint()


@pytest.mark.parametrize("changed", ["federated.min_clients=2", "federated.round_timeout=1m"])
@pytest.mark.parametrize(
    ("settings", "decides"),
    [
        ([], []),
        (["federated.fraction=0.5"], ["min_clients"]),
        (["federated.availability={present=0.5}"], ["min_clients", "round_timeout"]),
        (["federated.fraction=0.5", "federated.superlink=a:1"], []),
    ],
)
def test_who_is_waited_for_makes_another_run_where_it_decides_who_learns(
    table: Path, changed: str, settings: list[str], decides: list[str]
) -> None:
    job = Job.read(write(table.parent, MINIMAL)).with_settings(settings)
    key = changed.removeprefix("federated.").partition("=")[0]
    assert (job.with_settings([changed]).fingerprint() != job.fingerprint()) == (key in decides)


def test_replicas_that_have_streams_of_their_own_stay_as_many(table: Path) -> None:
    job = Job.read(write(table.parent, MINIMAL)).with_settings(["cluster.partition=colour"])
    assert job.with_settings(["cluster.replicas=7"]).fingerprint() != job.fingerprint()


def test_a_job_folder_may_move_with_its_data(table: Path, tmp_path: Path) -> None:
    job = Job.read(write(table.parent, MINIMAL)).resolved()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(table, elsewhere)
    moved = Job.read(write(elsewhere, MINIMAL)).resolved()
    assert moved.stream.path != job.stream.path
    assert moved.fingerprint() == job.fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("every = 500", "evry = 500"), r'stream.evry: unknown key; did you mean "every"\?'),
        (("[features]", "[feature]"), r'feature: unknown key; did you mean "features"\?'),
        (('objective = "binary"', ""), "learner.objective: missing; the job needs it"),
        (('"binary"', '"binarry"'), "learner.objective: expected an objective, got 'binarry'; did you mean 'binary'"),
        (
            ('"binary"', '"binary"\nbatch_size = 0'),
            "learner.batch_size: expected at least 1, got 0; leave it out for the default, 32",
        ),
        (("every = 500", "every = 500\nevery = 3"), "not valid TOML: Cannot overwrite a value"),
        (
            ('"binary"', '"binary"\n[[strategy]]\nname = "replya"'),
            "strategy.name: expected a strategy, got 'replya'; did you",
        ),
        (('"binary"', '"binary"\n[outer]\nname = "nestrov"'), "outer.name: expected an outer step, got 'nestrov'; did"),
    ],
)
def test_a_typo_is_named_with_the_nearest_known_key(table: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(JobError, match=message):
        Job.read(write(table.parent, MINIMAL.replace(*change)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["learner.sed=3"], 'learner.sed: unknown key; did you mean "seed"'),
        (
            ["learner.sed=3", "stream.evry=2", "publish.kep=1"],
            r'toml: stream.evry: unknown key; did you mean "every"\?; learner.sed: unknown key; did you mean "seed"\?; '
            r'publish.kep: unknown key; did you mean "keep"\?$',
        ),
        (["learner"], "--set learner: expected section.key=value"),
        (
            ["features.slices=[orgin]"],
            r"""not valid TOML; quote the setting in the shell: --set 'features.slices=\["orgin"\]'$""",
        ),
        (["learner.optimizer={name=adam, lr=0.1}"], r"""shell: --set 'learner.optimizer={name="adam", lr=0.1}'$"""),
        (["name.x=3"], "--set name.x=3: name is not a section"),
        (["learner.seed=99999999999999999999"], "learner.seed: "),
        (["model.hidden=[-1]"], "model.hidden"),
        (
            ["stream.every=true"],
            "stream.every: expected text or a whole number, got true; leave it out",
        ),
        (
            ["stream.every=1.5"],
            'stream.every: expected text or a whole number, got 1.5; .*in quotes: "1.5"',
        ),
        (["stream.path=''"], 'stream.path: expected some text, got ""; change it'),
        (["review={every=0}"], "review.every: expected at least 1, got 0; change it"),
        (
            ["limits.memory='2GB'"],
            'limits.memory: expected a number of gigabytes, got "2GB"; write it without quotes and',
        ),
        (["limits.cpu_seconds='2s'"], 'limits.cpu_seconds: expected a number of seconds, got "2s"; write'),
        (
            ["model.encoder_cache='1 parsec'"],
            "encoder_cache: expected a size such as \"64MB\", got '1 parsec'; write",
        ),
        (["learner.clip=0"], "learner.clip: expected more than 0, got 0; change it, or leave it out"),
        (["cluster.gpus=0.5", "cluster.shards=2"], "cluster.gpus: expected 1 where replicas are sharded, .* got 0.5"),
        (
            ["cluster.gpus=0.4"],
            "cluster.gpus: expected one part of 2, 3, .* has 2 and a rest .*; set it to 0.5 or 0.3333$",
        ),
        (["cluster.gpus=0.33"], "set it to 0.3333 or 0.25$"),
        (["cluster.gpus=0.3334"], "set it to 0.5 or 0.3333$"),
        (["learner.consolidate=never"], 'learner.consolidate: expected "increment", .* or a whole number, got "never"'),
        (["features.numeric=tall"], r'features.numeric: expected a list, got "tall"; put it in brackets: \["tall"\]'),
        (["features.classes=[0, 0]"], "features.classes: expected every class once, got 0 twice"),
        (["model.arguments={a=1}"], "model.arguments: expected with model.factory only"),
        (["features.rate=[{windw='1h'}]"], r'features.rate.0.windw: unknown key; did you mean "window"\?'),
        (["strategy=replay"], r'strategy: expected a list, got "replay"; write it as \[\[strategy\]\]'),
        (["strategy=[5]"], r"strategy.0: expected a table, got 5; write it as \{ key = value \}, or as a section"),
        (["drift=[{options={delta='a'}}]"], 'drift.0.options.delta: expected a number, got "a"; change it'),
        (["features.task=tall"], "features.task: expected a column other than the label, got 'tall'"),
    ],
)
def test_settings_are_checked_like_the_file(table: Path, settings: list[str], message: str) -> None:
    with pytest.raises(JobError, match=message):
        Job.read(write(table.parent, MINIMAL), settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["learner.optimizer=adamm"], "learner.optimizer.name: expected an optimizer, got 'adamm'; did you"),
        (['learner.optimizer={name="sgd", lrr=1}'], "learner.optimizer: .*lrr.*; it takes lr, momentum"),
        (['learner.optimizer={name="adam", lr=-1.0}'], "learner.optimizer: Invalid learning rate: -1.0"),
        (
            ['model.factory="nowhere:model"'],
            'model.factory "nowhere:model": expected a Python module nowhere, got none',
        ),
        (['model.factory="math:sqr"'], "expected a function sqr in math, got none; did you mean 'sqrt'"),
        (['strategy=[{name="replay", size=3}]'], "strategy replay: .*size.*; it takes capacity, ratio, memory"),
        (["learner.device=moon"], "learner.device: 'moon' cannot be used here"),
        (["learner.device=meta"], "learner.device: 'meta' cannot be used here"),
        (["learner.optimizer=lbfgs"], "learner.optimizer: "),
        (["learner.optimizer={betas=[0.9]}"], "learner.optimizer: .*; it takes lr, betas"),
        (["learner.schedule={name='cosine', T_max=0}"], "learner.schedule: .*zero; it takes T_max"),
        (["learner.schedule={name='cosine', T_max='a'}"], "learner.schedule: .*; it takes T_max"),
        (["features.buckets=1000000000000"], "model: expected layers that fit .*; make model.hidden, .* smaller"),
        (["model.hidden=[10000000, 10000000]"], "model: expected layers that fit into memory, got hidden"),
        (['model.factory="os:getcwd"'], "model.factory: expected os:getcwd to make a torch.nn.Module, got str"),
        (['strategy=[{name="os:getcwd"}]'], "strategy.name: expected os:getcwd to make a Strategy, got str"),
        (['strategy=[{name="replay", capacity=1.5}]'], "memory.capacity: expected a number of rows, .* got 1.5"),
        (['strategy=[{name="replay", capacity=true}]'], "memory.capacity: expected a number of rows, .* got True"),
        (['strategy=[{name="ewc", strength="a"}]'], "ewc.strength: expected a number, got 'a'; leave it out"),
        (['outer={name="nesterov", momentum=1.5}'], "outer.momentum: expected less than 1, got 1.5"),
        (['strategy=[{name="lwf", temperature="a"}]'], "lwf.temperature: expected a number, got 'a'"),
        (['drift=[{watch="features", columns=["q"]}]'], "drift.columns: expected a numeric feature, got 'q'; known"),
        (['outer={name="nesterov", lr="x"}'], "outer.lr: expected a number of at least 0, got 'x'"),
        (['learner.objective="math:sqrt"'], "learner.objective: math:sqrt cannot be called without arguments"),
        (['learner.objective="builtins:dict"'], "learner.objective: expected builtins:dict to make an Objective"),
        (
            ['model.factory="torch.nn:Linear"', "model.arguments={in_features=3, out_features=1}"],
            "model.factory: torch.nn:Linear cannot take rows of",
        ),
    ],
)
def test_what_only_building_can_tell_is_told_then(table: Path, settings: list[str], message: str) -> None:
    job = Job.read(write(table.parent, MINIMAL), settings)
    with pytest.raises((JobError, StrategyError), match=message):
        build(job)


def test_an_optimiser_without_a_name_is_adam(table: Path) -> None:
    job = Job.read(write(table.parent, MINIMAL), ["learner.optimizer.lr=0.5"])
    assert job.learner.optimizer.name == "adam"
    assert job.learner.optimizer.arguments == {"lr": 0.5}


def build(job: Job) -> None:
    job.outer_step()
    job.participant()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"nothing.toml: no such job file"):
        Job.read(tmp_path / "nothing.toml")
    with pytest.raises(StreamError, match="people"):
        Job.read(write(tmp_path, MINIMAL))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[stream]\npath = "a.csv"\nevery = "1h"\n',
            'stream.every: expected a predict_at column with every = "1h", got none',
        ),
        (
            '[stream]\npath = "a.csv"\n[outer]\nname = "nesterov"\nlr = -1\n',
            "outer.lr: expected a number of at least 0, got -1",
        ),
        (
            '[stream]\npath = "a.csv"\n[[strategy]]\nname = "replay"\ncapacity = 0\n',
            "strategy replay: memory.capacity: expected at least 1 row, got 0",
        ),
        (
            '[stream]\npath = "a.csv"\n[[model.adapt]]\nname = "lora"\nrank = 0\n',
            "model.adapt lora.rank: expected 1 or more, got 0",
        ),
    ],
)
def test_an_argument_that_a_part_refuses_is_told_with_its_place_in_the_job(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,0\n2,1\n")
    text = text.replace("[stream]", '[stream]\nsettle = "0s"')  # just written, it would be waited for
    rest = '[features]\nlabel = "y"\nnumeric = ["x"]\nclasses = [0, 1]\n[learner]\nobjective = "binary"\n'
    (tmp_path / "job.toml").write_text(text + rest)
    with pytest.raises(JobError, match=f"^{re.escape(message)}") as caught:
        LocalEngine(Job.read(tmp_path / "job.toml"), tmp_path)
    assert isinstance(caught.value.__cause__, ArgumentError)
    assert not isinstance(caught.value, ValueError)

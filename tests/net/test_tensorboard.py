"""TensorBoard: the event files of a run, of a resumed run, and of several runs together."""

import io
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.masks import blobs, write_masks, write_packed
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.summary.writer import event_file_writer

from net.tensorboard import Board
from utils.data.packed_data import open_packed

FLAGS = {
    "arch": "unet_resnet18",
    "batch_size": 8,
    "stages": ["256:20", "512:10"],
    "crop": None,
    "gates": [],
    "compile": False,
}


@pytest.fixture(autouse=True)
def _seconds_apart(monkeypatch):
    """Give every event file another second, by which TensorBoard sorts the files."""
    seconds = count(1_800_000_000)
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: next(seconds)))


def train(folder, done, n_epochs, **flags):
    """Log epochs `done` + 1 to `n_epochs` of a simulated run and finish it; iout is a tenth of the epoch."""
    with Board(folder / "tensorboard", done) as board:
        for epoch in range(done + 1, n_epochs + 1):
            board.add({"epoch": epoch, "cycle": 1, "iout": epoch / 10, "lr": 0.1, "seconds": 5.0})
        summary = {"best_snapshot": "snapshots/x", "epoch": n_epochs, "iout": n_epochs / 10, "seconds": 60.0}
        board.finish({**FLAGS, "n_epochs": n_epochs, **flags}, {**summary, "machine": "cpu"})


def scalars(folder):
    """Return tag -> (step, value) of each point that TensorBoard shows."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        name: [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def hparams_tab(folder):
    """Return run -> (flags, metrics) as listed in the HPARAMS tab of TensorBoard, and the names of its columns."""
    events = EventMultiplexer().AddRunsFromDirectory(str(folder))
    events.Reload()
    provider = MultiplexerDataProvider(events, str(folder))
    context = backend_context.Context(TBContext(data_provider=provider, logdir=str(folder), multiplexer=events))
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=100, include_metrics=True, allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS]
    )
    found = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    runs = {
        session.name.removesuffix("/tensorboard"): (
            {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()},
            {value.name.tag: round(value.value, 6) for value in group.metric_values},
        )
        for group in found
        for session in group.sessions
    }
    tags, ctx = context.hparams_metadata(RequestContext(), ""), RequestContext()
    columns = context.experiment_from_metadata(
        ctx, "", True, tags, context.hparams_from_data_provider(ctx, "", limit=None)
    )
    return runs, [one.name for one in columns.hparam_infos] + [one.name.tag for one in columns.metric_infos]


def test_epochs_are_curves_and_final_metrics_are_points_of_the_last_epoch(tmp_path):
    train(tmp_path, 0, 3)
    assert scalars(tmp_path) == {
        "iout": [(1, 0.1), (2, 0.2), (3, 0.3)],
        "lr": [(1, 0.1), (2, 0.1), (3, 0.1)],
        "best/iout": [(3, 0.3)],
        "best/epoch": [(3, 3)],
        "total/seconds": [(3, 60)],
    }


def test_epochs_that_are_trained_again_are_shown_once(tmp_path):
    with Board(tmp_path / "tensorboard", 0) as board:
        for epoch in range(1, 4):
            board.add({"epoch": epoch, "iout": 0.9})
    train(tmp_path, 2, 4)  # killed before the third epoch was written
    assert scalars(tmp_path)["iout"] == [(1, 0.9), (2, 0.9), (3, 0.3), (4, 0.4)]


def test_runs_are_listed_with_flags_and_final_metrics_and_without_subfolders(tmp_path):
    train(tmp_path / "a", 0, 2)
    train(tmp_path / "b", 0, 3, border="both", batch_size=16, api_token="s3cret")
    runs, columns = hparams_tab(tmp_path)
    flags = {"arch": "unet_resnet18", "stages": "256:20 512:10", "compile": "False", "batch_size": 8, "n_epochs": 2}
    assert runs["a"][0] == flags
    assert runs["b"][0] == {**flags, "n_epochs": 3, "border": "both", "batch_size": 16}
    assert runs["b"][1] == {"iout": 0.3, "lr": 0.1, "best/iout": 0.3, "best/epoch": 3, "total/seconds": 60}
    assert {*flags, "border", "best/iout"} <= set(columns)  # including flags that only one run has
    assert [path for path in (tmp_path / "a" / "tensorboard").iterdir() if path.is_dir()] == []
    assert not any(b"s3cret" in path.read_bytes() for path in tmp_path.rglob("events*"))


def test_a_run_that_finishes_again_with_more_epochs_is_listed_once_with_its_latest_values(tmp_path):
    train(tmp_path / "a", 0, 2)
    train(tmp_path / "a", 2, 4)
    runs, _ = hparams_tab(tmp_path)
    assert list(runs) == ["a"]
    assert runs["a"][0]["n_epochs"] == 4
    assert runs["a"][1]["best/iout"] == 0.4
    assert scalars(tmp_path / "a")["best/iout"] == [(2, 0.2), (4, 0.4)]


def test_overlays_of_some_images_are_logged_at_their_epoch(tmp_path):
    ids, (probabilities, truth) = [f"image{row}" for row in range(9)], blobs(9)
    packed = open_packed(write_packed(tmp_path / "data", {"train": (ids, truth, (31, 31))}))
    masks = write_masks(tmp_path / "masks.npy", ids, probabilities)
    with Board(tmp_path / "tensorboard", 0) as board:
        board.show(7, packed, np.arange(9), masks)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    [name] = events.Tags()["images"]
    [picture] = events.Images(name)
    assert picture.step == 7
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)).convert("RGB"))
    assert pixels.shape[0] > 4 * 31
    assert pixels.shape[1] > 4 * 31
    assert len(np.unique(pixels)) > 50  # the probabilities are shown in shades of grey

import os
import signal
from multiprocessing.resource_sharer import DupFd

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.data.utils import list_data_collate
from monai.engines import IterationEvents
from monai.inferers import SimpleInferer
from monai.transforms import Compose, Lambdad
from torch import nn
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from monai_fusenet.bundle.faults import describe
from monai_fusenet.engines import FolderEvaluator, ForgivingDataset
from monai_fusenet.utils.errors import is_worker_death
from monai_fusenet.utils.files import CannotWriteError

NAMES = ["a", "b", "c", "d"]


def draw_items():
    torch.manual_seed(0)
    return [
        {"file": f"{name}.png", "name": name, "image": torch.rand(1, 5 + position, 7)}
        for position, name in enumerate(NAMES)
    ]


class Doubling(nn.Module):
    def forward(self, image):
        return 2 * image


def fail_at(height, error):
    """A step that fails at the image of this height."""

    def step(image):
        if image.shape[-2] == height:
            raise error
        return image

    return step


def run(items=None, transform=None, network=None, handlers=(), workers=0, collate_fn=list_data_collate, **options):
    """Runs and returns, for each image: its names, why it failed, and whether there is an output."""
    dataset = ForgivingDataset(items or draw_items(), transform or Compose([]))
    evaluator = FolderEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=collate_fn),
        network=network or Doubling(),
        **options,
    )
    for event, handler in handlers:
        evaluator.add_event_handler(event, handler)
    seen = []

    @evaluator.on(Events.ITERATION_COMPLETED)
    def look(engine):
        seen.append((engine.state.item["file"], engine.state.item["name"], engine.state.failure, engine.state.output))

    evaluator.run()
    return seen


def failures(seen):
    assert [name for _, name, _, _ in seen] == NAMES
    return [failure for _, _, failure, _ in seen]


def test_all_images_of_different_size():
    seen = run()
    assert failures(seen) == [None] * 4
    assert [file for file, _, _, _ in seen] == ["a.png", "b.png", "c.png", "d.png"]
    for (_, _, _, output), item in zip(seen, draw_items(), strict=True):
        torch.testing.assert_close(output[0]["pred"], 2 * item["image"])


def test_an_image_that_fails_to_load():
    load = Compose([Lambdad("image", fail_at(6, ValueError("cannot read b.png: truncated\nand more lines")))])
    seen = run(transform=load)
    assert failures(seen) == [None, "cannot read b.png: truncated", None, None]
    assert seen[1][3] == []
    assert seen[2][3] != []


def test_a_failed_item_says_what_it_is():
    dataset = ForgivingDataset(draw_items(), Lambdad("image", fail_at(5, KeyError())))
    assert dataset[0] == {"file": "a.png", "name": "a", "failure": "KeyError"}
    assert set(dataset[1]) == {"file", "name", "image"}


@pytest.mark.parametrize("position", range(4))
def test_an_image_for_which_the_inferer_fails(position):
    class Failing(SimpleInferer):
        def __call__(self, inputs, network, *args, **kwargs):
            return network(fail_at(5 + position, RuntimeError("the fit diverged"))(inputs))

    seen = run(inferer=Failing())
    expected = [None] * 4
    expected[position] = "the fit diverged"
    assert failures(seen) == expected
    assert [output == [] for _, _, _, output in seen] == [failure is not None for failure in expected]


def test_an_image_for_which_postprocessing_fails():
    seen = run(postprocessing=Compose([Lambdad("pred", fail_at(7, ValueError("the scores are not finite")))]))
    assert failures(seen) == [None, None, "the scores are not finite", None]


def fail_at_b(error):
    def write(engine):
        if engine.state.item["name"] == "b":
            raise error

    return [(IterationEvents.MODEL_COMPLETED, write)]


def test_an_image_for_which_a_handler_fails():
    seen = run(handlers=fail_at_b(OSError(36, "File name too long")))
    assert failures(seen) == [None, "[Errno 36] File name too long", None, None]
    assert seen[1][3] == []


def test_a_disk_that_is_full_ends_the_run():
    seen = []
    with pytest.raises(CannotWriteError):
        run(inferer=lambda image, network: seen.append(0) or image, handlers=fail_at_b(CannotWriteError(28, "full")))
    assert len(seen) == 2


def test_an_image_for_which_memory_does_not_suffice():
    def allocate(image):
        return torch.empty(2**60) if image.shape[-2] == 6 else image

    for part in ({"transform": Lambdad("image", allocate)}, {"postprocessing": Compose([Lambdad("pred", allocate)])}):
        reasons = failures(run(**part))
        assert reasons.pop(1).startswith("out of memory: ")
        assert reasons == [None] * 3


def test_every_image_fails():
    seen = run(inferer=lambda image, network: 1 / 0)
    assert failures(seen) == ["division by zero"] * 4


def test_an_interrupt_is_no_failure():
    def interrupt(engine):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(handlers=[(IterationEvents.MODEL_COMPLETED, interrupt)])


def test_names_are_known_before_the_results():
    names = []

    def note(engine):
        names.append((engine.state.item["name"], engine.state.failure))

    run(handlers=[(IterationEvents.FORWARD_COMPLETED, note)])
    assert names == [(name, None) for name in NAMES]


def test_inference_needs_no_gradients():
    modes = []
    run(inferer=lambda image, network: modes.append((torch.is_grad_enabled(), network.training)) or image)
    assert modes == [(False, False)] * 4


def test_images_are_prepared_alike_with_any_number_of_threads():
    seen = []
    dataset = ForgivingDataset(draw_items(), lambda item: seen.append(torch.get_num_threads()) or item)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        dataset[0]
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# Worker processes.


class Deadly:
    """Kills the process that prepares the image of this height, so often (counted in a file)."""

    def __init__(self, height, times, count):
        self.height = height
        self.times = times
        self.count = count

    def __call__(self, item):
        if item["image"].shape[-2] == self.height:
            with self.count.open("a") as file:
                file.write(".")
            if self.count.stat().st_size <= self.times:
                os.kill(os.getpid(), signal.SIGKILL)
        return item


@pytest.mark.parametrize(("workers", "times"), [(2, 1), (1, 99)])
def test_a_worker_that_dies(tmp_path, monkeypatch, workers, times):
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))  # seconds between looks
    main_process = os.getpid()
    seen = run(transform=Deadly(6, times, tmp_path / "count"), workers=workers)
    assert os.getpid() == main_process
    expected = [None] * 4
    if times == 99:
        expected[1] = "the process that loaded it was killed, twice; perhaps memory does not suffice"
    assert failures(seen) == expected


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "Connection reset by peer"), BrokenPipeError(), EOFError()]
)
def test_a_worker_that_dies_while_it_hands_an_image_over(monkeypatch, error):
    take_over, taken = DupFd.detach, []

    def fail_once(handle):
        taken.append(handle)
        if len(taken) == 1:
            raise error
        return take_over(handle)

    monkeypatch.setattr(DupFd, "detach", fail_once)
    assert failures(run(workers=1)) == [None] * 4
    assert len(taken) == 5  # the first image was asked for twice
    assert describe(error).startswith("a process that loads images was killed")  # where it meets a training


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), EOFError("Ran out of input")])
def test_another_connection_that_breaks_is_no_death_of_a_worker(error):
    def fail(samples):
        raise error

    with pytest.raises(type(error)) as caught:
        run(workers=1, collate_fn=fail)
    assert not is_worker_death(caught.value)
    assert not is_worker_death(error)


def test_another_error_of_a_loader_ends_the_run():
    def fail(samples):
        raise RuntimeError("not of the same size")

    with pytest.raises(RuntimeError, match="not of the same size"):
        run(workers=1, collate_fn=fail)

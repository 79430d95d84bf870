import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import IterationEvents
from monai.inferers import SimpleInferer
from monai.transforms import Compose, Lambdad
from torch import nn

from monai_fusenet.engines import FolderEvaluator, ForgivingDataset

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


def run(items=None, transform=None, network=None, handlers=(), **options):
    """Runs and returns, for each image: its names, why it failed, and whether there is an output."""
    dataset = ForgivingDataset(items or draw_items(), transform or Compose([]))
    evaluator = FolderEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=1),
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


def test_an_image_for_which_a_handler_fails():
    def write(engine):
        if engine.state.item["name"] == "b":
            raise OSError(28, "No space left on device")

    seen = run(handlers=[(IterationEvents.MODEL_COMPLETED, write)])
    assert failures(seen) == [None, "[Errno 28] No space left on device", None, None]
    assert seen[1][3] == []


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

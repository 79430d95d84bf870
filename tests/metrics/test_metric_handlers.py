import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine

from monai_fusenet.handlers.metrics import HammoudeHandler, XorHandler

TRUTH = torch.tensor([[[[0, 1, 1]]], [[[0, 0, 1]]]])
SCRIPT = [torch.tensor([[[[0, 1, 1]]], [[[1, 0, 0]]]]), torch.tensor([[[[0, 0, 1]]], [[[0, 1, 1]]]])]
HAMMOUDE, XOR = [0, 1, 1 / 2, 1 / 2], [0, 2, 1 / 2, 1]


def scripted_engine():
    return Engine(lambda engine, prediction: (prediction, TRUTH))


@pytest.mark.parametrize(("handler", "values"), [(HammoudeHandler, HAMMOUDE), (XorHandler, XOR)])
def test_epoch_mean_and_details(handler, values):
    engine = scripted_engine()
    engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "metric_details", {}))
    handler().attach(engine, "error")
    engine.run(SCRIPT)
    assert engine.state.metrics["error"] == pytest.approx(sum(values) / 4)
    torch.testing.assert_close(engine.state.metric_details["error"].flatten(), torch.tensor(values))
    engine.run(SCRIPT[:1])  # an epoch forgets the one before
    assert engine.state.metrics["error"] == pytest.approx(sum(values[:2]) / 2)


def test_reduction_is_passed_on_and_details_can_be_left_out():
    engine = scripted_engine()
    XorHandler(reduction="sum", save_details=False).attach(engine, "xor")
    engine.run(SCRIPT)
    assert engine.state.metrics["xor"] == pytest.approx(sum(XOR))


def test_decollated_dictionaries_of_an_evaluator():
    batches = [{"image": prediction.float(), "label": TRUTH} for prediction in SCRIPT]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches,
        epoch_length=len(batches),
        network=torch.nn.Identity(),
        key_val_metric={"hammoude": HammoudeHandler(output_transform=from_engine(["pred", "label"]))},
        additional_metrics={"xor": XorHandler(output_transform=from_engine(["pred", "label"]))},
    )
    evaluator.run()
    assert evaluator.state.metrics["hammoude"] == pytest.approx(sum(HAMMOUDE) / 4)
    assert evaluator.state.metrics["xor"] == pytest.approx(sum(XOR) / 4)
    assert evaluator.state.metric_details["xor"].flatten().tolist() == pytest.approx(XOR)

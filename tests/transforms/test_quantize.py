import pytest
import torch

from monai_fusenet.transforms import QuantizeTo8Bitd


def test_rounds_to_255ths_and_saturates():
    image = torch.tensor([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 100.2 / 255, 1.0, 1.3], dtype=torch.float64)
    quantized = QuantizeTo8Bitd("image")({"image": image, "other": image})
    expected = torch.tensor([0, 0, 0, 1, 100, 255, 255], dtype=torch.float64) / 255
    torch.testing.assert_close(quantized["image"], expected, rtol=0, atol=1e-12)
    assert quantized["other"] is image


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 3, 5, 4)])
def test_what_is_quantized_stays(shape):
    image = torch.randint(256, shape) / 255
    quantized = QuantizeTo8Bitd(["image"])({"image": image})["image"]
    torch.testing.assert_close(quantized, image)


def test_missing_keys():
    assert QuantizeTo8Bitd("image", allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError, match="image"):
        QuantizeTo8Bitd("image")({})

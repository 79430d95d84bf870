import pytest
import torch

from monai_fusenet.transforms import From8Bitd, QuantizeTo8Bitd


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


def test_8_bit_values_are_divided_by_255():
    image = torch.tensor([0.0, 51.0, 255.0])
    torch.testing.assert_close(From8Bitd("image")({"image": image})["image"], torch.tensor([0.0, 0.2, 1.0]))


def test_values_that_no_8_bit_picture_has():
    with pytest.raises(ValueError, match=r"^expected an 8-bit picture, values from 0 to 255, got 3 to 65535$"):
        From8Bitd("image")({"image": torch.tensor([3.0, 65535.0])})

"""MMSegmentation's EncoderDecoder over the backbone, without mmcv's compiled operators."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, Write
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData

from nepa.errors import UserError
from nepa.model.backbone import build_backbone
from nepa.model.description import describe, segmentation_of
from nepa.parameters import Parameters, load_parameters
from nepa.parameters.recipes import recipe_text
from nepa.segmentation.scenes import as_batch, scenes_dataset
from nepa.segmentation.segmentor import UPerNet, build_segmentor, segmentor_config

from mmseg.models import EncoderDecoder  # isort: skip - once nepa.segmentation has been imported
from mmseg.registry import DATASETS, MODELS  # isort: skip
from mmseg.structures import SegDataSample  # isort: skip


@pytest.fixture
def segmentor(project: Path) -> EncoderDecoder:
    torch.manual_seed(0)
    parameters = load_parameters()
    return build_segmentor(parameters, build_backbone(parameters, image_size=24, dynamic=True), 10).eval()


def test_an_absent_operator_says_how_to_get_it() -> None:
    from mmcv.ops import nms

    with pytest.raises(UserError, match=r"mmcv operator '\w+' is not in mmcv-lite; install the full mmcv 2.1.0"):
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


def test_four_levels_in_mmsegmentation_s_registry(segmentor: EncoderDecoder) -> None:
    assert MODELS.get("NEPA") is type(segmentor.backbone)
    levels = segmentor.neck(segmentor.backbone(torch.randn(2, 1, 24, 24)))
    assert [tuple(level.shape) for level in levels] == [(2, 16, side, side) for side in (24, 12, 6, 3)]
    assert type(segmentor.decode_head).__name__ == "UPerHead"
    assert type(segmentor.auxiliary_head).__name__ == "FCNHead"


def test_blocks_above_the_last_level_are_not_trained(write_parameters: Write) -> None:
    """Or DDP would wait for their gradients."""
    parameters = load_parameters(write_parameters(**{"segment.blocks": [0, 0, 0, 0]}))
    segmentor = build_segmentor(parameters, build_backbone(parameters, image_size=24, dynamic=True), 10)
    segmentor.neck(segmentor.backbone(torch.randn(2, 1, 24, 24)))[0].sum().backward()
    trained = {name for name, p in segmentor.backbone.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in segmentor.backbone.named_parameters() if p.grad is not None}
    assert any("blocks.0." in name for name in trained)


def test_the_loss_is_mmsegmentation_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """In colour, and with scenes smaller than the crop, which are padded."""
    monkeypatch.chdir(ROOT)
    raw = yaml.safe_load(recipe_text("imagenet-base-paper"))
    raw["model"] |= {"width": 32, "depth": 2, "heads": 2}
    raw["segment"] |= {"blocks": [0, 0, 1, 1], "decoder_channels": 8, "crop": 56, "stride": 37, "dropout": 0.0}
    parameters = Parameters.model_validate(raw)
    segmentor = build_segmentor(parameters, build_backbone(parameters, image_size=56, dynamic=True), 5).eval()
    truth = torch.randint(6, (2, 1, 56, 40))
    truth[truth == 5] = 255  # unlabelled
    samples = [
        {
            "inputs": torch.randint(256, (3, 56, 40), dtype=torch.uint8),
            "data_samples": SegDataSample(gt_sem_seg=PixelData(data=classes)),
        }
        for classes in truth
    ]
    description = describe(parameters, 5, segmentation=segmentation_of(parameters.segment))
    preprocess = MODELS.build(segmentor_config(description)["data_preprocessor"])
    losses = EncoderDecoder.loss(segmentor, **preprocess(pseudo_collate(samples), training=True))
    expected = losses["decode.loss_ce"] + losses["aux.loss_ce"]
    found = segmentor(**segmentor.data_preprocessor(as_batch(samples), training=True), mode="loss")
    assert found.keys() == {"loss"} and found["loss"] == expected and expected > 0


@pytest.mark.parametrize("size", [(32, 32), (25, 31), (24, 24), (40, 27)])
def test_slide_inference_on_any_size(segmentor: EncoderDecoder, size: tuple[int, int]) -> None:
    batch = {"inputs": [torch.randint(0, 256, (1, *size), dtype=torch.uint8)]}
    with torch.no_grad():
        logits = segmentor.test_step(batch)[0].seg_logits.data
    assert logits.shape == (10, *size)
    assert logits.isfinite().all()


def test_windows_are_averaged_where_they_overlap(segmentor: EncoderDecoder) -> None:
    images = torch.randn(1, 1, 32, 24)
    meta = [{"ori_shape": (32, 24), "img_shape": (32, 24), "pad_shape": (32, 24)}]
    with torch.no_grad():
        slid = segmentor.inference(images, meta)
        top, bottom = (segmentor.encode_decode(images[:, :, at : at + 24], meta) for at in (0, 8))
    torch.testing.assert_close(slid[:, :, :8], top[:, :, :8])
    torch.testing.assert_close(slid[:, :, 24:], bottom[:, :, 16:])
    torch.testing.assert_close(slid[:, :, 8:24], (top[:, :, 8:] + bottom[:, :, :16]) / 2)


def test_weights_of_the_backbone_survive_building(project: Path) -> None:
    parameters = load_parameters()
    backbone = build_backbone(parameters, image_size=24, dynamic=True)
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    segmentor = build_segmentor(parameters, backbone, 10)
    after = segmentor.backbone.eva.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_the_dataset_is_ade20k_s(project: Path) -> None:
    parameters = load_parameters()
    dataset = scenes_dataset(parameters, "training")
    assert isinstance(dataset, DATASETS.get("ADE20KDataset")) and dataset.metainfo["classes"][3] == "digit 3"
    sample = dataset[0]
    truth = sample["data_samples"].gt_sem_seg.data
    assert sample["inputs"].shape == (1, 24, 24) and truth.shape == (1, 24, 24)
    assert set(truth.unique().tolist()) <= {*range(10), 255}  # unlabelled pixels are ignored
    whole = scenes_dataset(parameters, "validation")[0]["inputs"]
    assert len(whole) == 1 and whole[0].shape == (1, 32, 32)


@pytest.mark.parametrize(("split", "kind"), [("training", "images"), ("validation", "annotations")])
def test_scenes_that_are_not_the_prepared_ones_are_refused(project: Path, split: str, kind: str) -> None:
    """MMSegmentation takes what lies in the folder for all there is, and the result would have the whole's checksum."""
    parameters, folder = load_parameters(), Path(f"data/smallest/scenes/{kind}/{split}")
    lost = min(folder.iterdir())
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(UserError, match=f"{lost} is missing; `dvc checkout` or `dvc pull` the scenes"):
        scenes_dataset(parameters, split)
    lost.write_bytes(content)
    (folder / ".DS_Store").touch()
    with pytest.raises(UserError, match="DS_Store is not of the prepared scenes"):
        scenes_dataset(parameters, split)


def test_a_class_that_does_not_occur_has_no_iou(project: Path) -> None:
    """Not NaN, which JSON does not have."""
    from nepa.segmentation.evaluation import evaluate

    parameters = load_parameters()
    dataset = scenes_dataset(parameters, "validation").get_subset(1)
    segmentor = build_segmentor(parameters, build_backbone(parameters, image_size=24, dynamic=True), 10).eval()
    torch.nn.init.constant_(segmentor.decode_head.conv_seg.bias, -9.0)
    segmentor.decode_head.conv_seg.bias.data[0] = 9.0  # all is of the first class
    metrics, _ = evaluate(segmentor, dataset)
    (annotation,) = (sample.gt_sem_seg.data for sample in dataset[0]["data_samples"])
    absent = {f"digit {digit}" for digit in range(1, 10) if not (annotation == digit).any()}
    assert absent and {name for name, share in metrics["IoU"].items() if share is None} - {"digit 0"} == absent


def test_multi_scale_test(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions of every scale and flip come back at the annotation's size, and their average is what counts."""
    from nepa.segmentation.evaluation import evaluate

    parameters = load_parameters()
    changes = {"test_scales": [0.5, 1.0, 1.25], "test_flip": True}
    several = parameters.model_copy(update={"segment": parameters.segment.model_copy(update=changes)})
    dataset = scenes_dataset(several, "validation")
    sample = dataset[0]
    assert [tuple(image.shape[1:]) for image in sample["inputs"]] == [(16, 16)] * 2 + [(32, 32)] * 2 + [(40, 40)] * 2
    assert sample["inputs"][3].equal(sample["inputs"][2].flip(2))
    torch.manual_seed(0)
    segmentor = build_segmentor(parameters, build_backbone(parameters, image_size=24, dynamic=True), 10).eval()
    _, samples = evaluate(segmentor, dataset)
    batch = {"inputs": sample["inputs"], "data_samples": sample["data_samples"]}
    with torch.no_grad():
        single = [
            segmentor.test_step({"inputs": [image], "data_samples": [meta]})[0].seg_logits.data.softmax(0)
            for image, meta in zip(batch["inputs"], batch["data_samples"], strict=True)
        ]
    assert all(logits.shape == (10, 32, 32) for logits in single)
    expected = torch.stack(single).mean(0).argmax(0).numpy()
    assert (samples["prediction_0"] == expected).mean() > 0.999
    assert any((samples["prediction_0"] != logits.argmax(0).numpy()).any() for logits in single)


@pytest.fixture
def with_patches_of_14(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> UPerNet:
    monkeypatch.chdir(ROOT)
    raw = yaml.safe_load(recipe_text("imagenet-base-paper"))
    raw["model"] |= {"width": 32, "depth": 2, "heads": 2}
    raw["segment"] |= {"blocks": [0, 0, 1, 1], "decoder_channels": 8, "crop": 56, "stride": 37}
    raw["segment"]["inference"] = request.param
    parameters = Parameters.model_validate(raw)
    torch.manual_seed(0)
    return build_segmentor(parameters, build_backbone(parameters, image_size=56, dynamic=True), 5).eval()


@pytest.mark.parametrize("with_patches_of_14", ["slide", "whole"], indirect=True)
@pytest.mark.parametrize("size", [(61, 47), (56, 90), (30, 41)])
def test_sizes_that_patches_of_14_do_not_divide(with_patches_of_14: UPerNet, size: tuple[int, int]) -> None:
    with torch.no_grad():
        result = with_patches_of_14.test_step({"inputs": [torch.randint(0, 256, (3, *size), dtype=torch.uint8)]})[0]
    assert result.seg_logits.shape == size and result.pred_sem_seg.shape == size
    assert result.seg_logits.data.isfinite().all()


@pytest.mark.parametrize("with_patches_of_14", ["slide"], indirect=True)
def test_what_is_said_of_a_patch_lies_where_the_patch_is(
    with_patches_of_14: UPerNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a window of 43 x 30 pixels, which four by three patches cover."""

    def position(levels: list[torch.Tensor]) -> torch.Tensor:
        rows, columns = ((torch.arange(side) + 0.5) * 14 / 4 for side in levels[0].shape[2:])  # four cells a patch
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]

    monkeypatch.setattr(with_patches_of_14.decode_head, "forward", position)
    with torch.no_grad():
        found = with_patches_of_14.encode_decode(torch.zeros(1, 3, 43, 30), [{"img_shape": torch.Size((43, 30))}])
    expected = torch.stack(torch.meshgrid(torch.arange(43) + 0.5, torch.arange(30) + 0.5, indexing="ij"))
    inner = (0, slice(None), slice(4, -4), slice(4, -4))  # at the border is no cell beyond, to interpolate with
    torch.testing.assert_close(found[inner], expected[inner[1:]])

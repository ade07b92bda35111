# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The model as a whole: its inputs and outputs, its configuration, its files."""

import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import LlamaForCausalLM, PreTrainedModel

from fila import FilaConfig, FilaForConditionalGeneration, FilaModel
from helpers import (
    CACHE,
    FUSION_TYPES,
    ROOT,
    cache_of,
    image_inputs,
    random_image,
    tiny_config,
    tiny_image_processor,
    tiny_model,
)


class CountDeviceReads(TorchFunctionMode):
    """Counts the calls that hand the values of a tensor to Python, for which the CPU waits on a GPU."""

    NAMES = {"tolist", "item", "cpu", "numpy", "nonzero", "argwhere", "equal", "allclose", "is_nonzero"}
    NAMES |= {"__bool__", "__int__", "__float__", "__index__", "__array__", "unique", "masked_select"}

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.NAMES:
            self.calls.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_text_only_prompt_gives_the_decoders_own_logits(processor, fusion_type):
    model = tiny_model(fusion_type)
    llama = LlamaForCausalLM(model.config.text_config).eval()
    llama.model.load_state_dict(model.model.language_model.state_dict())
    llama.lm_head.load_state_dict(model.lm_head.state_dict())
    inputs = processor(text=["Short.", "A longer one, in the same batch."], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, llama(**inputs).logits)


def test_sdpa_equals_eager(batch):
    model = tiny_model()
    logits = {}
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        assert model.model.vision_tower.vit.config._attn_implementation == implementation
        with torch.no_grad():
            logits[implementation] = model(**batch).logits[batch["attention_mask"].bool()]
    torch.testing.assert_close(logits["sdpa"], logits["eager"], atol=1e-4, rtol=1e-4)


def test_vision_tower_takes_attention_implementations_as_every_vision_tower_does():
    config = tiny_config()
    model = FilaForConditionalGeneration._from_config(
        config, attn_implementation={"vision_config": "eager", "text_config": "sdpa"}
    )
    tower, decoder = model.model.vision_tower, model.model.language_model
    assert isinstance(tower, PreTrainedModel) and tower.config is model.config.vision_config
    assert tower._supports_sdpa and tower._supports_flash_attn and tower._supports_flex_attn
    implementations = [(tower.config._attn_implementation, decoder.config._attn_implementation)]
    for change in ("eager", {"vision_config": "sdpa"}):
        model.set_attn_implementation(change)
        implementations.append((tower.config._attn_implementation, decoder.config._attn_implementation))
    tower.set_attn_implementation("eager")
    decoder.set_attn_implementation("sdpa")
    implementations.append((tower.config._attn_implementation, decoder.config._attn_implementation))
    assert implementations == [("eager", "sdpa"), ("eager", "eager"), ("sdpa", "eager"), ("eager", "sdpa")]
    assert all(layer.self_attn.config is tower.config for layer in tower.vit.layers)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"fusion_layers": [1, 2, 4, 99]}, "fusion_layers=.1, 2, 4, 99..*at most 6"),
        ({"vision_feature_layer": -99}, "vision_feature_layer=-99"),
        ({"fusion_type": "foo"}, "fusion_type='foo'.*cvfm"),
        ({"fusion_align": "foo"}, "fusion_align='foo'"),
        ({"image_token_id": 260}, "image_token_id=260"),
        ({"projector_hidden_act": "foo"}, "projector_hidden_act='foo'"),
        ({"vision_config": {"image_size": 113}}, "image_size=113"),
        ({"convnext_config": {"architecture": "foo"}}, "architecture='foo'"),
        ({"convnext_config": {"model_args": {"num_classes": 3}}}, "model_args.*num_classes"),
    ],
)
def test_configuration_is_checked_again_when_a_model_is_built(override, message):
    with pytest.raises(ValueError, match=message):
        FilaForConditionalGeneration.from_pretrained(ROOT, **override)
    config = FilaConfig.from_pretrained(ROOT)
    for name, value in override.items():
        for field, part in value.items() if isinstance(value, dict) else ():
            setattr(getattr(config, name), field, part)
        if not isinstance(value, dict):
            setattr(config, name, value)
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        FilaModel(config)


def test_image_tokens_without_images_are_refused_unless_something_explains_them(batch):
    model = tiny_model()
    text = {key: batch[key] for key in ("input_ids", "attention_mask")}
    message = "192 image tokens .id 3., but no images came with it"
    for run in (model, model.model, partial(model.generate, max_new_tokens=2)):
        with pytest.raises(ValueError, match=message):
            run(**text)
        with pytest.raises(ValueError, match=message):
            run(**text, mm_encoder_outputs={"image": None})
    with torch.no_grad():
        embeds = model.get_input_embeddings()(batch["input_ids"])
        model(inputs_embeds=embeds, attention_mask=batch["attention_mask"])
        cache = cache_of(model(**batch, use_cache=True))
        mask = nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
        model(input_ids=torch.full((3, 1), 3), attention_mask=mask, **{CACHE: cache})  # a generated image token


def test_forward_reads_from_the_device_equally_often_for_any_number_of_images():
    model, counts = tiny_model(), []
    shapes = [(56, 112), (150, 60)]  # on 1x2 and 3x1 tiles, so that the first has absent views
    for repeats in (1, 5):
        images = [random_image(*shape) for shape in shapes] * repeats
        inputs = tiny_image_processor()(images, return_tensors="pt")
        tokens = int(sum(1 + rows * columns for rows, columns in inputs["image_grids"].tolist())) * 16
        with torch.no_grad(), CountDeviceReads() as reads:
            model(input_ids=torch.full((1, tokens), 3), **inputs, logits_to_keep=1)
        counts.append(reads.calls)
    assert counts[0] == counts[1]
    # The sizes and grids, the absent views and the number of placeholders.
    assert sorted(counts[0]) == ["__int__", "tolist", "tolist"]


@pytest.mark.slow
def test_compiled_decoder_gives_the_same_logits(batch):
    model = tiny_model()
    with torch.no_grad():
        expected = model(**batch).logits
        model.model.language_model = torch.compile(model.model.language_model, backend="aot_eager")
        actual = model(**batch).logits
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_bfloat16_is_close_to_float32(batch, fusion_type):
    model = tiny_model(fusion_type)
    with torch.no_grad():
        expected = model(**batch).logits
        actual = model.to(torch.bfloat16)(**batch).logits
    assert actual.dtype == torch.bfloat16
    similarity = nn.functional.cosine_similarity(actual.float(), expected, dim=-1)
    assert similarity[batch["attention_mask"].bool()].min() > 0.97


def test_saved_model_loads_with_device_map_and_identical_logits(batch, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = FilaForConditionalGeneration.from_pretrained(tmp_path, device_map={"": "cpu"})
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
@pytest.mark.parametrize("architecture", ["convnext_atto", "convnextv2_atto", "convnext_atto_rms"])
def test_parameters_missing_from_a_checkpoint_are_initialised(tmp_path, fusion_type, architecture):
    convnext = {"architecture": architecture, "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]}}
    fresh = tiny_model(fusion_type, trained=False, convnext_config=convnext)
    fresh.save_pretrained(tmp_path, state_dict={"lm_head.weight": fresh.lm_head.weight})
    loaded = FilaForConditionalGeneration.from_pretrained(tmp_path)
    for (name, expected), actual in zip(fresh.named_parameters(), loaded.parameters()):
        # Scales and zeros are deterministic, the rest has its standard deviation.
        assert torch.isfinite(actual).all(), name
        if expected.numel() < 500 or expected.std() == 0:
            assert actual.std(correction=0) <= 2 * expected.std(correction=0) + 1e-8, name
        else:
            assert 0.7 < actual.std() / expected.std() < 1.4, name
        if expected.std(correction=0) == 0:
            assert torch.equal(actual, expected), name


def test_resized_embeddings_still_take_images(batch):
    model = tiny_model()
    with torch.no_grad():
        expected = model(**batch).logits
        model.resize_token_embeddings(2112)
        actual = model(**batch).logits
    assert actual.shape[-1] == model.config.text_config.vocab_size == 2112
    torch.testing.assert_close(actual[..., :260], expected)


def test_tied_embeddings_are_one_parameter_and_survive_saving(tmp_path):
    config = tiny_config()
    text_config = {**config.text_config.to_dict(), "tie_word_embeddings": True}
    model = tiny_model(text_config=text_config)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = FilaForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_encoded_images_can_be_passed_instead_of_pixels(batch):
    model = tiny_model()
    text = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        encoded = model.get_image_features(**image_inputs(batch))
        assert torch.equal(model(**text, mm_encoder_outputs={"image": encoded}).logits, model(**batch).logits)
    with pytest.raises(ValueError, match="not both"):
        model(**batch, mm_encoder_outputs={"image": encoded})


def test_inputs_embeds_take_images_as_input_ids_do(batch):
    model = tiny_model()
    with torch.no_grad():
        embeds = model.get_input_embeddings()(batch["input_ids"])
        rest = {key: value for key, value in batch.items() if key != "input_ids"}
        assert torch.equal(model(inputs_embeds=embeds, **rest).logits, model(**batch).logits)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(**batch, inputs_embeds=embeds)


def test_outputs_carry_those_of_the_vision_tower(batch):
    model = tiny_model()
    model.set_attn_implementation("eager")
    flags = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        features = model.get_image_features(**image_inputs(batch), **flags)
        outputs, as_tuple = model(**batch, **flags), model(**batch, return_dict=False)
        for name in flags:
            setattr(model.config.vision_config, name, True)
        configured = model(**batch).image_outputs
    assert [len(image) for image in outputs.image_outputs.pooler_output] == [48, 64, 80]
    assert torch.equal(outputs.image_hidden_states[2], features.pooler_output[2])
    assert len(outputs.hidden_states) == 3 and len(outputs.attentions) == 2  # the decoder's
    num_views = 3 + 4 + 5
    assert features.last_hidden_state.shape == (num_views, 17, 32)
    for image_outputs in (features, configured):
        assert [state.shape for state in image_outputs.hidden_states] == [(num_views, 17, 32)] * 6
        assert [weights.shape for weights in image_outputs.attentions] == [(num_views, 2, 17, 17)] * 5
    assert torch.equal(features.hidden_states[-1], features.last_hidden_state)
    torch.testing.assert_close(features.attentions[0].sum(dim=-1), torch.ones(num_views, 2, 17))
    assert torch.equal(as_tuple[0], outputs.logits) and torch.equal(as_tuple[-1][1][2], features.pooler_output[2])


def test_text_without_images_has_no_image_outputs(processor):
    inputs = processor(text=["Text."], return_tensors="pt")
    outputs = tiny_model()(**inputs)
    assert outputs.image_outputs is None and outputs.image_hidden_states is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_grids": torch.tensor([[2, 2], [3, 1], [2, 2]])}, "192 image tokens .*, the images give 224 features"),
        ({"image_grids": torch.tensor([[1, 2], [1, 3], [2, 1]])}, r"image_grids\[2\]=\(2, 1\) asks for 3 views"),
        ({"image_grids": torch.tensor([[1, 2], [3, 1], [1, 2]])}, r"image_grids\[2\]=\(1, 2\) asks for 3 views"),
        ({"image_grids": torch.tensor([[1, 2], [3, 1], [3, 3]])}, r"image_grids\[2\]=\(3, 3\) asks for 10 views"),
        ({"image_grids": torch.tensor([[1, 2], [3, 1], [0, 2]])}, r"image_grids\[2\]=\(0, 2\) is no grid"),
        ({"image_grids": torch.tensor([[1, 2], [3, 1]])}, "holds 3 images, image_grids 2"),
        ({"image_grids": None}, "without image_grids"),
        ({"image_sizes": None}, "without image_sizes"),
        ({"high_res_pixel_values": None}, "high_res_pixel_values is NoneType.*do_high_res=True"),
        ({"high_res_pixel_values": torch.zeros(3, 4, 3, 96, 96)}, r"\(3, 4, 3, 96, 96\).*128, 128"),
        ({"pixel_values": torch.zeros(0, 5, 3, 56, 56)}, "at least one image"),
        ({"image_grids": torch.tensor([1, 2, 3])}, r"\(images, 2\) integers"),
        ({"image_sizes": torch.tensor([[56, 112], [0, 60], [110, 100]])}, r"image_sizes\[1\]=\(0, 60\)"),
        ({"pixel_values": torch.zeros(3, 3, 56, 56)}, r"pixel_values has shape \(3, 3, 56, 56\), expected"),
        ({"pixel_values": torch.zeros(3, 5, 3, 28, 28)}, r"expected \(images, views, 3, 56, 56\)"),
    ],
)
def test_image_inputs_that_disagree_are_refused_before_any_compute(batch, change, message):
    model = tiny_model()

    def never(*_):
        raise AssertionError("computed something")

    model.model.vision_tower.vit.embeddings.register_forward_pre_hook(never)
    model.model.vision_tower.convnext.stem.register_forward_pre_hook(never)
    with pytest.raises(ValueError, match=message):
        model(**{**batch, **change})


def test_placeholder_mismatch_error_gives_both_numbers(batch):
    ids = batch["input_ids"].clone()
    ids[0, (ids[0] == 3).nonzero()[0]] = 5
    with pytest.raises(
        ValueError, match="Image features and image tokens do not match.*191 image tokens.*192 features"
    ):
        tiny_model()(**{**batch, "input_ids": ids})


def test_model_args_that_timm_refuses_are_an_error_of_the_config():
    with pytest.raises(ValueError, match="model_args.*dephts"):
        FilaForConditionalGeneration(tiny_config(convnext_config={"model_args": {"dephts": [1, 1, 1, 1]}}))
    with pytest.raises(ValueError, match="stride"):
        FilaForConditionalGeneration(tiny_config(convnext_config={"model_args": {"patch_size": 3}}))
    with pytest.raises(ValueError, match="projector_hidden_act='gelo'"):
        FilaForConditionalGeneration(tiny_config(projector_hidden_act="gelo"))


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_parameter_names_and_shapes_are_those_of_the_golden_file(fusion_type):
    """The paper's model, on the meta device. Names may not change without a converter: checkpoints depend on them."""
    with torch.device("meta"):
        model = FilaForConditionalGeneration(FilaConfig(fusion_type=fusion_type))
    actual = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    golden = json.loads((ROOT / "tests" / "golden" / "parameters.json").read_text())
    shared = golden["shared"] if fusion_type == "none" else {**golden["shared"], **golden["convnext"]}
    assert actual == {**shared, **golden[fusion_type]}

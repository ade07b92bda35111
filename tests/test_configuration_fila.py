# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig

from fila import FilaConfig, FilaConvNextConfig
from helpers import tiny_config


def test_defaults_are_the_model_of_the_paper():
    config = FilaConfig()
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size, vision.patch_size) == (1024, 24, 336, 14)
    assert (text.model_type, text.hidden_size, text.num_hidden_layers, text.vocab_size) == ("llama", 4096, 32, 128256)
    assert config.fusion_layers == [2, 6, 12, 20]
    assert (config.grid_size, config.high_res_image_size, config.num_vision_layers) == (24, 768, 23)


def test_default_convnext_has_the_stage_widths_of_the_paper():
    timm = pytest.importorskip("timm")
    convnext = timm.create_model(FilaConfig().convnext_config.architecture, pretrained=False)
    assert [stage["num_chs"] for stage in convnext.feature_info] == [96, 192, 384, 768]


def test_config_survives_a_save_load_round_trip(tmp_path):
    config = tiny_config("channel_concat", fusion_align="interpolate", vision_feature_layer=4)
    config.save_pretrained(tmp_path)
    loaded = FilaConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert type(loaded.vision_config) is CLIPVisionConfig
    assert type(loaded.convnext_config) is FilaConvNextConfig
    assert type(loaded.text_config) is LlamaConfig


def test_config_loads_through_auto_config_from_a_saved_folder(tmp_path):
    config = tiny_config()
    config.save_pretrained(tmp_path)
    assert (tmp_path / "configuration_fila.py").exists()
    loaded = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert loaded.to_diff_dict()["convnext_config"]["model_args"] == config.convnext_config.model_args
    assert loaded.auto_map["AutoModel"].endswith("modeling_fila.FilaForConditionalGeneration")


def test_sub_configs_are_accepted_as_objects():
    vision, text = CLIPVisionConfig(image_size=56, patch_size=14, num_hidden_layers=24), LlamaConfig(vocab_size=128256)
    convnext = FilaConvNextConfig(architecture="convnext_large_mlp.clip_laion2b_ft_soup_320")
    config = FilaConfig(vision_config=vision, convnext_config=convnext, text_config=text)
    assert config.vision_config is vision and config.text_config is text and config.convnext_config is convnext


def test_text_config_may_be_any_causal_decoder():
    config = tiny_config(text_config={"model_type": "qwen2", "vocab_size": 50, "tie_word_embeddings": True})
    assert config.text_config.model_type == "qwen2"
    assert config.tie_word_embeddings is True


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fusion_typ": "cvfm"}, "fusion_typ.*fusion_type"),
        ({"fusion_type": "concat"}, "fusion_type='concat'.*channel_concat"),
        ({"fusion_align": "bilinear"}, "fusion_align='bilinear'.*interpolate"),
        ({"fusion_layers": [2, 6, 12]}, "fusion_layers=.2, 6, 12..*must be 4"),
        ({"fusion_layers": [6, 2, 12, 20]}, "fusion_layers.*increasing"),
        ({"fusion_layers": [0, 2, 12, 20]}, "fusion_layers.*counted from 1"),
        ({"fusion_layers": [2, 6, 12, 24]}, "fusion_layers.*at most 23"),
        ({"fusion_layers": 2}, "fusion_layers=2 must be a list"),
        ({"fusion_layers": ["2", "6", "12", "20"]}, "fusion_layers"),
        ({"vision_feature_layer": 0}, "vision_feature_layer=0.*1 to 24"),
        ({"vision_feature_layer": -25}, "vision_feature_layer=-25"),
        ({"vision_feature_layer": 1.5}, "vision_feature_layer=1.5"),
        ({"vision_config": {"image_size": 335, "patch_size": 14}}, "image_size=335.*patch_size=14.*322"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "siglip_vision_model.*clip_vision_model"),
        ({"vision_config": "openai/clip"}, "vision_config must be.*str"),
        ({"text_config": {"model_type": "nonsense"}}, "text_config has model_type='nonsense'"),
        ({"vision_config": {"num_channels": 1}}, "num_channels=1.*RGB"),
        ({"vision_config": {"patch_size": 0}}, "patch_size=0"),
        ({"convnext_config": "convnext_tiny"}, "convnext_config must be.*str"),
        ({"convnext_config": CLIPVisionConfig()}, "convnext_config must be.*CLIPVisionConfig"),
        ({"text_config": {"model_type": "gemma2"}}, "gemma2.*final_logit_softcapping.*plain LM head"),
        ({"image_token_id": 128256}, "image_token_id=128256.*vocab_size is 128256"),
        ({"image_token_id": None}, "image_token_id=None"),
        ({"convnext_config": {"architecture": "convnext_tinny"}}, "convnext_tinny.*Did you mean convnext_tiny"),
        ({"convnext_config": {"architecture": "resnet50"}}, "resnet50"),
        ({"convnext_config": {"model_args": {"num_classes": 3}}}, "model_args.*num_classes"),
        ({"image_mean": [0.5, 0.5]}, "image_mean=.0.5, 0.5. must be one number or 3"),
        ({"high_res_image_std": [0.5, 0.0, 0.5]}, "high_res_image_std=.0.5, 0.0, 0.5..*positive"),
        ({"image_std": 0}, "image_std=0 .*positive"),
        ({"image_mean": None}, "image_mean=None .*one number or 3"),
        ({"high_res_image_mean": [None, 0.5, 0.5]}, "high_res_image_mean=.None, 0.5, 0.5. "),
        ({"image_std": [0.5]}, "image_std=.0.5. .*one number or 3"),
        ({"image_std": float("nan")}, "image_std=nan .*finite"),
        ({"rescale_factor": 0}, "rescale_factor=0 .*positive"),
        ({"rescale_factor": [1, 1, 1]}, "rescale_factor=.1, 1, 1. must be one number "),
    ],
)
def test_config_error_names_field_value_and_what_is_allowed(fields, message):
    with pytest.raises(ValueError, match=message):
        FilaConfig(**fields)


def test_fusion_layers_are_free_where_they_are_not_used():
    assert tiny_config("none", fusion_layers=[2, 6, 12, 20]).fusion_type == "none"


def test_config_does_not_write_to_the_dicts_it_is_given():
    vision, convnext = {"image_size": 56, "patch_size": 14, "num_hidden_layers": 24}, {"architecture": "convnext_base"}
    FilaConfig(vision_config=vision, convnext_config=convnext)
    assert vision == {"image_size": 56, "patch_size": 14, "num_hidden_layers": 24}
    assert convnext == {"architecture": "convnext_base"}

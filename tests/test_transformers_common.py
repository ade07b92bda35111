# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The common tests of the installed transformers, which its own models pass, on FILA.

`make test` takes them from the source distribution of transformers. It has the common tests of models, processors and image
processors, but not those of generation and export, nor those of single models.
"""

import importlib.util
import sys
import types
import unittest
from functools import partial

import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast
from transformers.models.auto import modeling_auto

from fila import FilaForConditionalGeneration, FilaImageProcessor, FilaModel, FilaProcessor
from fila.common.layout import image_grid_pinpoints
from helpers import ROOT, image_inputs, random_image, tiny_config, tiny_image_processor

TESTS = ROOT / "build" / "transformers-tests" / transformers.__version__ / "tests"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.both_ends,
    pytest.mark.skipif(not TESTS.exists(), reason=f"needs {TESTS}, which `make test` downloads"),
    pytest.mark.filterwarnings("always::FutureWarning"),  # some tests look for them
]
IMAGE = str(ROOT / "assets" / "receipt.png")  # in place of the images that the tests download
# What FILA does not do as transformers' own models, test by test.
EXCEPTIONS = {
    "test_num_layers_is_small": "four fused layers and one more are five; the test keeps transformers' own suite quick",
    "test_if_input_has_mismatching_tokens_and_mm_data": "FILA's error has another text: it names the sample",
    "test_processor_from_and_save_pretrained": "a processor that was loaded names the files of its code",
    "test_image_processor_save_load_with_autoimageprocessor": "remote code needs trust_remote_code=True",
    "test_call_numpy_4_channels": "FILA takes RGB images",
}


def _module(name, **members):
    module = types.ModuleType(name)
    module.__path__ = []
    vars(module).update(members)
    return module


def _mixins():
    """The mixins of the installed version, from a package of its common tests. What these import from elsewhere in
    transformers' repository is empty here."""
    package = "transformers_tests"
    spec = importlib.util.spec_from_loader(package, None, is_package=True)
    spec.submodule_search_locations.append(str(TESTS))
    sys.modules[package] = importlib.util.module_from_spec(spec)
    for name, member in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        sys.modules[f"{package}.{name.split('.')[0]}"] = _module(name)
        sys.modules[f"{package}.{name}"] = _module(name, **{member: type(member, (), {})})
    sys.modules["fetch_hub_objects_for_ci"] = _module("fetch_hub_objects_for_ci", url_to_local_path=lambda url: IMAGE)
    modules = [importlib.import_module(f"{package}.test_{name}_common") for name in ("modeling", "processing")]
    modules.append(importlib.import_module(f"{package}.test_image_processing_common"))
    return [
        modules[0].ModelTesterMixin,
        modules[0].GenerationTesterMixin,
        modules[1].ProcessorTesterMixin,
        modules[2].ImageProcessingTestMixin,
    ]


if TESTS.exists():
    ModelTesterMixin, GenerationTesterMixin, ProcessorTesterMixin, ImageProcessingTestMixin = _mixins()
else:
    ModelTesterMixin = GenerationTesterMixin = ProcessorTesterMixin = ImageProcessingTestMixin = object


class FilaModelTester:
    """What the mixin asks of each model: a small configuration, and inputs for it."""

    batch_size = 7  # as in the comparison of attention implementations, which pads smaller batches with noise
    is_training = True
    num_hidden_layers, num_attention_heads, hidden_size = 2, 4, 32  # of the decoder
    seq_length = 48 + 6

    def __init__(self):
        # The tests of the vision tower expect as many layers as there are. FILA builds those up to the feature layer.
        self.vision_config = {"num_hidden_layers": self.get_config().num_vision_layers}

    def get_config(self):
        return tiny_config()

    def prepare_config_and_inputs_for_common(self):
        images = [random_image(56, 112, seed) for seed in range(self.batch_size)]
        inputs = tiny_image_processor()(images, return_tensors="pt")
        input_ids = torch.randint(5, 260, (self.batch_size, self.seq_length))
        input_ids[:, :48] = self.get_config().image_token_id
        return self.get_config(), {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), **inputs}


class WithExceptions:
    @pytest.fixture(autouse=True)
    def _skip_exceptions(self):
        for name, reason in EXCEPTIONS.items():
            if self._testMethodName.startswith(name):
                pytest.skip(reason)


class TestFilaModel(WithExceptions, ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (FilaModel, FilaForConditionalGeneration)
    additional_model_inputs = tuple(image_inputs(dict.fromkeys(FilaImageProcessor.model_input_names)))
    _is_composite = True
    skip_test_image_features_output_shape = True  # one row for each view and not for each image, as in LLaVA-NeXT

    @pytest.fixture(autouse=True)
    def _registered(self, monkeypatch):
        """The mixin looks up in these tables what kind of model a class is."""
        monkeypatch.setitem(modeling_auto.MODEL_MAPPING_NAMES, "fila", "FilaModel")
        names = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        monkeypatch.setitem(names, "fila", "FilaForConditionalGeneration")
        # The mixin draws texts of any tokens. FILA refuses image tokens without images.
        module = sys.modules[ModelTesterMixin.__module__]
        draw = module.ids_tensor
        monkeypatch.setattr(module, "ids_tensor", lambda *args, **kwargs: draw(*args, **kwargs).clamp(min=4))

    def setUp(self):
        self.model_tester = FilaModelTester()


class TestFilaProcessor(WithExceptions, ProcessorTesterMixin, unittest.TestCase):
    processor_class = FilaProcessor
    images_unstructured_max_length = image_unstructured_max_length = 200  # under its newest and its oldest name

    def get_component(self, attribute, **kwargs):
        return super().get_component(attribute, trust_remote_code=True, **kwargs)

    @classmethod
    def setUpClass(cls):
        cls.from_pretrained = FilaProcessor.from_pretrained
        FilaProcessor.from_pretrained = partial(cls.from_pretrained, trust_remote_code=True)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        FilaProcessor.from_pretrained = cls.from_pretrained

    @classmethod
    def _setup_tokenizer(cls):
        return PreTrainedTokenizerFast.from_pretrained(ROOT)

    @classmethod
    def _setup_image_processor(cls):
        return tiny_image_processor()

    @staticmethod
    def prepare_processor_dict():
        return {"chat_template": (ROOT / "chat_template.jinja").read_text()}


class FilaImageProcessorTester:
    batch_size, num_channels = 7, 3
    image_processing_classes = {"torchvision": FilaImageProcessor}

    def prepare_image_processor_dict(self):
        return {"size": {"height": 56, "width": 56}, "image_grid_pinpoints": image_grid_pinpoints(56)}

    def expected_output_image_shape(self, images):
        return (5, 3, 56, 56)  # of squares: the global view and 2 x 2 tiles

    def prepare_image_inputs(self, **kwargs):
        module = sys.modules[ImageProcessingTestMixin.__module__]
        options = {**kwargs, "num_channels": self.num_channels, "equal_resolution": True}
        return module.prepare_image_inputs(self.batch_size, min_resolution=30, max_resolution=80, **options)


class TestFilaImageProcessor(WithExceptions, ImageProcessingTestMixin, unittest.TestCase):
    image_processing_classes = FilaImageProcessorTester.image_processing_classes

    def setUp(self):
        self.image_processor_tester = FilaImageProcessorTester()

    @property
    def image_processor_dict(self):
        return self.image_processor_tester.prepare_image_processor_dict()

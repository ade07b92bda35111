# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""evaluation/lmms_eval_fila.py: a FILA answers the requests of lmms-eval."""

import pytest

from helpers import chat, chat_inputs, random_image, tiny_model, tiny_processor

SIZES = [(60, 140), (140, 60), (200, 90)]


def test_lmms_eval_gets_the_same_answers(model_folder):
    pytest.importorskip("lmms_eval")
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    from fila.evaluation import lmms_eval_fila

    registry = ModelRegistryV2()
    registry.register_manifest(lmms_eval_fila.MANIFEST)
    model_class = registry.get_model_class("fila")
    model = model_class.create_from_arg_string(f"pretrained={model_folder}", {"batch_size": 2, "device": "cpu"})
    questions = ["Why?", "What is written on the door?", "Who?"]
    documents = [{"image": random_image(*SIZES[n], n), "text": text} for n, text in enumerate(questions)]
    model.task_dict = {"task": {"test": documents}}

    def to_messages(document):
        image, text = {"type": "image", "url": document["image"]}, {"type": "text", "text": document["text"]}
        return [{"role": "user", "content": [image, text]}]

    def ask(**settings):
        metadata = {"task": "task", "doc_id": 0, "repeats": 1}
        arguments = [(text, to_messages, settings, n, "task", "test") for n, text in enumerate(questions)]
        requests = [Instance("generate_until", args, n, metadata) for n, args in enumerate(arguments)]
        return model.generate_until(requests)

    answers = ask(max_new_tokens=4, temperature=0)
    processor, reference = tiny_processor(), tiny_model()
    for document, answer in zip(documents, answers):
        inputs = chat_inputs(processor, [chat(document["image"], document["text"])])
        output = reference.generate(**inputs, max_new_tokens=4, do_sample=False)
        text = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == text.strip()
    stop = answers[0][3:5]
    assert ask(max_new_tokens=4, until=[stop])[0] == answers[0].split(stop)[0].strip()
    with pytest.raises(NotImplementedError, match="likelihoods"):
        model.loglikelihood([])

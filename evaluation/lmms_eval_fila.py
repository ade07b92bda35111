# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""FILA as a model of lmms-eval, which knows TextVQA, DocVQA, ChartQA and many more.

pip install -e . lmms_eval
lmms-eval --model fila --model_args pretrained=stage2 --tasks textvqa_val,docvqa_val,chartqa --batch_size 8

lmms-eval finds the model by the entry point of this package. Any model that run_eval.py takes may be given; `dtype` and
`attn_implementation` are further arguments.
"""

from accelerate import PartialState
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages
from lmms_eval.utils import Collator
from tqdm import tqdm

from fila.evaluation.answer import generate_answers, load_model, prepare_inputs

MANIFEST = ModelManifest("fila", chat_class_path="fila.evaluation.lmms_eval_fila.Fila")


class Fila(lmms):
    """Answers the requests of lmms-eval, `batch_size` of them together on each process. The device is the one that
    accelerate gives the process if none is given; [`~fila.evaluation.answer.load_model`] explains the other
    arguments."""

    is_simple = False  # takes conversations

    def __init__(
        self, pretrained, batch_size=1, device=None, dtype="auto", attn_implementation=None, max_batch_size=None
    ):
        super().__init__()
        self.device = PartialState().device if device is None else device
        self.batch_size = int(batch_size)
        self.model, self.processor = load_model(pretrained, dtype, self.device, attn_implementation)

    def generate_until(self, requests):
        """`list[str]`: answers in the order of the requests, cut before the first of the task's stop texts."""
        # The arguments of a request: text, function from a row to messages, settings, row, task, split.
        arguments = [request.args for request in requests]
        collator = Collator(arguments, lambda args: -len(args[0]), lambda args: args[2], True)
        answers = []
        for batch in tqdm(collator.get_batched(n=self.batch_size), unit=" batches", disable=self.rank != 0):
            conversations = [
                ChatMessages(messages=to_messages(self.task_dict[task][split][row])).to_hf_messages()
                for _, to_messages, _, row, task, split in batch
            ]
            settings = batch[0][2]
            options = {"max_new_tokens": 1024, "num_beams": 1}  # where a task says nothing
            options |= {name: settings[name] for name in options if name in settings}
            if temperature := settings.get("temperature"):  # else greedy
                options |= {"do_sample": True, "temperature": temperature, "top_p": settings.get("top_p") or 1.0}
            inputs = prepare_inputs(self.processor, conversations)
            stops = settings.get("until") or []
            for arguments, text in zip(batch, generate_answers(self.model, self.processor, inputs, **options)):
                for stop in [stops] if isinstance(stops, str) else stops:
                    text = text.split(stop)[0].strip() if stop else text
                answers.append(text)
                self.cache_hook.add_partial("generate_until", (arguments[0], settings), text)
        return collator.get_original(answers)

    def loglikelihood(self, requests):
        raise NotImplementedError("FILA generates answers; tasks that need likelihoods are not supported.")

    def generate_until_multi_round(self, requests):
        raise NotImplementedError("FILA answers single questions; tasks of several rounds are not supported.")

# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The output beside its CLIP, as transformers loads that: equal visual tokens. `write_weights` has compared all bytes."""

import copy

import torch
from accelerate import init_empty_weights
from transformers import CLIPVisionModel

from fila.common.arguments import UserError
from fila.common.layout import VIT_PREFIX
from fila.conversion.mapping import Drop, rename
from fila.conversion.sources import Source, open_tensors
from fila.modeling_fila import FilaVisionModel


@torch.no_grad()
def compare_with_clip(folder, config, clip):
    """Runs the vision tower of the output in a folder beside its CLIP, a [`Part`], in float32 on an image of noise: an
    untrained fusion must leave CLIP's tokens as they are, bit by bit. Raises [`UserError`] if it does not. Every layer
    runs, but on an image of 4 x 4 patches, which takes the first position embeddings alone."""
    config = copy.deepcopy(config)
    config.vision_config.image_size = 4 * config.vision_config.patch_size
    generator, sizes = torch.Generator().manual_seed(0), (config.vision_config.image_size, config.high_res_image_size)
    image, high_res_image = (torch.randn(1, 3, size, size, generator=generator) for size in sizes)
    # One model in memory at a time.
    if not torch.equal(_run_output(folder, config, image, high_res_image), _run_clip(clip, config, image)):
        advice = "The output was not kept. `--no-verify` keeps it, to find out why. Please report it."
        raise UserError(f"The visual tokens differ from those of {clip.label}. {advice}")


def _run_output(folder, config, image, high_res_image):
    prefix, output = VIT_PREFIX.removesuffix("vit."), Source("output", folder, sorted(folder.glob("*.safetensors")))
    used = {name.removeprefix(prefix): value for name, value in open_tensors(output).items() if name.startswith(prefix)}
    with init_empty_weights():
        tower = FilaVisionModel(config).eval()
    tower.load_state_dict(_read(used, config), assign=True)
    geometry = {"image_sizes": [image.shape[-2:]], "image_grids": [(0, 0)]}
    return tower(image[:, None], high_res_image[:, None], **geometry).last_hidden_state


def _run_clip(clip, config, image):
    used = {name: tensor for name, tensor in clip.tensors.items() if not isinstance(rename(name, clip, config), Drop)}
    options = {"config": config.vision_config, "dtype": torch.float32}
    model = CLIPVisionModel.from_pretrained(None, state_dict=_read(used, config), **options).eval()
    return model(image, output_hidden_states=True).hidden_states[config.num_vision_layers]


def _read(tensors, config):
    """[`StoredTensor`]s as `dict[str, torch.Tensor]`, rounded as in the output, in float32."""
    state = {name: tensor.read().to(config.dtype).float() for name, tensor in tensors.items()}
    for name in [name for name in state if name.endswith("position_embedding.weight")]:
        state[name] = state[name][: 1 + config.grid_size**2]
    return state

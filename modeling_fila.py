# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch FILA model: a CLIP ViT on tiles, a ConvNeXt on the whole high-resolution canvas, four ways to fuse the two, a
projector and a causal decoder.

Source: "FILA: Fine-Grained Vision Language Models" (arXiv 2412.08378v3), called "the paper" below.
"""

import threading
from dataclasses import dataclass

import timm
import torch
from torch import nn
from transformers import (
    AutoModel,
    CLIPPreTrainedModel,
    CLIPVisionConfig,
    GenerationMixin,
    GradientCheckpointingLayer,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer, CLIPVisionEmbeddings
from transformers.utils import can_return_tuple, logging
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.output_capturing import capture_outputs

from .configuration_fila import CONVNEXT_STRIDE, FilaConfig, RemoteCodeMixin, get_content_box

logger = logging.get_logger(__name__)

# Inputs that `generate` passes to the first forward pass only.
IMAGE_INPUTS = ("pixel_values", "high_res_pixel_values", "image_sizes", "image_grids", "mm_encoder_outputs")
# transformers 5.24 renamed `past_key_values` to `cache`, in the arguments and outputs of decoders.
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
# In "cross_attention", each token attends to a sub-region of 4x4 ConvNeXt cells at stride 8. This choice is ours: Mini-Gemini
# uses 8x8 cells at stride 4, with a quarter of the tokens.
CELLS_PER_TOKEN = 4
# In the metadata of every model card, also in that of `push_to_hub`.
MODEL_TAGS = ("image-text-to-text", "vision-language-model", "custom_code", "fila")


class FilaImageOutputs:
    """What both outputs have in common, as in transformers' `MultimodalModelOutput` (since 5.24)."""

    @property
    def image_hidden_states(self):
        """`tuple[torch.Tensor]`, *optional*: `image_outputs.pooler_output`, under the name that it had before 5.24."""
        return None if self.image_outputs is None else self.image_outputs.pooler_output

    def to_tuple(self):
        return tuple(self[key].to_tuple() if key == "image_outputs" else self[key] for key in self.keys())


@dataclass
class FilaModelOutputWithPast(FilaImageOutputs, BaseModelOutputWithPast):
    """Output of [`FilaModel`].

    Args:
        image_outputs ([`BaseModelOutputWithPooling`], *optional*): what [`~FilaModel.get_image_features`] returns. Its
            `pooler_output` has the visual tokens of each image, of shape (number of tokens, hidden size of the text model).
    """

    image_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class FilaCausalLMOutputWithPast(FilaImageOutputs, CausalLMOutputWithPast):
    """Output of [`FilaForConditionalGeneration`]: what every causal model of transformers returns, and the images.

    Args:
        image_outputs ([`BaseModelOutputWithPooling`], *optional*): as in [`FilaModelOutputWithPast`].
    """

    image_outputs: BaseModelOutputWithPooling | None = None


def _is_empty(cache):
    """Whether nothing is cached. The cache of continuous batching, which is of several texts, does not say."""
    return cache is None or (hasattr(cache, "get_seq_length") and cache.get_seq_length() == 0)


def _spares_vision(quantization_config):
    """Whether a quantizer is to leave vision tower and projector alone. It is unless its list of modules to skip names neither: such a list is taken literally."""
    if quantization_config is None:
        return False
    skipped = [getattr(quantization_config, key, None) for key in ("llm_int8_skip_modules", "modules_to_not_convert")]
    names = [name for names in skipped for name in names or []]
    return not names or any(name.endswith(("vision_tower", "multi_modal_projector")) for name in names)


def _accept_past_key_values(forward):
    """Decorates a `forward` with transformers' own warning, where the argument has its new name."""
    if CACHE == "past_key_values":
        return forward
    return deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")(forward)


def _is_trainable(module):
    return any(parameter.requires_grad for parameter in module.parameters())


def _grad_where_needed(module, inputs):
    """Switches autograd off if neither `inputs` nor `module` needs a gradient, so that checkpointing stores nothing either."""
    needs_grad = inputs.requires_grad or _is_trainable(module)
    return torch.set_grad_enabled(torch.is_grad_enabled() and needs_grad)


def _eval_if_frozen(module):
    """Puts a module without trainable parameters in eval mode: `requires_grad_(False)` alone leaves dropout and stochastic
    depth on. Layers that checkpoint keep their own training flag, though not the modules in them: transformers checkpoints
    in training mode only, and a gradient may pass through a frozen layer."""
    if module is None or _is_trainable(module):
        return
    module.eval()
    for child in module.modules():
        if isinstance(child, GradientCheckpointingLayer):
            child.training = child.gradient_checkpointing


def _is_sharded(module):
    """Whether parameters of `module` are spread over processes (FSDP, ZeRO-3). Each use gathers them from all processes, so
    that all must use the same parts equally often, whatever their own batches hold. Two places ask: the hybrid encoder,
    through `_count_missing_calls`, and `FilaModel`, for batches without images."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    if any(isinstance(child, (FSDPModule, FullyShardedDataParallel)) for child in module.modules()):
        return True
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())  # set by DeepSpeed


def _count_missing_calls(module, num_calls, device):
    """How many more calls of a sharded `module` other processes make in this step than the `num_calls` of this one; 0 if it
    is not sharded. All processes must ask, and before their first call: each takes part in collectives in the same order."""
    if not _is_sharded(module):
        return 0
    most_calls = torch.tensor(num_calls, device=device)
    torch.distributed.all_reduce(most_calls, op=torch.distributed.ReduceOp.MAX)
    return int(most_calls) - num_calls


def _to_pairs(values):
    """(N, 2) integers as a list of tuples. Pairs of Python integers make no tensor: a tensor on a device is read only once, and
    an exported graph has them as constants."""
    if isinstance(values, (list, tuple)):
        pairs = [tuple(pair) if isinstance(pair, (list, tuple)) else pair for pair in values]
        if all(isinstance(pair, tuple) and list(map(type, pair)) == [int, int] for pair in pairs):
            return pairs
    return [tuple(pair) for pair in _check_pairs(values).tolist()]


def _check_pairs(values):
    """A tensor of shape (N, 2). Raises a `ValueError` unless it has integers."""
    values = torch.as_tensor(values)
    if values.ndim != 2 or values.shape[1] != 2 or values.is_floating_point():
        raise ValueError(
            f"image_sizes and image_grids must be (images, 2) integers, got {values.dtype} of shape {tuple(values.shape)}. "
            "Pass them as the processor returns them."
        )
    return values


def _stack_views(pixels):
    """A list of images, (views, 3, S, S) or (1, views, 3, S, S) each, as one tensor; absent views are zero."""
    is_list = isinstance(pixels, (list, tuple)) and len(pixels) > 0
    if not is_list or not all(isinstance(views, torch.Tensor) for views in pixels):
        return pixels
    views = [views.flatten(0, views.ndim - 4) for views in pixels]
    return nn.utils.rnn.pad_sequence(views, batch_first=True)


def _normalize(pixels, rescale_factor, mean, std):
    """Pixels of shape (..., 3, height, width), if they are uint8 rescaled and normalised as the image processor does it, in
    float32. Others are normalised already."""
    if pixels.dtype != torch.uint8:
        return pixels
    mean, std = (torch.tensor(values, dtype=torch.float32).mul(1 / rescale_factor) for values in (mean, std))
    mean, std = (_send(values.view(-1, 1, 1), pixels.device) for values in (mean, std))
    return (pixels - mean).div_(std)


def _send(tensor, device):
    """Copies a tensor of the CPU to a device, without waiting for what the device has to do. On "mps" such a copy may read memory
    that is free already (pytorch/pytorch#189690), so there it waits."""
    return tensor.to(device, non_blocking=device.type != "mps")


def _area_weights(start, length, num_cells, num_outputs):
    """Weights that average `num_cells` unit cells over `num_outputs` equal parts of the interval [start, start + length).

    Returns:
        `torch.Tensor` of shape (num_outputs, num_cells): each row sums to 1.
    """
    edges = start + length * torch.arange(num_outputs + 1, dtype=torch.float64) / num_outputs
    lower, upper = edges[:-1, None], edges[1:, None]
    cells = torch.arange(num_cells, dtype=torch.float64)
    overlap = (torch.minimum(upper, cells + 1) - torch.maximum(lower, cells)).clamp(min=0)
    return overlap / overlap.sum(dim=1, keepdim=True)


# Layers with an initialisation of their own are classes, because transformers initialises a model layer by layer.
class FilaZeroLinear(nn.Linear):
    """A linear layer that starts at zero: added to something, it changes nothing at first."""


class FilaIdentityLinear(nn.Linear):
    """A linear layer that starts as the identity on its first inputs and ignores the others."""


class FilaMeanConv2d(nn.Conv2d):
    """A convolution that starts as the mean over its window, channel by channel."""


class FilaStageAlign(nn.Module):
    """Brings one ConvNeXt stage to a given number of cells per visual token and cuts it into views.

    The whole canvas is aligned once; a tile is then a plain part of the result. The global view, which shows the image
    without padding, takes the content box of the canvas, averaged over its own grid.

    Args:
        channels (`int`): width of the stage, kept.
        stage_cells (`int`): cells of the stage along one side of a token (8, 4, 2, 1 for stages 1 to 4).
        cells (`int`): cells wanted along one side of a token.
        fusion_align (`str`): `"conv"` (strided 2x2 convolutions, paper) or `"interpolate"` (area).
    """

    def __init__(self, channels, stage_cells, cells, fusion_align):
        super().__init__()
        self.stage_cells = stage_cells
        self.cells = cells
        self.convs = nn.ModuleList()
        if fusion_align == "conv":
            num_halvings = max(stage_cells // cells, 1).bit_length() - 1
            self.convs.extend(FilaMeanConv2d(channels, channels, kernel_size=2, stride=2) for _ in range(num_halvings))

    def forward(self, stage_map, grid, content_boxes):
        """
        Args:
            stage_map (`torch.Tensor` of shape `(N, channels, height, width)`): the stage over the whole canvas.
            grid (`tuple[int, int]`): rows R and columns C of tiles of these N images, (0, 0) if they are not tiled.
            content_boxes (`list`): for each image (top, left, height, width) of the content, in tokens.

        Returns:
            `torch.Tensor` of shape `(N, 1 + R*C, G*G, cells*cells, channels)`: global view first, then the tiles.
        """
        cells, (rows, columns) = self.cells, grid
        for conv in self.convs:
            stage_map = conv(stage_map.to(conv.weight.dtype))
        if not self.convs and self.stage_cells > cells:
            stage_map = nn.functional.avg_pool2d(stage_map, self.stage_cells // cells)
        elif self.stage_cells < cells:
            stage_map = nn.functional.interpolate(stage_map, scale_factor=cells // self.stage_cells, mode="nearest")
        num_images, channels, height, width = stage_map.shape
        side = height // max(rows, 1)
        global_view = stage_map
        if (rows, columns) != (0, 0):
            boxes = [[edge * cells for edge in box] for box in content_boxes]
            weights_y = torch.stack([_area_weights(top, length, height, side) for top, _, length, _ in boxes])
            weights_x = torch.stack([_area_weights(left, length, width, side) for _, left, _, length in boxes])
            weights_y, weights_x = (_send(w.to(stage_map.dtype), stage_map.device) for w in (weights_y, weights_x))
            global_view = weights_y[:, None] @ stage_map @ weights_x.transpose(1, 2)[:, None]
        views = [self._to_tokens(global_view, 1, 1, side)]
        if (rows, columns) != (0, 0):
            views.append(self._to_tokens(stage_map, rows, columns, side))
        return torch.cat(views, dim=1)

    def _to_tokens(self, stage_map, rows, columns, side):
        num_images, channels, cells = stage_map.shape[0], stage_map.shape[1], self.cells
        tokens = side // cells
        # batch, row, token y, cell y, column, token x, cell x, channel
        stage_map = stage_map.permute(0, 2, 3, 1).view(
            num_images, rows, tokens, cells, columns, tokens, cells, channels
        )
        # -> batch, view, token, cell, channel
        return stage_map.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(
            num_images, rows * columns, tokens**2, cells**2, channels
        )


class FilaCVFM(nn.Module):
    """ConvNeXt-ViT Deep Fusion Module: one ConvNeXt stage `f` joins the patch tokens `x` of the ViT, as
    `x + MLP(concat(norm(x), norm(align(f))))`.

    From the paper: the stage is aligned to the token grid, concatenated with the patch tokens on channels and reduced to the
    ViT's width. Ours: the residual, the norms, a last layer that starts at zero, and a class token that passes unchanged. So a
    freshly assembled FILA computes exactly what its CLIP computes.
    """

    def __init__(self, hidden_size, channels, stage_cells, fusion_align, layer_norm_eps):
        super().__init__()
        self.aligns = nn.ModuleList([FilaStageAlign(channels, stage_cells, 1, fusion_align)])
        self.norm_hidden = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.norm_features = nn.LayerNorm(channels, eps=layer_norm_eps)
        self.linear_1 = nn.Linear(hidden_size + channels, hidden_size)
        self.act = nn.GELU()
        self.linear_2 = FilaZeroLinear(hidden_size, hidden_size)

    def forward(self, hidden_states, features):
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(views, 1 + G*G, hidden_size)`): class token and patch tokens.
            features (`torch.Tensor` of shape `(views, G*G, 1, channels)`): the aligned stage.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`.
        """
        class_token, patches = hidden_states[:, :1], hidden_states[:, 1:]
        fused = torch.cat([self.norm_hidden(patches), self.norm_features(features.squeeze(2))], dim=-1)
        fused = self.linear_2(self.act(self.linear_1(fused)))
        return torch.cat([class_token, patches + fused], dim=1)


class FilaChannelConcat(nn.Module):
    """Channel-wise concatenation (strategy c of the paper): after the ViT, all four stages are aligned to the token grid,
    concatenated with the patch tokens on channels and projected to the ViT's width. Ours: the norms of the stages, whose
    scales differ, and a projection that starts as the identity on the patch tokens."""

    def __init__(self, hidden_size, stage_channels, stage_cells, fusion_align, layer_norm_eps):
        super().__init__()
        self.aligns = nn.ModuleList(
            FilaStageAlign(channels, cells, 1, fusion_align) for channels, cells in zip(stage_channels, stage_cells)
        )
        self.norm_features = nn.ModuleList(nn.LayerNorm(channels, eps=layer_norm_eps) for channels in stage_channels)
        self.proj = FilaIdentityLinear(hidden_size + sum(stage_channels), hidden_size)

    def forward(self, hidden_states, features):
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(views, 1 + G*G, hidden_size)`): class token and patch tokens.
            features (`list[torch.Tensor]`): the aligned stages, each of shape `(views, G*G, 1, channels)`.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`.
        """
        class_token, patches = hidden_states[:, :1], hidden_states[:, 1:]
        stages = [norm(stage.squeeze(2)) for norm, stage in zip(self.norm_features, features)]
        fused = self.proj(torch.cat([patches, *stages], dim=-1))
        return torch.cat([class_token, fused], dim=1)


class FilaPatchInfoMining(nn.Module):
    """Patch info mining (strategy b of the paper; Mini-Gemini, arXiv 2403.18814): after the ViT, each patch token attends to
    the ConvNeXt features of its own sub-region, and the output is added. Ours: the norms, and an output that starts at zero."""

    def __init__(self, hidden_size, stage_channels, stage_cells, fusion_align, layer_norm_eps):
        super().__init__()
        self.aligns = nn.ModuleList(
            FilaStageAlign(channels, cells, CELLS_PER_TOKEN, fusion_align)
            for channels, cells in zip(stage_channels, stage_cells)
        )
        self.norm_hidden = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.norm_features = nn.LayerNorm(sum(stage_channels), eps=layer_norm_eps)
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(sum(stage_channels), hidden_size)
        self.v_proj = nn.Linear(sum(stage_channels), hidden_size)
        self.out_proj = FilaZeroLinear(hidden_size, hidden_size)

    def forward(self, hidden_states, features):
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(views, 1 + G*G, hidden_size)`): class token and patch tokens.
            features (`list[torch.Tensor]`): the aligned stages, each of shape `(views, G*G, cells*cells, channels)`.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`.
        """
        class_token, patches = hidden_states[:, :1], hidden_states[:, 1:]
        features = self.norm_features(torch.cat(features, dim=-1))
        query = self.q_proj(self.norm_hidden(patches)).unsqueeze(2)
        # For each token, one query attends to the cells of its own sub-region.
        mined = nn.functional.scaled_dot_product_attention(query, self.k_proj(features), self.v_proj(features))
        return torch.cat([class_token, patches + self.out_proj(mined.squeeze(2))], dim=1)


class FilaPreTrainedModel(PreTrainedModel, RemoteCodeMixin):
    """Base class: what transformers' tools need to know about FILA."""

    config_class = FilaConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "CLIPVisionEmbeddings",
        "CLIPEncoderLayer",
        "ConvNeXtStage",
        "FilaStageAlign",
        "FilaCVFM",
        "FilaChannelConcat",
        "FilaPatchInfoMining",
    ]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def post_init(self):
        super().post_init()
        # FSDP shards each of these as a unit, and rejects names of classes that the model does not contain.
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}
        if _spares_vision(getattr(self.config, "quantization_config", None)):
            # Quantizers leave these modules alone, whatever else they are told to skip.
            self._keep_in_fp32_modules |= {
                name
                for name, module in self.named_modules()
                if name and isinstance(module, (FilaVisionModel, FilaMultiModalProjector))
            }

    def _set_gradient_checkpointing(self, enable=True, *args, **kwargs):
        """Called by transformers to switch checkpointing on or off. Adds timm's switch, as transformers' `TimmWrapperModel`
        does."""
        super()._set_gradient_checkpointing(enable, *args, **kwargs)
        for module in self.modules():
            if isinstance(module, timm.models.ConvNeXt):
                module.set_grad_checkpointing(enable)  # block by block
        self.train(self.training)  # the modes of frozen layers depend on it


class FilaVisionTransformer(CLIPPreTrainedModel):
    """The layers of a CLIP vision tower up to the one whose output FILA uses. Their parameter names are FILA's own, because
    those of transformers have changed. [`FilaVisionModel`] runs the layers, because it fuses between them."""

    config_class = CLIPVisionConfig
    main_input_name = "pixel_values"
    _input_embed_layer = "patch_embedding"

    def __init__(self, config, num_layers):
        super().__init__(config)
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(CLIPEncoderLayer(config) for _ in range(num_layers))
        self.post_init()


class FilaVisionModel(FilaPreTrainedModel):
    """The hybrid encoder: ViT, ConvNeXt and their fusion. Views in, visual tokens of ViT width out.

    Args:
        config ([`FilaConfig`]): the whole configuration. `self.config` is its `vision_config`, which holds the attention
            implementation; the whole is `self.fila_config`.
    """

    config_class = CLIPVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _can_record_outputs = {"attentions": CLIPAttention}  # hidden states are recorded after fusion, in `forward`

    def __init__(self, config):
        vision_config = config.vision_config
        super().__init__(vision_config)
        self.fila_config = config
        self.vit = FilaVisionTransformer(vision_config, config.num_vision_layers)
        self.convnext = None if config.fusion_type == "none" else _build_convnext(config.convnext_config)
        self.fusion = nn.ModuleList(_build_fusion(config, self.convnext.feature_info) if self.convnext else [])
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        kind = type(module).__name__
        if isinstance(module, FilaZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, FilaIdentityLinear):
            init.eye_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, FilaMeanConv2d):
            identity = torch.eye(module.in_channels, device=module.weight.device, dtype=module.weight.dtype)
            window = module.weight.shape[-2:]
            init.copy_(module.weight, (identity / window.numel())[:, :, None, None].expand_as(module.weight))
            init.zeros_(module.bias)
        # Parts of a timm ConvNeXt that transformers does not initialise: layer scales, and norms that it does not recognise.
        elif kind == "ConvNeXtBlock" and module.gamma is not None:
            model_args = self.fila_config.convnext_config.model_args
            init.constant_(module.gamma, model_args.get("ls_init_value", 1e-6))
        elif kind.startswith("GlobalResponseNorm") and hasattr(module, "bias"):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif kind.startswith(("RmsNorm", "SimpleNorm")):
            init.ones_(module.weight)

    def train(self, mode=True):
        """Sets the mode of all parts but the frozen ones, which stay in eval mode."""
        super().train(mode)
        if mode:
            _eval_if_frozen(self.vit)
            _eval_if_frozen(self.convnext)
        return self

    @capture_outputs
    def forward(
        self,
        pixel_values,
        high_res_pixel_values=None,
        image_sizes=None,
        image_grids=None,
        output_hidden_states=None,
        **kwargs,
    ):
        """Encodes N images, whose inputs [`~FilaVisionModel.check_inputs`] has checked. The ViT runs once, on all views that
        the images have; the ConvNeXt runs once for each grid, on all canvases of that grid.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 1 + T, 3, S, S)`): global view, then the tiles.
            high_res_pixel_values (`torch.Tensor` of shape `(N, max(T, 1), 3, s, s)`, *optional*): the pieces of the
                high-resolution canvas. Not used for `fusion_type="none"`.
            image_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape `(N, 2)`): original height and width.
            image_grids (`list[tuple[int, int]]` or `torch.Tensor` of shape `(N, 2)`): rows and columns of tiles, (0, 0) if
                not tiled.
            output_hidden_states (`bool`, *optional*): whether to return the ViT's hidden states; by default as the
                configuration says.
            output_attentions (`bool`, *optional*): the same for the attentions of its layers (eager attention only).

        Returns:
            [`BaseModelOutputWithPooling`] with `last_hidden_state` of shape (views, 1 + G*G, ViT width), the views of
            image 0 first, and, if asked for, `attentions` and `hidden_states`, the embeddings and the output of each layer
            after fusion.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        image_sizes, image_grids = _to_pairs(image_sizes), _to_pairs(image_grids)
        num_views = [1 + rows * columns for rows, columns in image_grids]
        stage_features = self._encode_high_res(high_res_pixel_values, image_sizes, image_grids)

        if min(num_views) == pixel_values.shape[1]:
            views = pixel_values.flatten(0, 1)
        else:
            views = torch.cat([image[:count] for image, count in zip(pixel_values, num_views)])
        config, vit = self.fila_config, self.vit
        views = _normalize(views, config.rescale_factor, config.image_mean, config.image_std)
        stage_after_layer = {layer: stage for stage, layer in enumerate(config.fusion_layers)}
        if config.fusion_type != "cvfm":
            stage_after_layer = {}
        with _grad_where_needed(vit.embeddings, views):
            hidden_states = vit.embeddings(views)
        with _grad_where_needed(vit.pre_layernorm, hidden_states):
            hidden_states = vit.pre_layernorm(hidden_states)
        all_hidden_states = [hidden_states]
        for number, layer in enumerate(vit.layers, start=1):
            with _grad_where_needed(layer, hidden_states):
                hidden_states = layer(hidden_states, None)
            if number in stage_after_layer:
                stage = stage_after_layer[number]
                hidden_states = self.fusion[stage](hidden_states, stage_features[stage])
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
        if config.fusion_type in ("channel_concat", "cross_attention"):
            hidden_states = self.fusion[0](hidden_states, stage_features)
            all_hidden_states[-1] = hidden_states
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, hidden_states=tuple(all_hidden_states) if output_hidden_states else None
        )

    def _encode_high_res(self, high_res_pixel_values, image_sizes, image_grids):
        """Runs the ConvNeXt on whole canvases, those of one grid together.

        Returns:
            `list[torch.Tensor]`: for each stage, features of shape (views, G*G, cells, channels), image after image.
        """
        if self.convnext is None:
            return []
        groups = {}
        for index, grid in enumerate(image_grids):
            groups.setdefault(grid, []).append(index)
        num_missing = _count_missing_calls(self, len(groups), high_res_pixel_values.device)
        features_of = [None] * len(image_grids)  # for each image, its features of all stages
        for grid, indices in groups.items():
            pieces = [high_res_pixel_values[index, : max(grid[0] * grid[1], 1)] for index in indices]
            stages = self._encode_canvases(pieces, grid, [image_sizes[index] for index in indices])
            for index, *features in zip(indices, *stages):
                features_of[index] = features
        stage_features = [torch.cat(features) for features in zip(*features_of)]
        for _ in range(num_missing):
            blank = torch.zeros_like(high_res_pixel_values[:1, :1])
            blank_features = self._encode_canvases(list(blank), (0, 0), [blank.shape[-2:]])
            # The factor comes before the sum, which may overflow otherwise.
            stage_features = [
                features + (0.0 * nothing).sum() for features, nothing in zip(stage_features, blank_features)
            ]
        return stage_features

    def _encode_canvases(self, pieces, grid, image_sizes):
        """Runs the ConvNeXt on the canvases of images that share a grid.

        Args:
            pieces (`list[torch.Tensor]`): the canvases in pieces, each of shape (max(R*C, 1), 3, s, s).
            grid (`tuple[int, int]`): rows R and columns C.
            image_sizes (`list[tuple[int, int]]`): original height and width of the images.

        Returns:
            `list[torch.Tensor]`: for each stage, features of shape (images, 1 + R*C, G*G, cells, channels).
        """
        rows, columns = (max(count, 1) for count in grid)
        side, config = pieces[0].shape[-1], self.fila_config
        canvas_size = rows * side, columns * side
        # row, column, channel, y, x -> row, y, column, x, channel; ConvNeXt is fastest channels last
        pieces = [image.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2) for image in pieces]
        canvas = torch.stack(pieces).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
        canvas = _normalize(canvas, config.rescale_factor, config.high_res_image_mean, config.high_res_image_std)
        canvas = canvas.to(next(self.convnext.parameters()).dtype)
        boxes = [get_content_box(image_size, canvas_size) for image_size in image_sizes]
        boxes = [[edge / CONVNEXT_STRIDE for edge in box] for box in boxes]
        with _grad_where_needed(self.convnext, canvas):
            stage_maps = self.convnext.forward_intermediates(canvas, intermediates_only=True)
        aligns = [align for module in self.fusion for align in module.aligns]
        return [align(stage_map, grid, boxes) for align, stage_map in zip(aligns, stage_maps)]

    def check_inputs(self, pixel_values, high_res_pixel_values, image_sizes, image_grids):
        """Checks that the image inputs belong together, before anything is computed.

        Returns:
            `tuple[list, list]`: `image_sizes` and `image_grids` as lists of pairs of integers.

        Raises:
            ValueError: shapes that do not fit this model, or tiles that do not fit `image_grids`.
        """
        vision_config = self.config
        view_shape = (vision_config.num_channels, vision_config.image_size, vision_config.image_size)
        _check_views("pixel_values", pixel_values, view_shape)
        if image_grids is None or image_sizes is None:
            missing = "image_grids" if image_grids is None else "image_sizes"
            raise ValueError(f"pixel_values came without {missing}. Pass everything that the processor returns.")
        if isinstance(image_sizes, torch.Tensor) and getattr(image_grids, "device", None) == image_sizes.device:
            # Read together: the CPU waits for the device once.
            pairs = torch.cat([_check_pairs(image_sizes), _check_pairs(image_grids)]).tolist()
            image_sizes, image_grids = pairs[: len(image_sizes)], pairs[len(image_sizes) :]
        image_sizes, image_grids = _to_pairs(image_sizes), _to_pairs(image_grids)
        if not pixel_values.shape[0] == len(image_grids) == len(image_sizes):
            raise ValueError(
                f"pixel_values holds {pixel_values.shape[0]} images, image_grids {len(image_grids)} and image_sizes "
                f"{len(image_sizes)}; the three must agree."
            )
        for index, (image_size, (rows, columns)) in enumerate(zip(image_sizes, image_grids)):
            if min(image_size) < 1:
                raise ValueError(
                    f"image_sizes[{index}]={image_size} is not a height and width in pixels: both must be at least 1. Pass "
                    "the sizes that the processor returns."
                )
            if min(rows, columns) < 0 or (rows == 0) != (columns == 0):
                raise ValueError(
                    f"image_grids[{index}]={(rows, columns)} is no grid: rows and columns must be both 0 (not tiled) or both "
                    "positive. Pass the grids that the processor returns."
                )
        index = _find_wrong_view_count(pixel_values, image_grids)
        if index is not None:
            rows, columns = image_grids[index]
            raise ValueError(
                f"image_grids[{index}]={(rows, columns)} asks for {1 + rows * columns} views (global and tiles), which is not "
                f"what pixel_values[{index}] holds: it has {pixel_values.shape[1]}, and those that are absent must be zero. "
                "Pass pixel_values and image_grids from the same processor call."
            )
        if self.convnext is not None:
            high_res_shape = (vision_config.num_channels, *[self.fila_config.high_res_image_size] * 2)
            _check_views("high_res_pixel_values", high_res_pixel_values, high_res_shape)
            num_tiles = max(max(rows * columns, 1) for rows, columns in image_grids)
            if high_res_pixel_values.shape[0] != len(image_grids) or high_res_pixel_values.shape[1] < num_tiles:
                raise ValueError(
                    f"high_res_pixel_values has shape {tuple(high_res_pixel_values.shape)}, but these image_grids need "
                    f"{len(image_grids)} images of {num_tiles} pieces. Pass both from the same processor call."
                )
        return image_sizes, image_grids


def _find_wrong_view_count(pixel_values, image_grids):
    """Finds the first image whose grid asks for more views than there are, or leaves out a view that is not zero. All absent
    views are checked together, because the CPU waits for the device at each check.

    Returns:
        `int`: index of the image, `None` if all grids fit.
    """
    num_views = [1 + rows * columns for rows, columns in image_grids]
    for index, count in enumerate(num_views):
        if count > pixel_values.shape[1]:
            return index
    fewest = min(num_views)
    if fewest == pixel_values.shape[1]:
        return None
    is_filled = pixel_values[:, fewest:].any(dim=(2, 3, 4)).tolist()
    return next((index for index, count in enumerate(num_views) if any(is_filled[index][count - fewest :])), None)


def _check_views(name, pixels, view_shape):
    """Raises a `ValueError` unless `pixels` is a tensor of shape (images, views, *view_shape) with an image in it."""
    if not isinstance(pixels, torch.Tensor):
        raise ValueError(
            f"{name} is {type(pixels).__name__}, not a tensor. Call the processor with return_tensors='pt' and do_pad=True, "
            "and with do_high_res=True unless fusion_type='none'."
        )
    if pixels.ndim != 5 or tuple(pixels.shape[2:]) != view_shape or 0 in pixels.shape:
        expected = ", ".join(map(str, view_shape))
        raise ValueError(
            f"{name} has shape {tuple(pixels.shape)}, expected (images, views, {expected}) and at least one image. Check "
            "that the image processor has the size and the patch_size of the model."
        )


def _build_convnext(config):
    """A timm ConvNeXt without its head and final norm."""
    architecture = config.architecture.split(".")[0]
    try:
        convnext = timm.create_model(architecture, pretrained=False, num_classes=0, **config.model_args)
    except TypeError as error:
        raise ValueError(
            f"FilaConvNextConfig.model_args={config.model_args} does not fit timm's {architecture}: {error}"
        ) from error
    convnext.prune_intermediate_layers(None, prune_norm=True, prune_head=True)
    reductions = [stage["reduction"] for stage in convnext.feature_info]
    if reductions[-1] != CONVNEXT_STRIDE:
        raise ValueError(
            f"FilaConvNextConfig.model_args={config.model_args} gives stages of stride {reductions}; the last must be "
            f"{CONVNEXT_STRIDE}, so that one cell covers one ViT patch."
        )
    return convnext


def _build_fusion(config, feature_info):
    """The modules that fuse the four stages of a ConvNeXt, described by timm's `feature_info`, into the ViT."""
    channels = [stage["num_chs"] for stage in feature_info]
    cells = [CONVNEXT_STRIDE // stage["reduction"] for stage in feature_info]
    width, last = config.vision_config.hidden_size, (config.fusion_align, config.vision_config.layer_norm_eps)
    if config.fusion_type == "cvfm":
        return [FilaCVFM(width, *stage, *last) for stage in zip(channels, cells)]
    fusion_class = FilaChannelConcat if config.fusion_type == "channel_concat" else FilaPatchInfoMining
    return [fusion_class(width, channels, cells, *last)]


class FilaMultiModalProjector(nn.Module):
    """Two linear layers from ViT width to text width, as in LLaVA."""

    def __init__(self, config):
        super().__init__()
        if config.projector_hidden_act not in ACT2FN:
            raise ValueError(
                f"FilaConfig.projector_hidden_act={config.projector_hidden_act!r} is not one of {', '.join(ACT2FN)}."
            )
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)

    def forward(self, image_features):
        """(..., ViT width) -> (..., text width)"""
        return self.linear_2(self.act(self.linear_1(image_features)))


class FilaModel(FilaPreTrainedModel):
    """FILA without the language-modeling head: hybrid encoder, projector and decoder."""

    def __init__(self, config):
        config.validate()  # `from_pretrained` may have set fields after the configuration was made
        super().__init__(config)
        self.vision_tower = FilaVisionModel(config)
        self.multi_modal_projector = FilaMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def train(self, mode=True):
        """Sets the mode of all parts but the frozen ones, which stay in eval mode. Call it again after freezing a part, or
        after enabling checkpointing on a frozen sub-model alone."""
        super().train(mode)
        if mode:
            _eval_if_frozen(self.language_model)
        return self

    # `output_hidden_states` is not in the signature: `generate` would pass it here instead of to the decoder.
    @can_return_tuple
    def get_image_features(
        self, pixel_values, high_res_pixel_values=None, image_sizes=None, image_grids=None, **kwargs
    ):
        """Encodes and projects N images. Serving engines batch images of different grids as lists, which are taken for the
        first two arguments.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 1 + T, 3, S, S)`): global view, then the tiles; normalised, or uint8.
            high_res_pixel_values (`torch.Tensor` of shape `(N, max(T, 1), 3, s, s)`, *optional*): the high-resolution
                canvas in pieces, likewise; required unless `fusion_type="none"`.
            image_sizes (`torch.Tensor` of shape `(N, 2)`): original height and width.
            image_grids (`torch.Tensor` of shape `(N, 2)`): rows R and columns C of tiles.
            output_hidden_states (`bool`, *optional*): whether to return the ViT's hidden states; by default as
                `config.vision_config` says.
            output_attentions (`bool`, *optional*): the same for its attentions (eager attention only).

        Returns:
            [`BaseModelOutputWithPooling`] whose `pooler_output` is a tuple of N tensors of shape
            ((1 + R*C) * G*G, text width): global view, then tile after tile, each row by row.

        Raises:
            ValueError: inputs that do not belong together.
        """
        inputs = (_stack_views(pixel_values), _stack_views(high_res_pixel_values))
        image_sizes, image_grids = self.vision_tower.check_inputs(*inputs, image_sizes, image_grids)
        return self._encode_images(*inputs, image_sizes, image_grids, **kwargs)

    def _encode_images(self, pixel_values, high_res_pixel_values, image_sizes, image_grids, **kwargs):
        inputs = (pixel_values, high_res_pixel_values, image_sizes, image_grids)
        outputs = self.vision_tower(*inputs, **kwargs, return_dict=True)
        # The class token is dropped, as in LLaVA's "default" strategy.
        features = self.multi_modal_projector(outputs.last_hidden_state[:, 1:]).flatten(0, 1)
        outputs.pooler_output = features.split(self._count_image_tokens(image_grids))
        return outputs

    @torch.no_grad()
    def get_fusion_maps(self, pixel_values, high_res_pixel_values=None, image_sizes=None, image_grids=None):
        """How much each fusion module changes each visual token: the norm of its update as a share of the token's norm.

        Args:
            pixel_values, high_res_pixel_values, image_sizes, image_grids: as for [`~FilaModel.get_image_features`].

        Returns:
            `list[dict[str, torch.Tensor]]`: for each image `"global_view"` of shape (modules, G, G) and, unless it is not
            tiled, `"canvas"` of shape (modules, R*G, C*G), on the CPU. There are four modules with `fusion_type="cvfm"`, in the
            order of `fusion_layers`, and one with `"cross_attention"`.

        Raises:
            ValueError: inputs that do not belong together, or a `fusion_type` that does not add to the tokens.
        """
        if self.config.fusion_type not in ("cvfm", "cross_attention"):
            raise ValueError(
                f"fusion_type={self.config.fusion_type!r} adds nothing to the tokens of the ViT, so it has no fusion maps. Use "
                "a model with fusion_type 'cvfm' or 'cross_attention'."
            )
        changes, thread = [], threading.get_ident()

        def note_change(module, inputs, output):
            if threading.get_ident() != thread:  # another thread runs the same model
                return
            before, after = inputs[0][:, 1:].float(), output[:, 1:].float()
            changes.append(((after - before).norm(dim=-1) / before.norm(dim=-1)).cpu())

        hooks = [module.register_forward_hook(note_change) for module in self.vision_tower.fusion]
        try:
            self.get_image_features(pixel_values, high_res_pixel_values, image_sizes, image_grids)
        finally:
            for hook in hooks:
                hook.remove()
        side = self.config.grid_size
        views = torch.stack(changes, dim=1).unflatten(2, (side, side))  # view, module, y, x
        maps = []
        for rows, columns in _to_pairs(image_grids):
            image, views = views[: 1 + rows * columns], views[1 + rows * columns :]
            maps.append({"global_view": image[0]})
            if rows:
                # row, column, module, y, x -> module, row y, column x
                canvas = image[1:].unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
                maps[-1]["canvas"] = canvas.reshape(-1, rows * side, columns * side)
        return maps

    def _count_image_tokens(self, image_grids):
        return [(1 + rows * columns) * self.config.grid_size**2 for rows, columns in image_grids]

    def get_placeholder_mask(self, input_ids, inputs_embeds, num_features):
        """Where `num_features` visual tokens go.

        Returns:
            `torch.BoolTensor` of shape (batch_size, sequence_length, 1).

        Raises:
            ValueError: the number of placeholders is not the number of visual tokens.
        """
        if input_ids is not None:
            mask = input_ids == self.config.image_token_id
        else:
            image_token = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(image_token)).all(dim=-1)
        num_placeholders = int(mask.sum())
        if num_placeholders != num_features:
            raise ValueError(
                f"Image features and image tokens do not match: the text has {num_placeholders} image tokens "
                f"(id {self.config.image_token_id}), the images give {num_features} features. Process text and images in one "
                "call of the processor, and do not truncate the text."
            )
        return mask.unsqueeze(-1)

    @can_return_tuple
    @_accept_past_key_values
    def forward(
        self,
        input_ids=None,
        pixel_values=None,
        high_res_pixel_values=None,
        image_sizes=None,
        image_grids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        mm_encoder_outputs=None,
        cache=None,
        **kwargs,
    ):
        """Text with images through the decoder. See [`FilaForConditionalGeneration.forward`] for the arguments."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        cache = past_key_values if cache is None else cache
        image_outputs = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None and image_outputs is not None:
            raise ValueError("Pass pixel_values or mm_encoder_outputs with images already encoded, not both.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        if pixel_values is not None:
            images = (pixel_values, high_res_pixel_values)
            image_sizes, image_grids = self.vision_tower.check_inputs(*images, image_sizes, image_grids)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, sum(self._count_image_tokens(image_grids)))
            image_outputs = self._encode_images(*images, image_sizes, image_grids)
        elif image_outputs is not None:
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, sum(map(len, image_outputs.pooler_output)))
        if image_outputs is not None:
            features = torch.cat(tuple(image_outputs.pooler_output)).to(inputs_embeds.device, inputs_embeds.dtype)
            inputs_embeds = inputs_embeds.masked_scatter(mask.to(inputs_embeds.device), features)
        else:
            self._refuse_image_tokens(input_ids, cache)
            if self._must_touch_vision(cache):
                inputs_embeds = inputs_embeds + (0.0 * self._blank_image_features()).sum().to(inputs_embeds)

        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **{CACHE: cache},
            **kwargs,
        )
        return FilaModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE: getattr(outputs, CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_outputs=image_outputs,
        )

    def _refuse_image_tokens(self, input_ids, cache):
        """Raises a `ValueError` if a text that came without images has a place for one. A text that continues a cache may have
        it: the model can generate the image token. Compiled and exported graphs do not look at values."""
        # Looking at a step of generation would wait for the device.
        is_step = cache is not None and input_ids is not None and input_ids.shape[1] == 1
        if input_ids is None or is_step or torch.compiler.is_compiling() or not _is_empty(cache):
            return
        num_placeholders = int((input_ids == self.config.image_token_id).sum())
        if num_placeholders:
            raise ValueError(
                f"The text has {num_placeholders} image tokens (id {self.config.image_token_id}), but no images came with it. "
                "Pass pixel_values and everything else that the processor returns."
            )

    def _must_touch_vision(self, cache):
        """Whether a batch without images must still run the vision tower and the projector.

        - Where they are sharded, other processes with images wait for this one to gather them. Steps that continue a cache
          are exempt: no process has images there.
        - In distributed training, other processes wait for their gradients.
        - In training stage 1, the loss has no other gradient.
        """
        if _is_sharded(self.vision_tower) or _is_sharded(self.multi_modal_projector):
            return _is_empty(cache)
        if not (self.training and torch.is_grad_enabled()):
            return False
        if not (_is_trainable(self.vision_tower) or _is_trainable(self.multi_modal_projector)):
            return False
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if is_distributed and torch.distributed.get_world_size() > 1:
            return True
        return not _is_trainable(self.language_model)

    def _blank_image_features(self):
        config, device = self.config, self.device
        size, high_res_size = config.vision_config.image_size, config.high_res_image_size
        views = torch.zeros(1, 1, 3, size, size, device=device)
        high_res_views = torch.zeros(1, 1, 3, high_res_size, high_res_size, device=device)
        return self._encode_images(views, high_res_views, [(size, size)], [(0, 0)]).pooler_output[0]


class FilaForConditionalGeneration(FilaPreTrainedModel, GenerationMixin):
    """FILA with a language-modeling head: trains with the stock `Trainer`, generates with `generate`."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config):
        super().__init__(config)
        self.model = FilaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.add_model_tags(list(MODEL_TAGS))
        self.post_init()

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def set_training_stage(self, stage):
        """Freezes what a training stage of the paper does not train. Frozen parts are in eval mode and stay there.

        Args:
            stage (`int`): 1 trains the fusion and the projector (with a low-resolution processor,
                `do_dynamic_tiling=False`); 2 trains everything.

        Raises:
            ValueError: any other stage.
        """
        if stage not in (1, 2):
            raise ValueError(
                f"stage={stage!r} is not a training stage: use 1 (fusion and projector) or 2 (everything)."
            )
        self.requires_grad_(stage == 2)
        self.model.vision_tower.fusion.requires_grad_(True)
        self.model.multi_modal_projector.requires_grad_(True)
        self.train(self.training)

    def get_image_features(
        self, pixel_values, high_res_pixel_values=None, image_sizes=None, image_grids=None, **kwargs
    ):
        """See [`FilaModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values, high_res_pixel_values, image_sizes, image_grids, **kwargs)

    def get_fusion_maps(self, pixel_values, high_res_pixel_values=None, image_sizes=None, image_grids=None):
        """See [`FilaModel.get_fusion_maps`]."""
        return self.model.get_fusion_maps(pixel_values, high_res_pixel_values, image_sizes, image_grids)

    @can_return_tuple
    @_accept_past_key_values
    def forward(
        self,
        input_ids=None,
        pixel_values=None,
        high_res_pixel_values=None,
        image_sizes=None,
        image_grids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        skip_logits=None,
        mm_encoder_outputs=None,
        cache=None,
        **kwargs,
    ):
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): text in which each image
                is as many `config.image_token_id` as it has visual tokens.
            pixel_values (`torch.Tensor` of shape `(N, 1 + T, 3, S, S)`, *optional*): the N images of the batch, in the
                order of their placeholders: global view, then the tiles. Those of dtype uint8 are rescaled and normalised
                here, as the configuration says; others have to be so already. The same is true of `high_res_pixel_values`.
            high_res_pixel_values (`torch.Tensor` of shape `(N, max(T, 1), 3, s, s)`, *optional*): the high-resolution
                canvas in pieces; required beside `pixel_values` unless `fusion_type="none"`.
            image_sizes (`torch.Tensor` of shape `(N, 2)`, *optional*): original height and width.
            image_grids (`torch.Tensor` of shape `(N, 2)`, *optional*): rows and columns of tiles.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): positions.
            past_key_values (`Cache`, *optional*): cache of the decoder. `cache` is the same argument under the name that it has
                since transformers 5.24. The output uses the name of the installed version.
            inputs_embeds (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*): in place of
                `input_ids`.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): -100 is ignored.
            use_cache (`bool`, *optional*): whether to return the decoder's cache.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0): compute only the last logits (0: all), or
                those at these positions.
            skip_logits (`bool`, *optional*): compute the loss from the logits of counted labels only, and return no logits.
                This saves most of the memory of the logits where there are thousands of visual tokens. By default `True` in
                training mode with `labels`, as in Liger kernels.
            mm_encoder_outputs (`dict`, *optional*): `{"image": ...}` from [`~FilaModel.get_image_features`], in place of
                `pixel_values`.
            kwargs: passed to the decoder and to the loss (`num_items_in_batch`).

        Returns:
            [`FilaCausalLMOutputWithPast`]

        Raises:
            ValueError: inputs that do not fit together, or a number of placeholders that is not that of the visual tokens.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            high_res_pixel_values=high_res_pixel_values,
            image_sizes=image_sizes,
            image_grids=image_grids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **{CACHE: past_key_values if cache is None else cache},
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        vocab_size = self.config.text_config.vocab_size
        loss = logits = None
        if labels is None and kwargs.get("num_items_in_batch") is not None:
            logger.warning_once(
                "The Trainer kept the labels to itself. Its label_smoothing_factor does not shift labels for FILA, so that the "
                "model learns to repeat its input: set it to 0, or pass a compute_loss_func, which has to shift them."
            )
        if skip_logits is None:
            skip_logits = self.training and labels is not None
        if skip_logits and labels is not None:
            shift_labels = kwargs.pop("shift_labels", None)
            if shift_labels is None:
                shift_labels = nn.functional.pad(labels[..., 1:], (0, 1), value=-100)
            counts = shift_labels != -100
            counted_logits = self.lm_head(hidden_states[counts.to(hidden_states.device)])
            loss = self.loss_function(
                logits=counted_logits, labels=None, vocab_size=vocab_size, shift_labels=shift_labels[counts], **kwargs
            )
        else:
            if isinstance(logits_to_keep, int):
                logits_to_keep = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
            logits = self.lm_head(hidden_states[:, logits_to_keep])
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return FilaCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE: getattr(outputs, CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_outputs=outputs.image_outputs,
        )

    def generate_batch(self, inputs, *args, **kwargs):
        """Continuous batching, which takes texts alone.

        Raises:
            ValueError: a prompt with image tokens.
        """
        for index, prompt in enumerate(inputs):
            if self.config.image_token_id in prompt:
                raise ValueError(
                    f"Prompt {index} has image tokens, but continuous batching takes lists of token ids and no images. Use "
                    "`generate` for prompts with images."
                )
        return super().generate_batch(inputs, *args, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids, inputs_embeds=None, is_first_iteration=False, use_cache=True, **kwargs
    ):
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            use_cache=use_cache,
            **kwargs,
        )
        if not is_first_iteration and use_cache:
            # The cache contains the images already.
            for key in IMAGE_INPUTS:
                model_inputs.pop(key, None)
        return model_inputs

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """Repeats the inputs for beams and `num_return_sequences`. Images are encoded once, and their features are repeated
        sample by sample: a prompt with images A and B needs A, B, A, B, where transformers would repeat them as A, A, B, B.
        (Newer releases of transformers encode the images first, and no `pixel_values` arrive here.)"""
        image_outputs = None
        if expand_size > 1 and model_kwargs.get("pixel_values") is not None:
            images = {key: model_kwargs.pop(key, None) for key in IMAGE_INPUTS}
            images.pop("mm_encoder_outputs")
            image_outputs = self.get_image_features(**images)
            remaining, features = list(image_outputs.pooler_output), []
            inputs_embeds = model_kwargs.get("inputs_embeds")
            mask = self.model.get_placeholder_mask(
                input_ids if inputs_embeds is None else None, inputs_embeds, sum(map(len, remaining))
            )
            for num_placeholders in mask.squeeze(-1).sum(dim=-1).tolist():
                sample = []
                while remaining and sum(map(len, sample)) < num_placeholders:
                    sample.append(remaining.pop(0))
                features.extend(sample * expand_size)
            image_outputs.pooler_output = tuple(features + remaining)
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        if image_outputs is not None:
            model_kwargs["mm_encoder_outputs"] = {"image": image_outputs}
        return input_ids, model_kwargs


FilaForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["FilaForConditionalGeneration", "FilaModel", "FilaPreTrainedModel"]

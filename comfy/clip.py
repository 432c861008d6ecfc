"""`CLIP`: a model's text side as nodes hold it, from prompt to conditioning.

Tokenizer, text encoders and the patcher that brings their weights where they are computed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import comfy.cli_args
import comfy.dtypes
import comfy.model_management
import comfy.model_patcher
import comfy.state_loading
import comfy.utils
from comfy.clip_keys import (
    clip_config_from_state_dict,
    clip_text_keys,
    encoder_configs,
    encoder_name,
)
from comfy.textual_inversion import Directories

logger = logging.getLogger(__name__)

StateDict = Mapping[str, torch.Tensor]


class CLIP:
    """See the module's text.

    Args:
        target: Says the classes: ``tokenizer``, ``clip``, and ``params`` for the latter; see
            `comfy.supported_models_base.ClipTarget`.
        embedding_directory: Where textual inversions are.
        no_init: Make an empty object, for `clone`.
        tokenizer_data: For the tokenizer, besides the widths that it is told anyway.
        parameters: Accepted; sizes are asked of the weights.
        state_dict: The weights. A dict has all of them, as
            `comfy.clip_keys.checkpoint_text_encoders` names them; a list has one dict for each
            encoder, from a file of its own. Nothing: `load_sd` follows.
        model_options: ``load_device``, ``offload_device``, ``dtype`` of the weights, and what
            `comfy.sd1_clip.SDClipModel` knows.

    Attributes:
        cond_stage_model: The text encoders.
        tokenizer: Turns prompts into tokens.
        patcher: Of `cond_stage_model`.
        layer_idx: Which layer is read, -1 the last; None: as the family has it.
        tokenizer_options: For every call of the tokenizer.
        use_clip_schedule: Whether hooks change the encoders over the steps of sampling.
        apply_hooks_to_conds: Hooks that conditionings take along, or None.

    Raises:
        IncompleteModel: If a weight is missing or has another shape than its network.
    """

    def __init__(
        self,
        target: Any = None,
        embedding_directory: Directories = None,
        no_init: bool = False,
        tokenizer_data: Mapping[str, Any] | None = None,
        parameters: int = 0,
        state_dict: StateDict | Sequence[StateDict] = (),
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        if no_init:
            return
        options = dict(model_options or {})
        load_device = options.get("load_device", comfy.model_management.text_encoder_device())
        offload_device = options.get(
            "offload_device", comfy.model_management.text_encoder_offload_device()
        )
        with comfy.state_loading.numbers_from_shapes(f"{_origins(state_dict)}: text encoder"):
            configs = _configs(state_dict)
            options = {**{f"{name}_config": config for name, config in configs.items()}, **options}
            widths = {f"{name}_size": config["hidden_size"] for name, config in configs.items()}
            self.cond_stage_model = target.clip(
                device="meta", model_options=options, **getattr(target, "params", {})
            )
        self.tokenizer = target.tokenizer(
            embedding_directory=embedding_directory,
            tokenizer_data={**widths, **(tokenizer_data or {})},
        )
        self._load_all(state_dict)
        self.cond_stage_model.eval().requires_grad_(False)
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.cond_stage_model, load_device=load_device, offload_device=offload_device
        )
        self.patcher.is_clip = True
        self.patcher.residency.weight_dtype = options.get("dtype") or _weight_dtype(
            self.cond_stage_model, load_device
        )
        self.layer_idx: int | None = None
        self.tokenizer_options: dict[str, Any] = {}
        self.use_clip_schedule = False
        self.apply_hooks_to_conds: Any = None

    def _load_all(self, state_dict: StateDict | Sequence[StateDict]) -> None:
        if isinstance(state_dict, Mapping):
            self.load_sd(state_dict, full_model=True)
            return
        for encoder in state_dict:
            self.load_sd(encoder)
        absent = [key for key, t in self.cond_stage_model.state_dict().items() if t.is_meta]
        if state_dict and absent:
            raise comfy.state_loading.IncompleteModel(
                f"{self._what()} is incomplete: missing {comfy.state_loading.summarised(absent)}. "
                "Choose a file for each of its text encoders."
            )

    def _what(self) -> str:
        return f"text encoder {type(self.cond_stage_model).__name__}"

    def load_sd(self, sd: StateDict, full_model: bool = False) -> tuple[list[str], list[str]]:
        """Take weights over, without copying; what does not fit is told by name.

        Args:
            sd: Of all encoders if `full_model`, else of one of them, as its file names them.
            full_model: See `sd`.

        Returns:
            Names of weights that are missing, and of those left over.

        Raises:
            IncompleteModel: If `full_model` and a weight is missing, or one has another shape.
        """
        if full_model:
            misfits = comfy.state_loading.assign(self.cond_stage_model, sd, self._what())
            return list(misfits.missing), list(misfits.unexpected)
        try:
            result = self.cond_stage_model.load_sd(clip_text_keys(sd))
        except RuntimeError as err:  # torch's, for another shape
            message = f"{self._what()} does not fit its file: {err}"
            raise comfy.state_loading.IncompleteModel(message) from err
        left = [key for key in result.unexpected_keys if not comfy.state_loading.is_harmless(key)]
        for what, keys in (("missing", result.missing_keys), ("left over and not used", left)):
            if keys:
                names = comfy.state_loading.summarised(keys)
                logger.warning("%s: %s: %s", self._what(), what, names)
        return list(result.missing_keys), left

    def clone(self) -> CLIP:
        """Make another that shares the encoders, with patches and options of its own."""
        clone = CLIP(no_init=True)
        clone.patcher = self.patcher.clone()
        clone.cond_stage_model = self.cond_stage_model
        clone.tokenizer = self.tokenizer
        clone.layer_idx = self.layer_idx
        clone.tokenizer_options = dict(self.tokenizer_options)
        clone.use_clip_schedule = self.use_clip_schedule
        clone.apply_hooks_to_conds = self.apply_hooks_to_conds
        return clone

    def clip_layer(self, layer_idx: int | None) -> None:
        """Read another layer: -1 the last, -2 the one before it; None as the family has it."""
        self.layer_idx = layer_idx

    def set_tokenizer_option(self, option_name: str, value: Any) -> None:
        """Set an option for every call of the tokenizer."""
        self.tokenizer_options[option_name] = value

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Turn a prompt into chunks of weighted tokens, by encoder; see `comfy.sd1_clip`."""
        options = {**self.tokenizer_options, **kwargs.pop("tokenizer_options", {})}
        if options:
            kwargs["tokenizer_options"] = options
        tokens: dict[str, Any] = self.tokenizer.tokenize_with_weights(
            text, return_word_ids, **kwargs
        )
        return tokens

    def encode(self, text: str) -> Any:
        """Encode a prompt; see `encode_from_tokens`."""
        return self.encode_from_tokens(self.tokenize(text))

    def encode_from_tokens(
        self,
        tokens: Mapping[str, Any],
        return_pooled: bool | str = False,
        return_dict: bool = False,
    ) -> Any:
        """Encode tokens.

        Args:
            tokens: Of `tokenize`.
            return_pooled: Also return the pooled output; "unprojected" for that before the
                projection.
            return_dict: Return a dict with ``cond``, ``pooled_output`` and what else a family
                gives.

        Returns:
            (1, tokens, width), fp32, on the device for intermediate results; or it and (1,
            width) or None; or the dict.
        """
        options: dict[str, Any] = {"execution_device": self.patcher.load_device}
        if self.layer_idx is not None:
            options["layer"] = self.layer_idx
        if return_pooled == "unprojected":
            options["projected_pooled"] = False
        self.load_model()
        self.cond_stage_model.reset_clip_options()
        self.cond_stage_model.set_clip_options(options)
        try:
            cond, pooled, *more = self.cond_stage_model.encode_token_weights(tokens)
        finally:
            self.cond_stage_model.reset_clip_options()
        target = comfy.model_management.intermediate_device()
        cond = cond.to(target)
        pooled = None if pooled is None else pooled.to(target)
        if return_dict:
            made: dict[str, Any] = {"cond": cond, "pooled_output": pooled}
            for extra in more:
                made.update(extra)
            self.add_hooks_to_dict(made)
            return made
        return (cond, pooled) if return_pooled else cond

    def encode_from_tokens_scheduled(
        self,
        tokens: Mapping[str, Any],
        unprojected: bool = False,
        add_dict: Mapping[str, Any] | None = None,
        show_pbar: bool = True,
    ) -> list[list[Any]]:
        """Encode tokens to a conditioning: ``[[cond, {"pooled_output": pooled, ...}], ...]``.

        With `use_clip_schedule` there is one entry for each part of the schedule in which the
        hooks' keyframes leave the encoders as they are: "clip_start_percent" and
        "clip_end_percent" say which, 0 to 1. Otherwise there is one.

        Args:
            tokens: Of `tokenize`.
            unprojected: Give the pooled output before the projection.
            add_dict: Further entries of the dicts.
            show_pbar: Tell of each entry, if there are several.
        """
        hooks = self.patcher.forced_hooks
        if not self.use_clip_schedule or hooks is None:
            return [self._entry(tokens, unprojected, add_dict or {})]
        ranges = hooks.text_encoder_ranges()
        progress = comfy.utils.ProgressBar(len(ranges))
        entries = []
        try:
            for start, end in ranges:
                # Loading, which every encoding begins with, patches by the keyframes in force.
                hooks.begin_at(start)
                span = {"clip_start_percent": start, "clip_end_percent": end}
                entries.append(self._entry(tokens, unprojected, {**span, **(add_dict or {})}))
                if show_pbar and len(ranges) > 1:
                    progress.update(1)
        finally:
            hooks.reset()
        return entries

    def _entry(
        self, tokens: Mapping[str, Any], unprojected: bool, more: Mapping[str, Any]
    ) -> list[Any]:
        """One entry of a conditioning."""
        pooled = "unprojected" if unprojected else True
        made = self.encode_from_tokens(tokens, return_pooled=pooled, return_dict=True)
        cond = made.pop("cond")
        return [cond, {**made, **more}]

    def add_hooks_to_dict(self, pooled_dict: dict[str, Any]) -> dict[str, Any]:
        """Add the hooks that conditionings take along, if any."""
        if self.apply_hooks_to_conds:
            pooled_dict["hooks"] = self.apply_hooks_to_conds
        return pooled_dict

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """See `comfy.model_patcher.ModelPatcher.add_patches`."""
        return self.patcher.add_patches(patches, strength_patch, strength_model)

    def get_key_patches(self) -> dict[str, Any]:
        """See `comfy.model_patcher.ModelPatcher.get_key_patches`."""
        return self.patcher.get_key_patches()

    def load_model(self) -> Any:
        """Bring the encoders to where they are computed; returns the patcher."""
        comfy.model_management.load_model_gpu(self.patcher)
        return self.patcher

    def get_sd(self) -> dict[str, Any]:
        """The weights, patched where they are loaded patched, and what the tokenizer keeps."""
        return {**self.patcher.model_state_dict(), **self.tokenizer.state_dict()}

    def get_ram_usage(self) -> int:
        """Bytes of host memory that the weights take besides their file."""
        return self.patcher.get_ram_usage()


def _origins(state_dict: StateDict | Sequence[StateDict]) -> str:
    files = [state_dict] if isinstance(state_dict, Mapping) else state_dict
    return ", ".join(comfy.state_loading.origin_of(sd) for sd in files)


def _configs(state_dict: StateDict | Sequence[StateDict]) -> dict[str, dict[str, Any]]:
    """The configuration of each CLIP encoder among the weights, by name."""
    if isinstance(state_dict, Mapping):
        return encoder_configs(state_dict)
    found = (clip_config_from_state_dict(clip_text_keys(sd)) for sd in state_dict)
    return {encoder_name(config): config for config in found if config is not None}


def _weight_dtype(model: torch.nn.Module, device: torch.device) -> torch.dtype | None:
    """In which dtype the weights are to be kept; None as in their file.

    A flag is obeyed. Else an accelerator gets wide weights narrowed; on the CPU they stay in the
    file's pages, where a cast would be a copy.
    """
    named = comfy.dtypes.named_by_flag(comfy.cli_args.args, "text_enc")
    if named is not None or comfy.model_management.is_device_cpu(device):
        return named
    stored = comfy.utils.weight_dtype(model.state_dict())
    narrow = comfy.model_management.text_encoder_dtype(device)
    return narrow if stored is not None and stored.itemsize > narrow.itemsize else None

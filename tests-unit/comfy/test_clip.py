from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import comfy.cli_args
import comfy.clip
import comfy.loading
import comfy.model_management
import comfy.sd
from comfy.clip import CLIP
from comfy.clip_keys import checkpoint_text_encoders
from comfy.loading import FileTensor
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
from comfy.state_loading import IncompleteModel
from comfy.supported_models_base import ClipTarget
from support import narrow_clip

WIDTH, PROJECTION = 32, 24
TARGET = ClipTarget(SD1Tokenizer, SD1ClipModel)
CPU = {"load_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
FC1 = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def nothing_stays_loaded() -> Any:
    yield
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a narrow CLIP-L, as in a checkpoint of Stable Diffusion 1, in half precision."""
    path = tmp_path_factory.mktemp("clip") / "checkpoint.safetensors"
    weights = narrow_clip.weights(WIDTH, projection=PROJECTION)
    save_file({f"cond_stage_model.transformer.{k}": t.half() for k, t in weights.items()}, path)
    return path


def opened(path: Path, strategy: str = "file-slice") -> dict[str, torch.Tensor]:
    loaded = comfy.loading.load(str(path), strategy=strategy).state_dict
    return checkpoint_text_encoders(loaded, {"cond_stage_model.": "clip_l"})


def made(path: Path, strategy: str = "file-slice", **options: Any) -> CLIP:
    return CLIP(TARGET, state_dict=opened(path, strategy), model_options={**CPU, **options})


@pytest.fixture
def clip(checkpoint: Path) -> CLIP:
    return made(checkpoint)


def test_a_prompt_becomes_conditioning(clip: CLIP) -> None:
    tokens = clip.tokenize("a (cat:1.2) " + "cat " * 80)
    [[cond, extra]] = clip.encode_from_tokens_scheduled(tokens, add_dict={"width": 64})
    assert cond.shape == (1, 154, WIDTH)
    assert cond.dtype == torch.float32
    assert cond.device == comfy.model_management.intermediate_device()
    assert extra["pooled_output"].shape == (1, PROJECTION)
    assert extra["width"] == 64
    assert set(extra) == {"pooled_output", "width"}
    wanted, pooled = clip.cond_stage_model.encode_token_weights(tokens)
    assert torch.equal(cond, wanted)
    assert torch.equal(extra["pooled_output"], pooled)


def test_results_come_in_the_form_that_is_asked_for(clip: CLIP) -> None:
    tokens = clip.tokenize("a cat")
    cond = clip.encode_from_tokens(tokens)
    assert torch.equal(clip.encode("a cat"), cond)
    again, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    assert torch.equal(again, cond)
    as_dict = clip.encode_from_tokens(tokens, return_dict=True)
    assert torch.equal(as_dict["cond"], cond)
    assert torch.equal(as_dict["pooled_output"], pooled)


def test_the_pooled_output_may_be_the_unprojected_one(clip: CLIP) -> None:
    tokens = clip.tokenize("a cat")
    _, pooled = clip.encode_from_tokens(tokens, return_pooled="unprojected")
    [[_, extra]] = clip.encode_from_tokens_scheduled(tokens, unprojected=True)
    assert pooled.shape == (1, WIDTH)
    assert torch.equal(extra["pooled_output"], pooled)
    assert clip.encode_from_tokens(tokens, return_pooled=True)[1].shape == (1, PROJECTION)


@pytest.mark.parametrize("strategy", ["mmap", "readinto"])
def test_every_strategy_gives_the_same_bits(checkpoint: Path, clip: CLIP, strategy: str) -> None:
    assert torch.equal(made(checkpoint, strategy).encode("a cat"), clip.encode("a cat"))


def test_weights_wait_in_their_file_and_return_there(clip: CLIP) -> None:
    def homes() -> set[bool]:
        held = clip.cond_stage_model.state_dict().values()
        return {isinstance(tensor, FileTensor) and tensor.is_in_file for tensor in held}

    assert homes() == {True}
    before = clip.encode("a cat")
    assert homes() == {False}
    comfy.model_management.unload_all_models()
    assert homes() == {True}
    assert torch.equal(clip.encode("a cat"), before)


def test_another_layer_is_read_by_this_clip_only(clip: CLIP) -> None:
    usual = clip.encode("a cat")
    skipping = clip.clone()
    skipping.clip_layer(-2)
    assert not torch.equal(skipping.encode("a cat"), usual)
    assert torch.equal(clip.encode("a cat"), usual)
    skipping.clip_layer(-1)
    assert torch.equal(skipping.encode("a cat"), usual)


def test_patches_are_of_the_clone_and_go_without_a_trace(clip: CLIP) -> None:
    usual = clip.encode("a cat")
    patched = clip.clone()
    assert patched.cond_stage_model is clip.cond_stage_model
    delta = torch.randn(2 * WIDTH, WIDTH)
    assert patched.add_patches({FC1: ("diff", (delta,)), "absent": ("diff", (delta,))}, 0.5) == [
        FC1
    ]
    changed = patched.encode("a cat")
    assert not torch.equal(changed, usual)
    assert torch.equal(clip.encode("a cat"), usual)
    assert torch.equal(patched.encode("a cat"), changed)
    [(weight, _), *patches] = patched.get_key_patches()[FC1]
    assert len(patches) == 1
    assert torch.equal(weight, opened_weight(clip))


def opened_weight(clip: CLIP) -> torch.Tensor:
    [(weight, _)] = clip.get_key_patches()[FC1]
    return weight.clone()


def test_saved_weights_are_those_of_the_file(checkpoint: Path, clip: CLIP) -> None:
    saved, source = clip.get_sd(), opened(checkpoint)
    assert saved.keys() == source.keys()
    assert all(torch.equal(saved[key], source[key]) for key in source)


def test_options_and_hooks_are_cloned(clip: CLIP) -> None:
    clip.set_tokenizer_option("a", 1)
    clip.use_clip_schedule, clip.apply_hooks_to_conds = True, "hooks"
    clone = clip.clone()
    clone.set_tokenizer_option("b", 2)
    assert clip.tokenizer_options == {"a": 1}
    assert clone.tokenizer_options == {"a": 1, "b": 2}
    assert clone.use_clip_schedule
    assert clone.patcher.is_clip
    [[_, extra]] = clone.encode_from_tokens_scheduled(clone.tokenize("a cat"))
    assert extra["hooks"] == "hooks"


def test_tokenizers_are_told_the_options(clip: CLIP) -> None:
    told: list[dict[str, Any]] = []

    class Listening(SD1Tokenizer):
        def tokenize_with_weights(self, text: str, *args: Any, **kwargs: Any) -> Any:
            told.append(kwargs)
            return super().tokenize_with_weights(text, *args, **kwargs)

    clip.tokenizer = Listening()
    clip.tokenize("a cat")
    clip.set_tokenizer_option("min_length", 5)
    clip.tokenize("a cat", tokenizer_options={"other": 1})
    assert told == [{}, {"tokenizer_options": {"min_length": 5, "other": 1}}]


def test_textual_inversions_of_a_narrow_model_end_in_its_conditioning(
    checkpoint: Path, tmp_path: Path
) -> None:
    table = opened(checkpoint)["clip_l.transformer.text_model.embeddings.token_embedding.weight"]
    cat = SD1Tokenizer().tokenize_with_weights("cat")["l"][0][1][0]
    save_file({"emb_params": table[cat : cat + 1].float()}, tmp_path / "pet.safetensors")
    clip = CLIP(
        TARGET,
        embedding_directory=[str(tmp_path)],
        state_dict=opened(checkpoint),
        model_options=CPU,
    )
    assert torch.equal(clip.encode("a embedding:pet sits"), clip.encode("a cat sits"))


def test_encoders_from_files_of_their_own_make_sdxl() -> None:
    weights = [
        narrow_clip.weights(32, layers=2),
        # As wide as bigG, which is known by that.
        narrow_clip.weights(1280, layers=1, projection=8),
    ]
    target = ClipTarget(SDXLTokenizer, SDXLClipModel)
    clip = CLIP(target, state_dict=weights, model_options=CPU)
    cond, pooled = clip.encode_from_tokens(clip.tokenize("a cat"), return_pooled=True)
    assert cond.shape == (1, 77, 32 + 1280)
    assert pooled.shape == (1, 8)
    with pytest.raises(IncompleteModel, match=r"clip_g\.transformer\.text_model.* more"):
        CLIP(target, state_dict=weights[:1], model_options=CPU)


def test_missing_weights_are_refused_by_name(checkpoint: Path) -> None:
    sd = opened(checkpoint)
    del sd[FC1.replace("fc1", "fc2")]
    with pytest.raises(IncompleteModel, match=r"SD1ClipModel.*layers\.0\.mlp\.fc2\.weight"):
        CLIP(TARGET, state_dict=sd, model_options=CPU)


def test_weights_of_another_shape_are_refused_by_name(checkpoint: Path) -> None:
    sd = opened(checkpoint)
    sd[FC1.replace("fc1", "fc2")] = torch.zeros(3, 3)
    with pytest.raises(IncompleteModel, match="fc2"):
        CLIP(TARGET, state_dict=sd, model_options=CPU)
    encoder = {key.removeprefix("clip_l.transformer."): t for key, t in sd.items()}
    with pytest.raises(IncompleteModel, match="fc2"):
        CLIP(TARGET, state_dict=[encoder], model_options=CPU)


@pytest.mark.parametrize(
    ("key", "shape", "files", "told"),
    [
        ("encoder.block.23.layer.1.DenseReluDense.wi_1.weight", (), 1, "is damaged"),
        (
            "text_model.encoder.layers.0.mlp.fc1.weight",
            (8, 4),
            2,
            r"is incomplete: missing 'text_model\.embeddings\.token_embedding\.weight'",
        ),
    ],
)
def test_files_too_damaged_to_tell_their_kind_are_refused_by_name(
    key: str, shape: tuple[int, ...], files: int, told: str, tmp_path: Path
) -> None:
    save_file({key: torch.zeros(shape)}, tmp_path / "odd.safetensors")
    with pytest.raises(IncompleteModel, match=rf"odd\.safetensors: text encoder {told}"):
        comfy.sd.load_clip([str(tmp_path / "odd.safetensors")] * files)


@pytest.mark.parametrize("as_list", [True, False])
def test_surplus_weights_are_told_by_name(
    checkpoint: Path, as_list: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sd = {**opened(checkpoint), "clip_l.transformer.text_model.surplus": torch.zeros(1)}
    encoder = {key.removeprefix("clip_l.transformer."): t for key, t in sd.items()}
    CLIP(TARGET, state_dict=[encoder] if as_list else sd, model_options=CPU)
    [message] = caplog.messages
    assert "text_model.surplus" in message


def test_weights_may_follow_later(checkpoint: Path) -> None:
    clip = CLIP(
        TARGET, model_options={**CPU, "clip_l_config": narrow_clip.config(WIDTH, 3, PROJECTION)}
    )
    assert clip.load_sd(opened(checkpoint), full_model=True) == ([], [])
    assert clip.encode("a cat").isfinite().all()


def test_no_weight_asks_for_gradients(clip: CLIP) -> None:
    assert not any(p.requires_grad for p in clip.cond_stage_model.parameters())


@pytest.mark.parametrize(
    ("flag", "options", "dtype"),
    [
        (None, {}, None),
        ("fp32_text_enc", {}, torch.float32),
        ("bf16_text_enc", {}, torch.bfloat16),
        ("bf16_text_enc", {"dtype": torch.float16}, torch.float16),
    ],
)
def test_flags_choose_the_dtype_of_weights(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    flag: str | None,
    options: dict[str, Any],
    dtype: torch.dtype | None,
) -> None:
    if flag is not None:
        monkeypatch.setattr(comfy.cli_args.args, flag, True)
    clip = made(checkpoint, **options)
    assert clip.patcher.residency.weight_dtype == dtype
    assert clip.encode("a cat").dtype == torch.float32
    held = clip.cond_stage_model.get_parameter(FC1)
    assert held.dtype == (torch.float16 if dtype is None else dtype)


@pytest.mark.parametrize(
    ("stored", "kept"),
    [(torch.float32, torch.float16), (torch.float16, None), (torch.float8_e4m3fn, None)],
)
def test_an_accelerator_gets_wide_weights_narrowed(
    stored: torch.dtype, kept: torch.dtype | None
) -> None:
    model = torch.nn.Linear(2, 2, device="meta", dtype=stored)
    assert comfy.clip._weight_dtype(model, torch.device("cuda")) == kept

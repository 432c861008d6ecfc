"""The types that only links carry."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.input.basic_types import AudioInput, ImageInput, LatentInput, MaskInput
from comfy_api.input.video_types import VideoInput
from comfy_api.latest._inputs import ComfyTypeIO, comfytype
from comfy_api.util.geometry_types import MESH, VOXEL


def _type(name: str, io_type: str, python_type: Any = Any) -> Any:
    made = type(name, (ComfyTypeIO,), {"Type": python_type, "__module__": __name__})
    return comfytype(io_type)(made)


AnyType = _type("AnyType", "*")
Image = _type("Image", "IMAGE", ImageInput)
Mask = _type("Mask", "MASK", MaskInput)
Latent = _type("Latent", "LATENT", LatentInput)
Conditioning = _type("Conditioning", "CONDITIONING", list[Any])
Sampler = _type("Sampler", "SAMPLER")
Sigmas = _type("Sigmas", "SIGMAS", torch.Tensor)
Noise = _type("Noise", "NOISE", torch.Tensor)
Guider = _type("Guider", "GUIDER")
Clip = _type("Clip", "CLIP")
ControlNet = _type("ControlNet", "CONTROL_NET")
Vae = _type("Vae", "VAE")
Model = _type("Model", "MODEL")
ModelPatch = _type("ModelPatch", "MODEL_PATCH")
ClipVision = _type("ClipVision", "CLIP_VISION")
ClipVisionOutput = _type("ClipVisionOutput", "CLIP_VISION_OUTPUT")
StyleModel = _type("StyleModel", "STYLE_MODEL")
Gligen = _type("Gligen", "GLIGEN")
UpscaleModel = _type("UpscaleModel", "UPSCALE_MODEL")
LatentUpscaleModel = _type("LatentUpscaleModel", "LATENT_UPSCALE_MODEL")
Audio = _type("Audio", "AUDIO", AudioInput)
AudioEncoder = _type("AudioEncoder", "AUDIO_ENCODER")
AudioEncoderOutput = _type("AudioEncoderOutput", "AUDIO_ENCODER_OUTPUT")
Video = _type("Video", "VIDEO", VideoInput)
SVG = _type("SVG", "SVG")
LoraModel = _type("LoraModel", "LORA_MODEL", dict[str, torch.Tensor])
LossMap = _type("LossMap", "LOSS_MAP", dict[str, Any])
Voxel = _type("Voxel", "VOXEL", VOXEL)
Mesh = _type("Mesh", "MESH", MESH)
Hooks = _type("Hooks", "HOOKS")
HookKeyframes = _type("HookKeyframes", "HOOK_KEYFRAMES")
TimestepsRange = _type("TimestepsRange", "TIMESTEPS_RANGE", tuple[int, int])
LatentOperation = _type("LatentOperation", "LATENT_OPERATION")
FlowControl = _type("FlowControl", "FLOW_CONTROL", tuple[str, Any])
Accumulation = _type("Accumulation", "ACCUMULATION", dict[str, Any])
Load3DCamera = _type("Load3DCamera", "LOAD3D_CAMERA", dict[str, Any])
Load3D = _type("Load3D", "LOAD_3D", dict[str, Any])
Load3DAnimation = _type("Load3DAnimation", "LOAD_3D_ANIMATION", dict[str, Any])
Photomaker = _type("Photomaker", "PHOTOMAKER")
Point = _type("Point", "POINT")
FaceAnalysis = _type("FaceAnalysis", "FACE_ANALYSIS")
BBOX = _type("BBOX", "BBOX")
SEGS = _type("SEGS", "SEGS")
Tracks = _type("Tracks", "TRACKS", dict[str, Any])
Webcam = _type("Webcam", "WEBCAM", str)
WanCameraEmbedding = _type("WanCameraEmbedding", "WAN_CAMERA_EMBEDDING", torch.Tensor)

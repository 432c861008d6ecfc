"""Sources of the stand-in trees: our own bodies under the names that ComfyUI's files have.

Placeholders in capitals are what differs between generations; see `support.stand_ins`.
"""

from __future__ import annotations

CLI_ARGS = '''\
"""Flags."""
import argparse
import comfy.options

parser = argparse.ArgumentParser()
parser.add_argument("--cpu", action="store_true")
vram_group = parser.add_mutually_exclusive_group()
vram_group.add_argument("--lowvram", action="store_true")
parser.add_argument("--mmap-torch-files", action="store_true")
DISABLE_MMAP_FLAG

PARSING

if args.lowvram:
    args.was_low = True
'''

OPTIONS = """\
args_parsing = False


def enable_args_parsing(enable=True):
    global args_parsing
    args_parsing = enable
"""

UTILS = """\
import torch
import safetensors.torch
from comfy.cli_args import args
EXTRA_IMPORTS

DISABLE_MMAP = getattr(args, "disable_mmap", False)


SAFETENSORS_READER
def load_torch_file(SIGNATURE):
    FIRST_LINES
    metadata = None
    if str(ckpt).lower().endswith((".safetensors", ".sft")):
        READING
    else:
        sd = torch.load(ckpt, map_location="cpu", weights_only=True)
    RETURNING


def save_torch_file(sd, ckpt, metadata=None):
    safetensors.torch.save_file(sd, ckpt, metadata=metadata)


def get_attr(obj, attr):
    for part in attr.split("."):
        obj = getattr(obj, part)
    return obj


def set_attr_param(obj, attr, value):
    place, _, name = attr.rpartition(".")
    module = get_attr(obj, place) if place else obj
    setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
"""

LOOP = """\
        sd = {}
        with safetensors.safe_open(ckpt, framework="pt", device="cpu") as f:
            for key in f.keys():
                sd[key] = COPIED
            metadata = f.metadata()
"""

TAGGED_READER = '''\
def load_safetensors(ckpt):
    """One tensor of a shared buffer for each entry, its place in the file as a tag."""
    with open(ckpt, "rb") as file:
        whole = bytearray(file.read())
    begin = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(bytes(whole[8:begin]))
    metadata, found = header.pop("__metadata__", None), {}
    for key, entry in header.items():
        start, end = entry["data_offsets"]
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[entry["dtype"]]
        part = torch.frombuffer(whole, dtype=torch.uint8, count=end - start, offset=begin + start)
        tensor = part.clone().view(dtype).view(entry["shape"])
        tag = comfy.memory_management.TensorFileSlice(ckpt, None, begin + start, end - start)
        tensor.untyped_storage()._comfy_tensor_file_slice = tag
        found[key] = tensor
    return found, metadata


'''

MEMORY_MANAGEMENT = """\
from typing import NamedTuple

aimdo_enabled = False


class TensorFileSlice(NamedTuple):
    file_ref: object
    lock: object
    offset: int
    size: int
"""

OPS = '''\
import torch


class Linear(torch.nn.Linear):
    """A layer that brings weights from elsewhere for one call, if told to."""

    comfy_cast_weights = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weight_function, self.bias_function = [], []

    def reset_parameters(self):
        return None

    def forward(self, x):
        if not self.comfy_cast_weights:
            return super().forward(x)
        weight = torch.empty_like(self.weight, dtype=x.dtype, device=x.device)
        weight.copy_(self.weight)
        for function in self.weight_function:
            weight = function(weight)
        return torch.nn.functional.linear(x, weight, self.bias.to(x.device))
'''

MODEL_BASE = """\
import torch
import comfy.ops


class Diffusion(torch.nn.Module):
    def __init__(self, width, depth, dtype):
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            comfy.ops.Linear(width, width, dtype=dtype) for _ in range(depth)
        )

    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(block(x))
        return x


class BaseModel(torch.nn.Module):
    def __init__(self, width, depth, dtype=torch.float32):
        super().__init__()
        self.diffusion_model = Diffusion(width, depth, dtype)
        self.device = torch.device("cpu")

    def load_model_weights(self, sd, unet_prefix=""ASSIGN_PARAMETER):
        to_load = {}
        for key in list(sd.keys()):
            if key.startswith(unet_prefix):
                to_load[key[len(unet_prefix):]] = sd.pop(key)
        LOADING
        if missing:
            print("missing:", missing)
        return self
"""

MODEL_PATCHER = """\
from __future__ import annotations

import torch
import comfy.model_management
import comfy.utils


class LowVramPatch:
    def __init__(self, key, patches):
        self.key, self.patches = key, patches

    def __call__(self, weight):
        return calculate_weight(self.patches[self.key], weight)


def calculate_weight(patches, weight):
    for strength, difference in patches:
        weight = weight + strength * difference.to(weight.device, weight.dtype)
    return weight


class ModelPatcher:
    def __init__(self, model, load_device, offload_device, size=0, weight_inplace_update=False):
        self.model, self.size = model, size
        self.load_device, self.offload_device = load_device, offload_device
        self.patches, self.backup, self.pinned = {}, {}, set()

    def model_size(self):
        return comfy.model_management.module_size(self.model)

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0):
        for key, difference in patches.items():
            self.patches.setdefault(key, []).append((strength_patch, difference))

    def patch_weight_to_device(self, key, device_to=None, inplace_update=False):
        if key not in self.patches:
            return
        weight = comfy.utils.get_attr(self.model, key)
        self.backup.setdefault(key, weight.to(device=self.offload_device, copy=inplace_update))
        raw = weight.to(device_to if device_to is not None else weight.device, torch.float32)
        out = calculate_weight(self.patches[key], raw).to(weight.dtype)
        comfy.utils.set_attr_param(self.model, key, out)

    def pin_weight_to_device(self, key):
        pin = getattr(comfy.model_management, "pin_memory", None)
        if pin is not None and pin(comfy.utils.get_attr(self.model, key)):
            self.pinned.add(key)

    def _load_list(self):
        loading = []
        for n, m in self.model.named_modules():
            params = [name for name, _ in m.named_parameters(recurse=False)]
            if params:
                loading.append(ENTRY)
        return loading

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        used, load_completely = 0, []
        loading = self._load_list()
        loading.sort(reverse=True, key=lambda entry: entry[0])
        for x in loading:
            size, n, m, params = x[0], *x[ENTRY_FIRST:ENTRY_LAST]
            if not full_load and used + size >= lowvram_model_memory:
                m.comfy_cast_weights = True
                key = "{}.weight".format(n)
                if key in self.patches:
                    m.weight_function = [LowVramPatch(key, self.patches)]
                self.pin_weight_to_device(key)
                continue
            used += size
            load_completely.append(x)
        load_completely.sort(reverse=True, key=lambda entry: entry[0])
        for x in load_completely:
            n, m, params = x[ENTRY_FIRST:ENTRY_LAST]
            for param in params:
                self.patch_weight_to_device("{}.{}".format(n, param), device_to=device_to)
        for x in load_completely:
            x[ENTRY_MODULE].to(device_to)
        self.model.device = device_to

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        self.load(device_to, extra_memory, force_patch_weights, extra_memory == 0)

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        if unpatch_weights:
            for m in self.model.modules():
                if hasattr(m, "comfy_cast_weights"):
                    m.comfy_cast_weights = False
                    m.weight_function = []
            for key in list(self.backup.keys()):
                comfy.utils.set_attr_param(self.model, key, self.backup[key])
            self.backup.clear()
        if device_to is not None:
            self.model.to(device_to)
            self.model.device = device_to

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        freed = 0
        for x in sorted(self._load_list(), key=lambda entry: entry[0]):
            n, m, params = x[ENTRY_FIRST:ENTRY_LAST]
            if freed >= memory_to_free:
                break
            if m.weight.device == torch.device(device_to) or m.comfy_cast_weights:
                continue
            for param in params:
                key = "{}.{}".format(n, param)
                if key in self.backup:
                    comfy.utils.set_attr_param(self.model, key, self.backup.pop(key))
            m.to(device_to)
            m.comfy_cast_weights = True
            if "{}.weight".format(n) in self.patches:
                m.weight_function = [LowVramPatch("{}.weight".format(n), self.patches)]
            freed += x[0]
        return freed

    def detach(self, unpatch_all=True):
        self.unpatch_model(self.offload_device, unpatch_weights=unpatch_all)
"""

MODEL_MANAGEMENT = '''\
import os
import psutil
import torch
from comfy.cli_args import args

current_loaded_models = []


def get_torch_device():
    if args.cpu:
        return torch.device("cpu")
    return torch.device(os.environ.get("STAND_IN_DEVICE", "cpu"))


def module_size(module):
    return sum(t.nelement() * t.element_size() for t in module.state_dict().values())


def get_free_memory(FREE_SIGNATURE):
    """The driver's word: here a full device, as page cache makes it."""
    if dev is None:
        dev = get_torch_device()
    free, cached = (psutil.virtual_memory().available, 0) if dev.type == "cpu" else (1, 0)
    FREE_RETURN


def unet_offload_device():
    return torch.device("cpu")


PINNING
'''

PINNING = """\
def pin_memory(tensor):
    if tensor.data_ptr() == 0:
        return False
    return os.environ.get("STAND_IN_DEVICE") is not None
"""

NO_PINNING = """\
def soft_empty_cache(force=False):
    return None
"""

MAIN = """\
import comfy.options

comfy.options.enable_args_parsing()
from comfy.cli_args import args  # noqa: E402

if __name__ == "__main__":
    print("flags:", " ".join(sorted(vars(args))))
"""

"""A ComfyScript program: a workflow as Python code, sent to a server. Runs where ComfyScript is.

Usage: comfy_script_program.py URL FILE. The picture is saved in FILE as a client has it.
"""

from __future__ import annotations

import importlib
import sys

from comfy_script import runtime


def main(url: str, file: str) -> None:
    """Draw a picture on the server, and save it here."""
    runtime.load(url)
    # It is made of what the server's nodes are.
    nodes = importlib.import_module("comfy_script.runtime.nodes")
    with runtime.Workflow(wait=True):
        model, clip, vae = nodes.CheckpointLoaderSimple("shapes_tiny_sd15.safetensors")
        positive = nodes.CLIPTextEncode("a purple cross on a white background", clip)
        negative = nodes.CLIPTextEncode("", clip)
        latent = nodes.EmptyLatentImage(64, 64, 1)
        latent = nodes.KSampler(
            model, 5, 20, 4.0, "euler", "normal", positive, negative, latent, 1.0
        )
        saved = nodes.SaveImage(nodes.VAEDecode(latent, vae), "script/picture")
    saved.wait()[0].save(file)


if __name__ == "__main__":
    main(*sys.argv[1:])

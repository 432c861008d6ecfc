"""Texts of small packs, each of which uses one door that packs have."""

from __future__ import annotations

CLASSIC = """
    class ClassicDouble:
        CATEGORY = "tests"
        RETURN_TYPES = ("INT",)
        RETURN_NAMES = ("twice",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"value": ("INT", {"default": 3, "min": 0, "max": 9})}}

        def run(self, value):
            return (2 * value,)

    class KSampler:
        RETURN_TYPES = ()
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

    NODE_CLASS_MAPPINGS = {"ClassicDouble": ClassicDouble, "KSampler": KSampler}
    NODE_DISPLAY_NAME_MAPPINGS = {"ClassicDouble": "Twice as Much"}
"""

V3 = """
    from comfy_api.latest import ComfyExtension, io, ui

    class NewDouble(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="NewDouble",
                display_name="Twice, Newly",
                category="tests",
                inputs=[io.Int.Input("value", default=3, min=0, max=99)],
                outputs=[io.Int.Output(display_name="twice")],
            )

        @classmethod
        async def execute(cls, value):
            return io.NodeOutput(2 * value)

    class Pack(ComfyExtension):
        async def get_node_list(self):
            return [NewDouble]

    async def comfy_entrypoint():
        return Pack()
"""

ROUTED = """
    from aiohttp import web
    from server import PromptServer

    server = PromptServer.instance

    @server.routes.get("/routed/{word}")
    async def say(request):
        return web.json_response({"word": request.match_info["word"]})

    @server.routes.post("/routed/tell")
    async def tell(request):
        server.send_sync("routed.told", await request.json())
        return web.Response()

    async def alone(request):
        return web.Response(text="as it is")

    server.app.add_routes([web.get("/alone", alone)])

    def mark(body):
        body.setdefault("extra_data", {})["marked"] = True
        return body

    server.add_on_prompt_handler(mark)
    NODE_CLASS_MAPPINGS = {}
"""

WITH_WEB = """
    WEB_DIRECTORY = "./js"
    NODE_CLASS_MAPPINGS = {}
"""

WITH_WEB_PROJECT = """
    [project]
    name = "panel-of-tests"

    [tool.comfy]
    web = "panel"
"""

BROKEN = """
    import a_package_that_nobody_has
"""

LEAVING = """
    import sys

    sys.exit(3)
"""

PRESTART = """
    import os
    import sys

    os.environ["PRESTART_OF_TESTS"] = "late" if "torch" in sys.modules else "early"
"""

EARLY = """
    import os

    class WhenStarted:
        RETURN_TYPES = ("STRING",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def run(self):
            return (os.environ["PRESTART_OF_TESTS"],)

    NODE_CLASS_MAPPINGS = {"WhenStarted": WhenStarted}
"""

# What packs that change models say at /seen/<name>, and a class for their nodes.
_MODEL_PACK = """
    from aiohttp import web
    from server import PromptServer

    seen = {}

    def count(what):
        seen[what] = seen.get(what, 0) + 1

    @PromptServer.instance.routes.get("/seen/@name@")
    async def tell(request):
        return web.json_response(seen)

    class Patch@name@:
        RETURN_TYPES = ("MODEL",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"model": ("MODEL",)}}

        def run(self, model):
            changed = model.clone()
            patch(changed)
            return (changed,)

    NODE_CLASS_MAPPINGS = {"Patch@name@": Patch@name@}
"""


def _model_pack(name: str, text: str) -> str:
    return _MODEL_PACK.replace("@name@", name) + text


ATTENTION = _model_pack(
    "Attention",
    """
    def before(query, context, value, options):
        count("attn1")
        assert options["n_heads"] > 0 and options["block"]
        return query * 1.5, context, value

    def instead(query, key, value, options):
        import comfy.ldm.modules.attention as attention

        count("attn2")
        return attention.optimized_attention(query, key, value, options["n_heads"])

    def override(function, *args, **kwargs):
        count("override")
        return function(*args, **kwargs)

    def patch(model):
        model.set_model_attn1_patch(before)
        for number in range(20):
            for place in ("input", "middle", "output"):
                model.set_model_attn2_replace(instead, place, number)
        model.model_options["transformer_options"]["optimized_attention_override"] = override
    """,
)

SAMPLING = _model_pack(
    "Sampling",
    """
    import comfy.patcher_extension

    def guided(args):
        count("cfg")
        return args["uncond"] + (args["cond"] - args["uncond"]) * 0.5

    def after(args):
        count("post")
        return args["denoised"]

    def around(apply_model, args):
        count("unet")
        return apply_model(args["input"], args["timestep"], **args["c"])

    def outer(executor, *args, **kwargs):
        count("outer")
        return executor(*args, **kwargs)

    def patch(model):
        model.set_model_sampler_cfg_function(guided)
        model.set_model_sampler_post_cfg_function(after)
        model.set_model_unet_function_wrapper(around)
        kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
        model.add_wrapper_with_key(kind, "tests", outer)
    """,
)

SEAM = _model_pack(
    "Seam",
    """
    import comfy.utils

    original = comfy.utils.load_torch_file

    def load_torch_file(*args, **kwargs):
        count("loads")
        return original(*args, **kwargs)

    comfy.utils.load_torch_file = load_torch_file

    def patch(model):
        count("patches")
    """,
)

CHOICES = """
    import torch

    import comfy.k_diffusion.sampling as sampling
    import comfy.samplers as samplers

    @torch.no_grad()
    def sample_at_once(model, x, sigmas, extra_args=None, callback=None, disable=None):
        denoised = model(x, sigmas[0] * x.new_ones([len(x)]), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": 0, "sigma": sigmas[0], "sigma_hat": sigmas[0], "denoised": denoised})
        return denoised

    def halves(model_sampling, steps):
        first = float(model_sampling.sigma_max)
        return torch.tensor([first / 2**i for i in range(steps)] + [0.0])

    sampling.sample_at_once = sample_at_once
    samplers.KSampler.SAMPLERS.append("at_once")
    samplers.KSAMPLER_NAMES.append("at_once")
    samplers.SCHEDULER_HANDLERS["halves"] = samplers.SchedulerHandler(halves)
    samplers.KSampler.SCHEDULERS.append("halves")
    NODE_CLASS_MAPPINGS = {}
"""

FOLDERS = """
    import os

    import folder_paths

    HERE = os.path.dirname(os.path.abspath(__file__))
    folder_paths.add_model_folder_path("things_of_tests", os.path.join(HERE, "things"))
    folder_paths.folder_names_and_paths["odd_things"] = ([os.path.join(HERE, "odd")], {".odd"})

    class PickThing:
        RETURN_TYPES = ("STRING",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"name": (folder_paths.get_filename_list("odd_things"),)}}

        def run(self, name):
            with open(folder_paths.get_full_path("odd_things", name)) as stream:
                return (stream.read(),)

    NODE_CLASS_MAPPINGS = {"PickThing": PickThing}
"""

JAVASCRIPT = 'import { app } from "../../scripts/app.js";\n'

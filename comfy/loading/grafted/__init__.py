"""What the lines call that ``python -m comfy.loading graft`` inserts into a stock ComfyUI.

Each module is the other side of one hooked file: `flags` of the argument parser (no torch),
`files` of ``load_torch_file``, `models` of the model patcher, `memory` of memory planning. All of
it rests unless `activity.is_active`. `runtime` puts the same calls into a ComfyUI whose files stay
as they are.
"""

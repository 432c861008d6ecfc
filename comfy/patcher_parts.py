"""What packs hang on a `ModelPatcher`: callbacks, wrappers, attachments, injections, other models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from comfy.patcher_extension import (
    CallbacksMP,
    Hooks,
    PatcherInjection,
    add_to_hooks,
    all_hooks,
    copy_nested_dicts,
    hooks_with_key,
)

Function = Callable[..., Any]


class PatcherParts:
    """Mixed into `ModelPatcher`.

    Attributes:
        callbacks: By type and key.
        wrappers: By type and key.
        attachments: Anything, by key; one with ``on_model_patcher_clone`` is asked for its copy.
        injections: Changes of the model around sampling, by key.
        additional_models: Patchers that are loaded along, by key.
        is_injected: Whether the injections are in the model now.
        skip_injection: Leave them out.
    """

    def __init__(self) -> None:
        self.callbacks: Hooks = CallbacksMP.init_callbacks()
        self.wrappers: Hooks = {}
        self.attachments: dict[str, Any] = {}
        self.injections: dict[str, list[PatcherInjection]] = {}
        self.additional_models: dict[str, list[Any]] = {}
        self.is_injected = False
        self.skip_injection = False

    def _copy_parts_to(self, clone: PatcherParts) -> None:
        clone.callbacks = copy_nested_dicts(self.callbacks)
        clone.wrappers = copy_nested_dicts(self.wrappers)
        for key, attachment in self.attachments.items():
            copied = getattr(attachment, "on_model_patcher_clone", None)
            clone.attachments[key] = attachment if copied is None else copied()
        clone.injections = {key: list(group) for key, group in self.injections.items()}
        clone.is_injected, clone.skip_injection = self.is_injected, self.skip_injection
        clone.additional_models = {
            key: [model.clone() for model in group] for key, group in self.additional_models.items()
        }

    def add_callback(self, call_type: str, callback: Function) -> None:
        """Add a callback under no key."""
        self.add_callback_with_key(call_type, None, callback)

    def add_callback_with_key(self, call_type: str, key: str | None, callback: Function) -> None:
        """Add a callback of a type of `CallbacksMP`."""
        add_to_hooks(self.callbacks, call_type, key, callback)

    def remove_callbacks_with_key(self, call_type: str, key: str | None) -> None:
        """Forget the callbacks of one type and key."""
        self.callbacks.get(call_type, {}).pop(key, None)

    def get_callbacks(self, call_type: str, key: str | None) -> list[Function]:
        """The callbacks of one type and key."""
        return hooks_with_key(self.callbacks, call_type, key)

    def get_all_callbacks(self, call_type: str) -> list[Function]:
        """The callbacks of one type, of all keys."""
        return all_hooks(self.callbacks, call_type)

    def add_wrapper(self, wrapper_type: str, wrapper: Function) -> None:
        """Add a wrapper under no key."""
        self.add_wrapper_with_key(wrapper_type, None, wrapper)

    def add_wrapper_with_key(self, wrapper_type: str, key: str | None, wrapper: Function) -> None:
        """Add a wrapper of a type of `WrappersMP`."""
        add_to_hooks(self.wrappers, wrapper_type, key, wrapper)

    def remove_wrappers_with_key(self, wrapper_type: str, key: str | None) -> None:
        """Forget the wrappers of one type and key."""
        self.wrappers.get(wrapper_type, {}).pop(key, None)

    def get_wrappers(self, wrapper_type: str, key: str | None) -> list[Function]:
        """The wrappers of one type and key."""
        return hooks_with_key(self.wrappers, wrapper_type, key)

    def get_all_wrappers(self, wrapper_type: str) -> list[Function]:
        """The wrappers of one type, of all keys."""
        return all_hooks(self.wrappers, wrapper_type)

    def set_attachments(self, key: str, attachment: Any) -> None:
        """Hang anything on the patcher."""
        self.attachments[key] = attachment

    def remove_attachments(self, key: str) -> None:
        """Forget an attachment."""
        self.attachments.pop(key, None)

    def get_attachment(self, key: str) -> Any:
        """What hangs there, or None."""
        return self.attachments.get(key)

    def set_injections(self, key: str, injections: Sequence[PatcherInjection]) -> None:
        """Set one key's changes of the model around sampling."""
        self.injections[key] = list(injections)

    def remove_injections(self, key: str) -> None:
        """Forget one key's injections."""
        self.injections.pop(key, None)

    def get_injections(self, key: str) -> list[PatcherInjection] | None:
        """One key's injections, or None."""
        return self.injections.get(key)

    def set_additional_models(self, key: str, models: Sequence[Any]) -> None:
        """Set the patchers that are loaded along with this one."""
        self.additional_models[key] = list(models)

    def remove_additional_models(self, key: str) -> None:
        """Forget one key's additional models."""
        self.additional_models.pop(key, None)

    def get_additional_models_with_key(self, key: str) -> list[Any]:
        """One key's additional models."""
        return list(self.additional_models.get(key, ()))

    def get_additional_models(self) -> list[Any]:
        """All additional models."""
        return [model for group in self.additional_models.values() for model in group]

    def get_nested_additional_models(self) -> list[Any]:
        """All additional models and theirs, each once."""
        found: list[Any] = []
        waiting = self.get_additional_models()
        while waiting:
            model = waiting.pop(0)
            if not any(model is known for known in found):
                found.append(model)
                waiting += model.get_additional_models()
        return found

    def inject_model(self) -> None:
        """Make the injections' changes, unless they are made."""
        if self.is_injected or self.skip_injection:
            return
        for group in self.injections.values():
            for injection in group:
                injection.inject(self)
                self.is_injected = True
        if self.is_injected:
            self._call_back(CallbacksMP.ON_INJECT_MODEL)

    def eject_model(self) -> None:
        """Take the injections' changes back, the last one first."""
        if not self.is_injected:
            return
        for group in reversed(self.injections.values()):
            for injection in reversed(group):
                injection.eject(self)
        self.is_injected = False
        self._call_back(CallbacksMP.ON_EJECT_MODEL)

    @contextlib.contextmanager
    def use_ejected(self, skip_and_inject_on_exit_only: bool = False) -> Iterator[None]:
        """Work on the model without its injections.

        Args:
            skip_and_inject_on_exit_only: Keep others from injecting meanwhile, and inject at the
                end whether or not it was injected before.
        """
        was_injected, skipped = self.is_injected, self.skip_injection
        self.eject_model()
        if skip_and_inject_on_exit_only:
            self.skip_injection = True
        try:
            yield
        finally:
            self.skip_injection = skipped
            if was_injected or skip_and_inject_on_exit_only:
                self.inject_model()

    def _call_back(self, call_type: str, *args: Any) -> None:
        for callback in self.get_all_callbacks(call_type):
            callback(self, *args)

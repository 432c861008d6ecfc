"""PromptServer: takes requests of pages and other programs, and tells pages what happens.

Packs use ``PromptServer.instance``: they add routes to its ``routes`` while they are imported, and
send messages with `PromptServer.send_sync` from any thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import aiohttp
from aiohttp import web

import execution
import nodes
from api_server import frames
from api_server.routes import (
    features,
    files,
    history,
    jobs,
    loading,
    metrics,
    models,
    node_info,
    pages,
    prompt,
    queue,
    system,
    websocket,
)
from api_server.routes.internal.internal_routes import InternalRoutes
from api_server.sockets import CROWDED, Clients
from api_server.utils import json_text
from app import serving
from app.custom_node_manager import CustomNodeManager
from app.frontend_management import add_static_routes, choose_web_root
from app.model_manager import ModelFileManager
from app.subgraph_manager import SubgraphManager
from app.user_manager import UserManager
from comfy.cli_args import args
from middleware import chain
from protocol import BinaryEventTypes as BinaryEventTypes

logger = logging.getLogger(__name__)

OnPrompt = Callable[[dict[str, Any]], Any]

_BYTES_PER_MB = 1024 * 1024
_ROOMS = (
    *(websocket, features, prompt, queue, history, jobs, node_info),
    *(files, models, pages, system, loading, metrics),
)
# Longer ones than aiohttp's own: paths of models stand in queries, tokens in headers.
_LONGEST_LINE = 16 * 1024
# How long answers that are on their way may take when the server stops.
_LAST_ANSWERS_S = 1.0
_LAST_MESSAGES_S = 0.5
# The next message of the same kind says all that these say.
_CAN_BE_LOST = (
    "progress",
    "progress_state",
    "logs",
    BinaryEventTypes.PREVIEW_IMAGE,
    BinaryEventTypes.UNENCODED_PREVIEW_IMAGE,
    BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA,
)


class PromptServer:
    """The web server.

    Attributes:
        instance: The one that was made last.
        app: aiohttp's application.
        routes: What is served both as it is and below ``/api``; see `add_routes`.
        loop: Where everything here runs but `send_sync`.
        messages: What waits to be sent: event, data, client.
        prompt_queue: Prompts that wait, run and ended.
        client_id: Who sent the prompt that runs.
        last_node_id: The node that runs, as pages know it.
        last_prompt_id: The prompt that runs, or ran last.
        number: How many prompts came without a number of their own.
        clients: Pages that are connected.
        sockets: Socket of each page by its id.
        sockets_metadata: "feature_flags" of each page by its id.
        user_manager: Users, their settings and files.
        model_file_manager: The library of models.
        custom_node_manager: Workflows and texts of packs.
        subgraph_manager: Subgraphs of packs.
        internal_routes: What only the page itself asks.
        supports: What else packs may count on.
        web_root: Folder of the page's files; None if there is none.
        client_session: For requests to other servers; None before `setup`.
        on_prompt_handlers: Asked to change each prompt before it is looked at.
        worker: What runs the prompts; None until its thread begins.
        address: First of the addresses it listens on.
        port: And its port.
    """

    instance: ClassVar[PromptServer]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the application and its addresses; listens to nothing yet.

        Args:
            loop: Where the server will run.
        """
        PromptServer.instance = self
        self.loop = loop
        self.messages: asyncio.Queue[tuple[Any, Any, str | None]] = asyncio.Queue()
        self.clients = Clients()
        self.sockets = self.clients.sockets
        self.sockets_metadata = self.clients.metadata
        self.prompt_queue = execution.PromptQueue(self)
        self.client_id: str | None = None
        self.last_node_id: str | None = None
        self.last_prompt_id: str | None = None
        self.number = 0
        self.user_manager = UserManager()
        self.model_file_manager = ModelFileManager()
        self.custom_node_manager = CustomNodeManager()
        self.subgraph_manager = SubgraphManager()
        self.internal_routes = InternalRoutes(self)
        self.supports = ["custom_nodes_from_web"]
        self.on_prompt_handlers: list[OnPrompt] = []
        self.worker: Any = None
        self.web_root: str | None = choose_web_root(args)
        self.client_session: aiohttp.ClientSession | None = None
        self.address = ""
        self.port = 0
        self.runner: web.AppRunner | None = None
        self.app = web.Application(
            client_max_size=round(args.max_upload_size * _BYTES_PER_MB),
            middlewares=chain.chain(args),
        )
        self.routes = web.RouteTableDef()
        for room in _ROOMS:
            room.register(self.routes, self)

    # -- addresses ---------------------------------------------------------------------------------

    def add_routes(self) -> None:
        """Serve what is in `routes`, below ``/api`` and as it is; then files.

        Called once, when packs have added theirs.
        """
        packs = list(nodes.LOADED_MODULE_DIRS.items())
        self.user_manager.add_routes(self.routes)
        self.model_file_manager.add_routes(self.routes)
        self.custom_node_manager.add_routes(self.routes, self.app, packs)
        self.subgraph_manager.add_routes(self.routes, packs)
        self.app.add_subapp("/internal", self.internal_routes.get_app())
        known = [route for route in self.routes if isinstance(route, web.RouteDef)]
        doubled = [
            web.RouteDef(route.method, f"/api{route.path}", route.handler, dict(route.kwargs))
            for route in known
        ]
        for route in (*doubled, *self.routes):
            self._add(route)
        add_static_routes(self.app, self.web_root)

    def _add(self, route: web.AbstractRouteDef) -> None:
        try:
            self.app.add_routes([route])
        except (RuntimeError, ValueError) as err:
            # A pack's, that is there already, or has no such form.
            logger.error("The address %r cannot be served: %s", getattr(route, "path", route), err)

    # -- life --------------------------------------------------------------------------------------

    async def setup(self) -> None:
        """Prepare what needs a running loop."""
        self.client_session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))

    async def start(
        self,
        address: str,
        port: int,
        verbose: bool = True,
        call_on_start: Callable[[str, str, int], Any] | None = None,
    ) -> None:
        """Listen on one address; see `start_multi_address`."""
        await self.start_multi_address([(address, port)], call_on_start, verbose)

    async def start_multi_address(
        self,
        addresses: Sequence[serving.Address],
        call_on_start: Callable[[str, str, int], Any] | None = None,
        verbose: bool = True,
    ) -> None:
        """Listen.

        Args:
            addresses: Pairs of address and port.
            call_on_start: Called with scheme, address and port of the first one.
            verbose: Say in the log where the page is.

        Raises:
            CannotServe: An address is in use, or cannot be listened on.
        """
        tls = serving.tls_context(args.tls_keyfile, args.tls_certfile)
        self.runner = web.AppRunner(
            self.app,
            access_log=None,
            handle_signals=False,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
            shutdown_timeout=_LAST_ANSWERS_S,
        )
        await self.runner.setup()
        bound = await serving.listen(self.runner, addresses, tls)
        self.address, self.port = bound[0].address, bound[0].port
        serving.warn_of_strangers(bound)
        if verbose:
            serving.tell_address(bound)
        if call_on_start is not None:
            call_on_start(bound[0].scheme, bound[0].address, bound[0].port)

    async def stop(self) -> None:
        """Send what waits, if pages take it soon, and close all connections."""
        deadline = self.loop.time() + _LAST_MESSAGES_S
        while not (self.messages.empty() and self.clients.all_is_sent):
            if self.loop.time() > deadline:
                break
            await asyncio.sleep(0.01)
        await self.clients.close_all()
        if self.runner is not None:
            await self.runner.cleanup()
        if self.client_session is not None:
            await self.client_session.close()

    # -- prompts -----------------------------------------------------------------------------------

    def add_on_prompt_handler(self, handler: OnPrompt) -> None:
        """Let a function change each prompt before it is looked at.

        Args:
            handler: Gets the body of the request, and returns what is to be used instead.
        """
        self.on_prompt_handlers.append(handler)

    def trigger_on_prompt(self, json_data: dict[str, Any]) -> dict[str, Any]:
        """Let all handlers see a request; those that fail change nothing."""
        for handler in self.on_prompt_handlers:
            try:
                changed = handler(json_data)
            except Exception:
                logger.exception("A pack's handler of prompts failed, and is passed over.")
                continue
            if isinstance(changed, dict):
                json_data = changed
            else:
                logger.warning(
                    "A pack's handler of prompts, %r, returned no prompt, and is passed over.",
                    getattr(handler, "__qualname__", handler),
                )
        return json_data

    def get_queue_info(self) -> dict[str, Any]:
        """How many prompts wait or run, in the form of ``GET /prompt``."""
        return {"exec_info": {"queue_remaining": self.prompt_queue.get_tasks_remaining()}}

    def queue_updated(self) -> None:
        """Tell all pages how many prompts wait or run."""
        self.send_sync("status", {"status": self.get_queue_info()})

    # -- messages ----------------------------------------------------------------------------------

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Send a message when its turn comes. May be called from any thread.

        Args:
            event: A name, or a number for bytes; see `protocol.BinaryEventTypes`.
            data: What JSON can hold; bytes for a number; for pictures ``(kind, picture, longest
                side)``, with ``UNENCODED_PREVIEW_IMAGE``.
            sid: Id of the page it is for; None for all.
        """
        try:
            self.loop.call_soon_threadsafe(self._wait_for_turn, event, data, sid)
        except RuntimeError:
            # The program ends, and nobody listens any more.
            logger.debug("A message came after the server had stopped: %s", event)

    def _wait_for_turn(self, event: Any, data: Any, sid: str | None) -> None:
        # Pictures that wait here are large, and to make files of them takes longer than to send them.
        if event not in _CAN_BE_LOST or self.messages.qsize() < CROWDED:
            self.messages.put_nowait((event, data, sid))

    async def publish_loop(self) -> None:
        """Send what waits, in order, until cancelled."""
        while True:
            message = await self.messages.get()
            try:
                await self.send(*message)
            except Exception:
                logger.exception("The message %r could not be sent.", message[0])
            # In a flood, too, pages take what they were sent, and requests are answered.
            await asyncio.sleep(0)

    async def send(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Send a message now; see `send_sync`."""
        is_bytes = isinstance(data, (bytes, bytearray))
        if event == BinaryEventTypes.UNENCODED_PREVIEW_IMAGE and not is_bytes:
            await self.send_image(data, sid)
        elif event == BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA and not is_bytes:
            picture, metadata = data
            await self.send_image_with_metadata(picture, metadata, sid)
        elif is_bytes:
            await self.send_bytes(event, data, sid)
        else:
            await self.send_json(event, data, sid)

    async def send_json(self, event: str, data: Any, sid: str | None = None) -> None:
        """Send a message as text: an object with "type" and "data"."""
        if self.clients.has(sid):
            message = json_text.dumps({"type": event, "data": data})
            self._deliver(message, sid, event in _CAN_BE_LOST)

    def encode_bytes(self, event: int, data: bytes | bytearray) -> bytes:
        """A binary message.

        Raises:
            TypeError: The event is no number.
        """
        return frames.frame(event, data)

    async def send_bytes(self, event: int, data: bytes | bytearray, sid: str | None = None) -> None:
        """Send a message as bytes."""
        self._deliver(self.encode_bytes(event, data), sid, event in _CAN_BE_LOST)

    def _deliver(self, message: str | bytes, sid: str | None, can_be_lost: bool) -> None:
        if asyncio.get_running_loop() is self.loop:
            self.clients.send(message, sid, can_be_lost)
        else:
            # Packs have loops of their own; sockets belong to this one.
            self.loop.call_soon_threadsafe(self.clients.send, message, sid, can_be_lost)

    async def send_image(self, image_data: frames.Preview, sid: str | None = None) -> None:
        """Send a picture.

        Args:
            image_data: Kind of file, picture, longest side.
            sid: See `send_sync`.
        """
        if self.clients.has(sid):
            payload = await asyncio.to_thread(frames.plain_preview, image_data)
            await self.send_bytes(BinaryEventTypes.PREVIEW_IMAGE, payload, sid)

    async def send_image_with_metadata(
        self, image_data: frames.Preview, metadata: Any = None, sid: str | None = None
    ) -> None:
        """Send a picture and what it is of.

        Args:
            image_data: Kind of file, picture, longest side.
            metadata: Ids of its node and prompt.
            sid: See `send_sync`.
        """
        if self.clients.has(sid):
            payload = await asyncio.to_thread(frames.described_preview, image_data, metadata or {})
            await self.send_bytes(BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA, payload, sid)

    def send_progress_text(self, text: str | bytes, node_id: str, sid: str | None = None) -> None:
        """Show a line of text on a node. May be called from any thread."""
        self.send_sync(BinaryEventTypes.TEXT, frames.node_text(text, node_id), sid)

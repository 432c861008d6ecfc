"""A real browser that visits the page of a server, and notes all that goes wrong there."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from playwright import sync_api as playwright

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / ".cache" / "screenshots"
PATIENCE_MS = 60_000

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SIZE = playwright.ViewportSize(width=1400, height=900)
# What the page asks for and can do without: where there is none, the browser notes an error.
_MAY_BE_MISSING = re.compile(
    r"/user\.css$|/userdata/user\.css$|/userdata/comfy\.templates\.json$"
    r"|/userdata/workflows%2F\.index\.json$|/userdata\?dir=subgraphs&|/templates/index[^/]*\.json$"
)
_MISSING = "Failed to load resource"
# The gallery of templates is a package of its own, which is not installed by default.
_WITHOUT_TEMPLATES = "Error loading core workflow templates"
_IS_READY = """() => Boolean(
    window.app?.vueAppReady && window.app.extensionManager?.workflow?.activeWorkflow
    && window.app.graph?.nodes?.length
)"""
_FIND_WIDGET = """([title, name, value]) => {
    const node = app.graph.nodes.find((one) => one.title === title);
    const widget = node.widgets.find((one) => one.name === name);"""
_SET_VALUE = _FIND_WIDGET + " widget.value = value; }"
_GET_VALUE = _FIND_WIDGET + " return widget.value; }"
_SHOWN_ON_NODES = """() => app.graph.nodes.flatMap((node) => node.imgs ?? [])
    .filter((image) => image.complete).map((image) => [image.src, image.naturalWidth])"""


@contextmanager
def launched(executable: str) -> Iterator[playwright.Browser]:
    """A browser without a window."""
    playwright.expect.set_options(timeout=PATIENCE_MS)
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=executable, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """One visitor with a profile of his own, and the page that he sees.

    Attributes:
        page: Drive it.
        errors: What the browser's console called an error, and what the page failed with; not what
            is expected where the internet is out of reach.
        abroad: Addresses of other machines that the page asked for. It got no answer.
        frames: What came over its websocket: texts as objects, bytes as they are.
    """

    page: playwright.Page
    errors: list[str] = field(default_factory=list)
    abroad: list[str] = field(default_factory=list)
    frames: list[dict[str, Any] | bytes] = field(default_factory=list)

    # -- what it hears -----------------------------------------------------------------------------

    def listen(self, url: str) -> None:
        """Note errors and messages from now on, and keep the page away from other machines."""
        elsewhere = re.compile(rf"^https?://(?!{re.escape(url.partition('//')[2])}(/|$))")
        self.page.route(elsewhere, self._refuse)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._on_frame))

    def _refuse(self, route: playwright.Route) -> None:
        self.abroad.append(route.request.url)
        route.abort()

    def _on_console(self, message: playwright.ConsoleMessage) -> None:
        if message.type != "error" or message.text.startswith(_WITHOUT_TEMPLATES):
            return
        address = message.location.get("url", "")
        is_expected = address in self.abroad or _MAY_BE_MISSING.search(address)
        if not (message.text.startswith(_MISSING) and is_expected):
            self.errors.append(f"{message.text} ({address})")

    def _on_frame(self, frame: str | bytes) -> None:
        self.frames.append(json.loads(frame) if isinstance(frame, str) else frame)

    def prompts_heard_of(self) -> set[str]:
        """Ids of the prompts that any message was about, previews included."""
        heard = set()
        for frame in self.frames:
            data = _metadata(frame) if isinstance(frame, bytes) else frame["data"]
            heard.add(str((data or {}).get("prompt_id", "")))
        return heard - {""}

    # -- what it does ------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Go there, and wait until a workflow is open."""
        self.page.goto(url)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until a workflow is open."""
        self.page.wait_for_function(_IS_READY, timeout=PATIENCE_MS)
        self.page.get_by_test_id("app-loading-overlay").wait_for(state="hidden")

    def set_value(self, title: str, name: str, value: Any) -> None:
        """Give a field of the node with this title a value."""
        self.page.evaluate(_SET_VALUE, [title, name, value])

    def value(self, title: str, name: str) -> Any:
        """What is in a field of the node with this title."""
        return self.page.evaluate(_GET_VALUE, [title, name, None])

    def shown_on_nodes(self) -> list[tuple[str, int]]:
        """Addresses and widths of the pictures on nodes, once there are any."""
        self.page.wait_for_function(f"({_SHOWN_ON_NODES})().length > 0")
        return [(address, width) for address, width in self.page.evaluate(_SHOWN_ON_NODES)]

    def press_run(self) -> str:
        """Press the page's *Run*, and wait for the server's answer; the prompt's id."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as answer:
            self.page.get_by_test_id("queue-button").click()
        told = answer.value.json()
        assert answer.value.status == 200, told
        prompt_id: str = told["prompt_id"]
        return prompt_id

    def wait_for(self, kind: str, **wanted: Any) -> None:
        """Wait for a message of the server's websocket.

        Args:
            kind: Its type.
            **wanted: Values that its data must have.
        """
        for _ in range(PATIENCE_MS // 100):
            told = [frame for frame in self.frames if isinstance(frame, dict)]
            data = [frame["data"] for frame in told if frame["type"] == kind]
            if any(wanted.items() <= one.items() for one in data):
                return
            # Frames are noted while playwright waits for the browser.
            self.page.wait_for_timeout(100)
        raise AssertionError(f"not told in time; last messages: {self.frames[-3:]}")

    def wait_until_done(self, prompt_id: str) -> None:
        """Wait until the server has told the page that a prompt is over."""
        self.wait_for("executing", node=None, prompt_id=prompt_id)

    def previews(self) -> list[Image.Image]:
        """The pictures that came over the websocket while something ran."""
        found: list[Image.Image] = []
        for frame in self.frames:
            if isinstance(frame, bytes) and _metadata(frame) is not None:
                start = 8 + int.from_bytes(frame[4:8], "big")
                found.append(Image.open(io.BytesIO(frame[start:])))
        return found

    def fetch(self, address: str) -> bytes:
        """What an address of this server gives to the page."""
        answer = self.page.request.get(address)
        assert answer.ok, (address, answer.status)
        return answer.body()

    def picture(self, address: str) -> Image.Image:
        """The picture at an address."""
        with Image.open(io.BytesIO(self.fetch(address))) as opened:
            picture: Image.Image = opened.convert("RGB")
        return picture

    def screenshot(self, name: str) -> Path:
        """Keep what is seen now, as a PNG of this name."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path


def _metadata(frame: bytes) -> dict[str, Any] | None:
    """What a preview says of itself, if it is one that does."""
    if int.from_bytes(frame[:4], "big") != 4:
        return None
    length = int.from_bytes(frame[4:8], "big")
    told: dict[str, Any] = json.loads(frame[8 : 8 + length])
    return told


@contextmanager
def arrival(browser: playwright.Browser, url: str) -> Iterator[Visit]:
    """A new visitor, who has opened nothing yet but will go to one server only."""
    context = browser.new_context(viewport=_SIZE)
    context.set_default_timeout(PATIENCE_MS)
    visitor = Visit(context.new_page())
    visitor.listen(url)
    try:
        yield visitor
    finally:
        context.close()


@contextmanager
def visit(browser: playwright.Browser, url: str) -> Iterator[Visit]:
    """A new visitor, before whom the page is open."""
    with arrival(browser, url) as visitor:
        visitor.open(url)
        yield visitor

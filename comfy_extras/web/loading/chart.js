// Memory over time as a drawing: host and device one on the other, and the bound above them.

import { drawing, element, setText } from "./elements.js";
import { boundText, bytes, chartShapes, chartText, duration } from "./format.js";

const WIDTH = 320;
const HEIGHT = 120;

export class Chart {
  constructor() {
    this.host = drawing("polygon", { class: "ocl-host" });
    this.device = drawing("polygon", { class: "ocl-device" });
    this.bound = drawing("line", { class: "ocl-bound", x1: 0, x2: WIDTH });
    this.picture = drawing(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      this.host,
      this.device,
      this.bound,
    );
    this.top = element("span");
    this.span = element("span");
    this.figures = element("p", { class: "ocl-small" });
    this.root = element(
      "figure",
      { class: "ocl-chart" },
      element("div", { class: "ocl-axis" }, this.top, this.span),
      this.picture,
      element("figcaption", {}, legend(), this.figures),
    );
  }

  /** Draw samples, as `format.mergeSamples` gives them, and the bound of the server's answer. */
  show(samples, memory) {
    const shapes = chartShapes(samples, memory.bound, memory.now, WIDTH, HEIGHT);
    this.host.setAttribute("points", shapes.host);
    this.device.setAttribute("points", shapes.device);
    this.bound.setAttribute("y1", String(shapes.boundY));
    this.bound.setAttribute("y2", String(shapes.boundY));
    this.picture.setAttribute("aria-label", chartText(samples, memory.bound));
    setText(this.top, bytes(shapes.top));
    setText(this.span, `last ${duration(shapes.span)}`);
    setText(this.figures, boundText(memory.bound));
  }
}

function legend() {
  const entry = (kind, text) =>
    element("span", {}, element("i", { class: `ocl-key ocl-key-${kind}`, "aria-hidden": "true" }), text);
  return element(
    "div",
    { class: "ocl-legend" },
    entry("host", "host"),
    entry("device", "device"),
    entry("bound", "bound: W + staging"),
    entry("file", "still in the file (bars)"),
  );
}

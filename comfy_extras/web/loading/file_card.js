// One weight file: where its weights are, how it was loaded and why, and how far it is.

import { element, setText } from "./elements.js";
import { homeShares, homesText, progressText, strategyText, title, workText } from "./format.js";

export class FileCard {
  constructor() {
    this.name = element("h4");
    this.bar = element("div", { class: "ocl-bar", role: "img" });
    this.homes = element("p", { class: "ocl-small" });
    this.progress = element("progress", { hidden: "" });
    this.work = element("p", { class: "ocl-small" });
    this.strategy = element("p", { class: "ocl-small" });
    this.problem = element("p", { class: "ocl-problem", hidden: "" });
    this.root = element(
      "li",
      { class: "ocl-file" },
      this.name,
      this.bar,
      this.homes,
      this.progress,
      this.work,
      this.strategy,
      this.problem,
    );
  }

  /** Show a file as the server tells it. */
  show(file) {
    setText(this.name, title(file));
    this.name.title = title(file);
    this.#showHomes(file.homes);
    this.#showProgress(file);
    setText(this.work, progressText(file) || workText(file));
    setText(this.strategy, `Strategy: ${strategyText(file)}`);
    setText(this.problem, file.problem);
    this.problem.hidden = !file.problem;
  }

  #showHomes(homes) {
    const parts = homeShares(homes).map((share) => {
      const part = element("span", { class: `ocl-${share.kind}-part` });
      part.style.width = `${share.percent}%`;
      return part;
    });
    this.bar.replaceChildren(...parts);
    this.bar.setAttribute("aria-label", homesText(homes));
    setText(this.homes, homesText(homes));
  }

  #showProgress(file) {
    this.progress.hidden = !file.work;
    if (!file.work) return;
    this.progress.setAttribute("aria-label", `${title(file)}: ${progressText(file)}`);
    if (file.work.total > 0) {
      this.progress.max = file.work.total;
      this.progress.value = Math.min(file.work.done, file.work.total);
    } else {
      // Without a value the page shows that something goes on, and not how far it is.
      this.progress.removeAttribute("value");
    }
  }
}

// The panel: memory over time, every weight file, and a button that releases memory.

import { Chart } from "./chart.js";
import { element, setText } from "./elements.js";
import { FileCard } from "./file_card.js";
import { fileKeys, mergeSamples, pollDelay, poolText } from "./format.js";
import { Poller } from "./poller.js";

export class LoadingPanel {
  /** `api` has `fetchApi(route, options)`, as the page's own. */
  constructor(api) {
    this.api = api;
    this.samples = [];
    this.cards = new Map();
    this.chart = new Chart();
    this.pools = element("ul", { class: "ocl-pools" });
    this.strategy = element("p", { class: "ocl-small" });
    this.files = element("ul", { class: "ocl-files", "aria-label": "Weight files" });
    this.empty = element("p", { class: "ocl-small" }, "No model has been loaded yet.");
    this.error = element("p", { class: "ocl-problem", role: "alert", hidden: "" });
    this.said = element("p", { class: "ocl-small", role: "status" });
    this.button = element("button", { type: "button", class: "ocl-button" }, "Release memory");
    this.button.title = "Unload models and empty caches; what is needed again is read again.";
    this.button.addEventListener("click", () => this.release());
    this.root = element("section", { class: "ocl-panel", "aria-label": "Model loading" }, ...this.#parts());
    this.poller = new Poller({
      ask: () => this.#ask(),
      show: (facts) => this.#show(facts),
      fail: (error) => this.#fail(error),
      delay: pollDelay,
      page: document,
    });
  }

  /** Be shown in an element; the page may say so more than once. */
  mount(parent) {
    if (this.root.parentNode !== parent) parent.replaceChildren(this.root);
    this.poller.start();
  }

  /** Be shown no more. */
  unmount() {
    this.poller.stop();
    this.root.remove();
  }

  /** Let the server release what it can. */
  async release() {
    this.button.disabled = true;
    setText(this.said, "");
    try {
      await this.#fetch("/free", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ unload_models: true, free_memory: true }),
      });
      setText(this.said, "Memory is released as soon as no prompt runs.");
      this.poller.now();
    } catch (error) {
      this.#fail(error);
    } finally {
      this.button.disabled = false;
    }
  }

  #parts() {
    return [
      element("div", { class: "ocl-head" }, element("h3", {}, "Model loading"), this.button),
      this.said,
      this.error,
      this.chart.root,
      this.pools,
      this.strategy,
      this.empty,
      this.files,
    ];
  }

  async #ask() {
    const last = this.samples.length ? this.samples[this.samples.length - 1].seconds : -1;
    const answer = await this.#fetch(`/loading?since=${last}`);
    return answer.json();
  }

  async #fetch(route, options) {
    const answer = await this.api.fetchApi(route, options);
    if (!answer.ok) throw new Error(`The server answered ${answer.status} to ${route}.`);
    return answer;
  }

  #fail(error) {
    setText(this.error, error instanceof Error ? error.message : String(error));
    this.error.hidden = false;
  }

  #show(facts) {
    this.error.hidden = true;
    setText(this.error, "");
    this.samples = mergeSamples(this.samples, facts.memory);
    this.chart.show(this.samples, facts.memory);
    this.pools.replaceChildren(...facts.pools.map((pool) => element("li", {}, poolText(pool))));
    const strategy = facts.strategy;
    setText(this.strategy, `Load strategy: ${strategy.requested}. ${strategy.why}`);
    this.#showFiles(facts.files);
  }

  #showFiles(files) {
    this.empty.hidden = files.length > 0;
    const seen = new Map();
    const keys = fileKeys(files);
    // The one that was loaded last comes first.
    for (let index = files.length - 1; index >= 0; index -= 1) {
      const card = this.cards.get(keys[index]) ?? new FileCard();
      card.show(files[index]);
      seen.set(keys[index], card);
    }
    this.cards = seen;
    const wanted = [...seen.values()].map((card) => card.root);
    const now = [...this.files.children];
    // Moving an element takes the reader's place from them: only if the order is another one.
    if (wanted.length !== now.length || wanted.some((one, index) => one !== now[index])) {
      this.files.replaceChildren(...wanted);
    }
  }
}

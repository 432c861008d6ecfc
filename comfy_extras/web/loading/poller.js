// Asks the server again and again, but only while somebody can see the answer.

export class Poller {
  /**
   * `ask` gives a promise of the facts, `show` takes them, `fail` takes an error, `delay` says of
   * the facts (null after an error) how many milliseconds to wait. `page` is the document.
   */
  constructor({ ask, show, fail, delay, page, timers = globalThis }) {
    Object.assign(this, { ask, show, fail, delay, page, timers });
    this.isRunning = false;
    this.timer = null;
    this.round = 0;
    this.onVisibility = () => this.#look();
  }

  start() {
    if (this.isRunning) return;
    this.isRunning = true;
    this.page.addEventListener("visibilitychange", this.onVisibility);
    this.#look();
  }

  stop() {
    this.isRunning = false;
    this.page.removeEventListener("visibilitychange", this.onVisibility);
    this.#cancel();
  }

  /** Ask at once, whatever the pause. */
  now() {
    if (this.isRunning) this.#look();
  }

  #cancel() {
    // An answer that is still on its way belongs to a round that is over.
    this.round += 1;
    if (this.timer !== null) this.timers.clearTimeout(this.timer);
    this.timer = null;
  }

  async #look() {
    this.#cancel();
    if (this.page.visibilityState !== "visible") return;
    const round = this.round;
    let facts = null;
    try {
      facts = await this.ask();
      if (round === this.round) this.show(facts);
    } catch (error) {
      if (round === this.round) this.fail(error);
    }
    if (round !== this.round || !this.isRunning) return;
    this.timer = this.timers.setTimeout(() => this.#look(), this.delay(facts));
  }
}

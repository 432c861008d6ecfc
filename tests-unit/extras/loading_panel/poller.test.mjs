// Asking again and again, but only while somebody can see the answer.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { Poller } from "./poller.js";

/** The document, as far as the poller knows it. */
class Page extends EventTarget {
  visibilityState = "visible";

  become(state) {
    this.visibilityState = state;
    this.dispatchEvent(new Event("visibilitychange"));
  }
}

/** Timers that a test fires. */
class Timers {
  pending = new Map();
  count = 0;

  setTimeout(action, delay) {
    this.count += 1;
    this.pending.set(this.count, { action, delay });
    return this.count;
  }

  clearTimeout(number) {
    this.pending.delete(number);
  }

  delays() {
    return [...this.pending.values()].map((one) => one.delay);
  }

  fire() {
    const all = [...this.pending.values()];
    this.pending.clear();
    for (const one of all) one.action();
  }
}

let page, timers, asked, shown, failed, answer, poller;

beforeEach(() => {
  page = new Page();
  timers = new Timers();
  [asked, shown, failed] = [0, [], []];
  answer = async () => ({ wait: 500 });
  poller = new Poller({
    ask: () => {
      asked += 1;
      return answer();
    },
    show: (facts) => shown.push(facts),
    fail: (error) => failed.push(error.message),
    delay: (facts) => (facts === null ? 3000 : facts.wait),
    page,
    timers,
  });
});

async function settled() {
  await new Promise((resolve) => setImmediate(resolve));
}

test("it asks at once, and again after the pause that the answer wants", async () => {
  poller.start();
  await settled();
  assert.deepEqual([asked, shown.length, timers.delays()], [1, 1, [500]]);
  timers.fire();
  await settled();
  assert.equal(asked, 2);
});

test("starting twice asks once", async () => {
  poller.start();
  poller.start();
  await settled();
  assert.deepEqual([asked, timers.delays().length], [1, 1]);
});

test("a page that nobody sees is not asked for", async () => {
  page.visibilityState = "hidden";
  poller.start();
  await settled();
  assert.deepEqual([asked, timers.delays()], [0, []]);
  page.become("visible");
  await settled();
  assert.equal(asked, 1);
  page.become("hidden");
  assert.deepEqual(timers.delays(), []);
});

test("nothing is asked or shown after the end", async () => {
  let resolve;
  answer = () => new Promise((done) => (resolve = done));
  poller.start();
  poller.stop();
  resolve({ wait: 1 });
  await settled();
  page.become("visible");
  await settled();
  assert.deepEqual([asked, shown, timers.delays()], [1, [], []]);
});

test("an error is told, and asked again later", async () => {
  answer = async () => {
    throw new Error("no answer");
  };
  poller.start();
  await settled();
  assert.deepEqual([failed, timers.delays()], [["no answer"], [3000]]);
  answer = async () => ({ wait: 500 });
  timers.fire();
  await settled();
  assert.deepEqual([shown.length, timers.delays()], [1, [500]]);
});

test("an answer that was overtaken is not shown", async () => {
  const waiting = [];
  answer = () => new Promise((done) => waiting.push(done));
  poller.start();
  poller.now();
  waiting[1]({ wait: 500, name: "new" });
  await settled();
  waiting[0]({ wait: 500, name: "old" });
  await settled();
  assert.deepEqual(shown.map((one) => one.name), ["new"]);
  assert.equal(timers.delays().length, 1);
});

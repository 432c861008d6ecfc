// Numbers as words, shares and points. Copied beside the modules of the panel, and run by node.

import assert from "node:assert/strict";
import { test } from "node:test";

import * as format from "./format.js";

const MIB = 2 ** 20;
const FIELDS = ["seconds", "host", "device", "weights", "at_home"];
const BOUND = { base: 100, weights: 600, staging: 64, slack: 36, total: 800, peak: 700 };

function sample(seconds, host = 0, device = 0) {
  return { seconds, host, device, weights: 0, at_home: 0 };
}

test("sizes are told in the unit that suits them", () => {
  const told = [0, 1023, 1024, 1.5 * MIB, 12.34 * MIB, 345 * MIB, 6 * 2 ** 30].map(format.bytes);
  assert.deepEqual(told, ["0 B", "1023 B", "1.00 KiB", "1.50 MiB", "12.3 MiB", "345 MiB", "6.00 GiB"]);
  assert.equal(format.bytes(null), "–");
});

test("spans of time are told in seconds or minutes", () => {
  assert.deepEqual([0.1234, 12.34, 61, 600].map(format.duration), ["0.12 s", "12.3 s", "1 min 1 s", "10 min 0 s"]);
  // No minute has sixty seconds left over.
  assert.deepEqual([59.97, 119.7].map(format.duration), ["1 min 0 s", "2 min 0 s"]);
});

test("files of one name have keys of their own, which stay when others come", () => {
  const one = { folder: "checkpoints", name: "a.safetensors" };
  const other = { folder: "", name: "a.safetensors" };
  const keys = format.fileKeys([one, other, one]);
  assert.equal(new Set(keys).size, 3);
  assert.deepEqual(format.fileKeys([one, other, one, other]).slice(0, 3), keys);
});

test("homes are shares of one bar", () => {
  const shares = format.homeShares({ file: 50, host: 25, device: 25 });
  assert.deepEqual(shares.map((one) => one.percent), [50, 25, 25]);
  assert.equal(shares.reduce((sum, one) => sum + one.percent, 0), 100);
});

test("a file without bytes, or that nobody uses, has no bar", () => {
  assert.deepEqual(format.homeShares(null), []);
  assert.deepEqual(format.homeShares({ file: 0, host: 0, device: 0 }), []);
  assert.equal(format.homesText(null), "Not in use.");
});

test("a strategy is told with its row and reasons", () => {
  assert.equal(
    format.strategyText({ strategy: "mmap", row: 7, reasons: ["the CPU runs it", "local disk"] }),
    "mmap (row 7 of the decision table, the CPU runs it, local disk)",
  );
  assert.equal(
    format.strategyText({ strategy: "readinto", row: 0, reasons: ["--load-strategy=readinto"] }),
    "readinto (--load-strategy=readinto)",
  );
  assert.equal(format.strategyText({ strategy: null, row: 0, reasons: [] }), "Not loaded yet.");
});

test("work is told with what it took", () => {
  const file = {
    bytes_read: 2 * MIB,
    seconds: 0.5,
    gb_per_s: 4.194,
    peak_host_bytes: 0,
    peak_device_bytes: MIB,
    cached_bytes: MIB,
    size_bytes: 4 * MIB,
  };
  assert.equal(
    format.workText(file),
    "2.00 MiB read in 0.50 s (4.19 GB/s) · peak +1.00 MiB device · page cache 25 %.",
  );
  const fresh = { ...file, bytes_read: 0, peak_device_bytes: 0, cached_bytes: null };
  assert.equal(format.workText(fresh), "nothing read yet.");
});

test("progress is told while there is some", () => {
  const work = { done: MIB, total: 4 * MIB, seconds: 1 };
  assert.equal(format.progressText({ work, gb_per_s: 1 }), "Loading: 1.00 MiB of 4.00 MiB, 1.00 GB/s");
  assert.equal(
    format.progressText({ work: { ...work, total: 0 }, gb_per_s: null }),
    "Loading: 1.00 MiB, –",
  );
  assert.equal(format.progressText({ work: null, gb_per_s: 1 }), "");
});

test("busy servers are asked more often", () => {
  const busy = { is_loading: false, is_running: true };
  assert.equal(format.pollDelay(busy), 500);
  assert.equal(format.pollDelay({ ...busy, is_running: false }), 3000);
  assert.equal(format.pollDelay({ ...busy, is_loading: true }), 500);
  assert.equal(format.pollDelay(null), 3000);
});

test("samples are merged in order, none twice", () => {
  const memory = { now: 4, fields: FIELDS, samples: [[2, 9, 9, 9, 9], [3, 30, 1, 0, 0]] };
  const merged = format.mergeSamples([sample(1), sample(2, 20)], memory);
  assert.deepEqual(merged.map((one) => [one.seconds, one.host]), [[1, 0], [2, 20], [3, 30]]);
});

test("samples outside of the window are let go", () => {
  const memory = { now: 301.5, fields: FIELDS, samples: [[301, 1, 0, 0, 0]] };
  const merged = format.mergeSamples([sample(1), sample(2)], memory);
  assert.deepEqual(merged.map((one) => one.seconds), [2, 301]);
});

test("a server that began anew begins anew", () => {
  const memory = { now: 3, fields: FIELDS, samples: [[2, 7, 0, 0, 0]] };
  assert.deepEqual(format.mergeSamples([sample(100), sample(101)], memory).map((one) => one.seconds), [2]);
});

test("the axis ends a little above the highest value, at a round number", () => {
  for (const highest of [1, 999, 1025, 3.3 * MIB, 95 * MIB, 2 ** 30, 9.9 * 2 ** 30, 700 * 2 ** 30]) {
    const top = format.axisTop(highest);
    assert.ok(top >= highest * 1.05 && top <= highest * 2.2, `${highest} -> ${top}`);
  }
  assert.equal(format.axisTop(3.3 * MIB), 4 * MIB);
  assert.ok(format.axisTop(0) > 0);
});

test("areas lie one on the other and end at the right edge", () => {
  const samples = [sample(0, 400, 0), sample(10, 400, 400)];
  const shapes = format.chartShapes(samples, BOUND, 10, 100, 100);
  assert.equal(shapes.top, 1000);
  assert.equal(shapes.span, 10);
  assert.equal(shapes.boundY, 20);
  assert.equal(shapes.host, "0,60 100,60 100,100 0,100");
  assert.equal(shapes.device, "0,60 100,20 100,60 0,60");
});

test("a picture without samples is empty", () => {
  const shapes = format.chartShapes([], BOUND, 0, 100, 90);
  assert.deepEqual([shapes.host, shapes.device], ["", ""]);
  assert.ok(Number.isFinite(shapes.boundY));
});

test("pools and bound are told in sentences", () => {
  const pool = { pool: "host", unified: false, free: MIB, total: 4 * MIB, headroom: 0, limit: null };
  assert.equal(format.poolText(pool), "host: 1.00 MiB free of 4.00 MiB, room for weights 0 B");
  const shared = { ...pool, pool: "cuda:0", unified: true, limit: { limit: 2 * MIB, used: 0 } };
  assert.equal(
    format.poolText(shared),
    "cuda:0 (unified with the host's): 1.00 MiB free of 4.00 MiB, room for weights 0 B," +
      " limit of the container 2.00 MiB",
  );
  assert.ok(format.boundText(BOUND).startsWith("Bound 800 B = 100 B held before + 600 B weights (W)"));
});

test("files are called by folder and name", () => {
  assert.equal(format.title({ folder: "loras", name: "a/b.safetensors" }), "loras/a/b.safetensors");
  assert.equal(format.title({ folder: "", name: "b.safetensors" }), "b.safetensors");
});

// Numbers as words, shares and points: all that the panel computes, and nothing of the page.

const UNITS = [
  ["GiB", 2 ** 30],
  ["MiB", 2 ** 20],
  ["KiB", 2 ** 10],
];

export const BUSY_DELAY_MS = 500;
export const IDLE_DELAY_MS = 3000;
export const WINDOW_S = 300;

/** A size in the unit that suits it; a dash if it is unknown. */
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  for (const [unit, size] of UNITS) {
    if (count >= size) {
      const value = count / size;
      return `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)} ${unit}`;
    }
  }
  return `${count} B`;
}

/** A speed; a dash if nothing was measured. */
export function rate(gigabytesPerSecond) {
  if (gigabytesPerSecond === null || gigabytesPerSecond === undefined) return "–";
  return `${gigabytesPerSecond.toFixed(2)} GB/s`;
}

/** A span of time: short ones with a part of a second, long ones in minutes. */
export function duration(seconds) {
  if (seconds < 59.95) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** How long to wait before asking again. */
export function pollDelay(facts) {
  const busy = facts !== null && (facts.is_loading || facts.is_running);
  return busy ? BUSY_DELAY_MS : IDLE_DELAY_MS;
}

/** What a file is called: its kind of folder and its name there. */
export function title(file) {
  return file.folder ? `${file.folder}/${file.name}` : file.name;
}

/** A key for each file: folders of one kind may hold files of one name. */
export function fileKeys(files) {
  const counts = new Map();
  return files.map((file) => {
    const before = counts.get(title(file)) ?? 0;
    counts.set(title(file), before + 1);
    return `${title(file)}#${before}`;
  });
}

/** Percentages of the homes of a file, which add up to 100; none if it has no bytes. */
export function homeShares(homes) {
  if (!homes) return [];
  const kinds = ["file", "host", "device"];
  const sum = kinds.reduce((total, kind) => total + homes[kind], 0);
  if (sum <= 0) return [];
  return kinds.map((kind) => ({ kind, bytes: homes[kind], percent: (100 * homes[kind]) / sum }));
}

/** The homes in a sentence, for those who do not see the bar. */
export function homesText(homes) {
  if (!homes) return "Not in use.";
  return `In the file ${bytes(homes.file)}, on the host ${bytes(homes.host)}, on the device ${bytes(homes.device)}.`;
}

/** The strategy and why, in a sentence. */
export function strategyText(file) {
  if (!file.strategy) return "Not loaded yet.";
  const row = file.row ? `row ${file.row} of the decision table` : "";
  const why = [row, ...file.reasons].filter(Boolean).join(", ");
  return why ? `${file.strategy} (${why})` : file.strategy;
}

/** What was read, how fast, what it took and what the page cache kept, in a sentence. */
export function workText(file) {
  const parts = [];
  if (file.bytes_read > 0) {
    parts.push(`${bytes(file.bytes_read)} read in ${duration(file.seconds)} (${rate(file.gb_per_s)})`);
  } else {
    parts.push("nothing read yet");
  }
  const peaks = [];
  if (file.peak_host_bytes > 0) peaks.push(`${bytes(file.peak_host_bytes)} host`);
  if (file.peak_device_bytes > 0) peaks.push(`${bytes(file.peak_device_bytes)} device`);
  if (peaks.length) parts.push(`peak +${peaks.join(", +")}`);
  if (file.cached_bytes !== null && file.size_bytes > 0) {
    parts.push(`page cache ${percent(file.cached_bytes, file.size_bytes)}`);
  }
  return `${parts.join(" · ")}.`;
}

/** A whole percentage. */
export function percent(part, whole) {
  return `${Math.round((100 * Math.min(part, whole)) / whole)} %`;
}

/** How far a file is that is being read, in words; empty if it is not. */
export function progressText(file) {
  const work = file.work;
  if (!work) return "";
  const done = work.total > 0 ? `${bytes(work.done)} of ${bytes(work.total)}` : bytes(work.done);
  return `Loading: ${done}, ${rate(file.gb_per_s)}`;
}

/** The bound and what it is made of, in a sentence. */
export function boundText(bound) {
  return (
    `Bound ${bytes(bound.total)} = ${bytes(bound.base)} held before + ${bytes(bound.weights)} weights (W)` +
    ` + ${bytes(bound.staging)} staging + ${bytes(bound.slack)} slack. Peak ${bytes(bound.peak)}.`
  );
}

/** A pool of memory in a sentence. */
export function poolText(pool) {
  const kind = pool.unified ? " (unified with the host's)" : "";
  const limit = pool.limit ? `, limit of the container ${bytes(pool.limit.limit)}` : "";
  return (
    `${pool.pool}${kind}: ${bytes(pool.free)} free of ${bytes(pool.total)},` +
    ` room for weights ${bytes(pool.headroom)}${limit}`
  );
}

/**
 * Samples as objects, those known so far and those that came; none older than the window.
 * A server that began anew counts from zero, and what came before it is forgotten.
 */
export function mergeSamples(known, memory) {
  const last = known.length ? known[known.length - 1].seconds : -1;
  const kept = memory.now < last ? [] : known;
  const newest = kept.length ? kept[kept.length - 1].seconds : -1;
  const fresh = memory.samples
    .map((row) => Object.fromEntries(memory.fields.map((field, index) => [field, row[index]])))
    .filter((sample) => sample.seconds > newest);
  return [...kept, ...fresh].filter((sample) => sample.seconds >= memory.now - WINDOW_S);
}

/** The end of the axis: a round number of bytes not far above the highest value. */
export function axisTop(highest) {
  if (highest <= 0) return 2 ** 20;
  const unit = UNITS.find(([, size]) => highest >= size)?.[1] ?? 1;
  const power = 10 ** Math.floor(Math.log10(highest / unit));
  const step = [1, 2, 3, 4, 5, 6, 8, 10].find((one) => one * power * unit >= highest * 1.05);
  return (step ?? 20) * power * unit;
}

/**
 * Points of memory over time in a picture.
 *
 * `samples` in order of time, `now` at the right edge, `top` bytes at the upper edge. Gives the
 * outlines of two areas, host below and device on top of it, and the height of the bound, as
 * strings for SVG.
 */
export function chartShapes(samples, bound, now, width, height) {
  const highest = Math.max(bound.total, ...samples.map((one) => one.host + one.device));
  const top = axisTop(highest);
  const span = Math.max(10, Math.min(WINDOW_S, samples.length ? now - samples[0].seconds : 0));
  const x = (seconds) => round(width * (1 - (now - seconds) / span));
  const y = (value) => round(height * (1 - value / top));
  const host = samples.map((one) => [x(one.seconds), y(one.host)]);
  const total = samples.map((one) => [x(one.seconds), y(one.host + one.device)]);
  const floor = samples.length
    ? [
        [x(samples[samples.length - 1].seconds), round(height)],
        [x(samples[0].seconds), round(height)],
      ]
    : [];
  return {
    top,
    span,
    host: points([...host, ...floor]),
    device: points([...total, ...host.slice().reverse()]),
    boundY: y(bound.total),
  };
}

function points(pairs) {
  return pairs.map(([x, y]) => `${x},${y}`).join(" ");
}

function round(value) {
  return Math.round(value * 10) / 10;
}

/** The chart in a sentence. */
export function chartText(samples, bound) {
  if (!samples.length) return "Memory over time: no sample yet.";
  const last = samples[samples.length - 1];
  return (
    `Memory now: host ${bytes(last.host)}, device ${bytes(last.device)};` +
    ` bound ${bytes(bound.total)}, peak ${bytes(bound.peak)}.`
  );
}

// Charts as SVG: the trace of scores with the threshold, and the what-if's histogram.

/** A figure as a person reads it. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString();
}

/** Scores [[seq, score, verdict]] over frames, what is above the threshold marked. */
export function trace(points, threshold, width, height = 136) {
  const known = points.filter((point) => point[1] !== null);
  const values = known.map((point) => point[1]);
  const [low, high] = bounds(values, threshold);
  const top = 8, bottom = height - 18, left = 54, right = width - 6;
  const first = points.length ? points[0][0] : 0;
  const last = points.length ? Math.max(points[points.length - 1][0], first + 1) : 1;
  const x = (seq) => left + ((seq - first) / (last - first)) * (right - left);
  const y = (value) => bottom - ((Math.min(Math.max(value, low), high) - low) / (high - low)) * (bottom - top);
  const path = known.map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join(" ");
  const dots = known
    .filter((point) => threshold !== null && point[1] > threshold)
    .map((point) => `<circle class="above" cx="${x(point[0]).toFixed(1)}" cy="${y(point[1]).toFixed(1)}" r="3.2"/>`);
  return [
    `<svg viewBox="0 0 ${width} ${height}" aria-hidden="true">`,
    `<line class="axis" x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>`,
    label(left - 6, top + 4, number(high), "end"),
    label(left - 6, bottom, number(low), "end"),
    label(left, height - 4, points.length ? `frame ${first}` : "no frame yet", "start"),
    points.length ? label(right, height - 4, `${last}`, "end") : "",
    `<polyline class="trace" points="${path}"/>`,
    ...dots,
    threshold === null ? "" : cut(left, right, y(threshold), y(threshold), "threshold"),
    // Beside the axis, where no score runs through it.
    threshold === null ? "" : label((left + right) / 2, height - 4, `- - threshold ${number(threshold)}`, "middle"),
    "</svg>",
  ].join("");
}

/** A histogram of scores, the threshold in use and the one that is wished for. */
export function histogram(values, threshold, wished, [low, high], width, height = 150) {
  const bins = 44, top = 22, bottom = height - 18, left = 6, right = width - 6;
  const counts = new Array(bins).fill(0);
  for (const value of values) {
    counts[Math.min(bins - 1, Math.max(0, Math.floor(((value - low) / (high - low)) * bins)))] += 1;
  }
  const most = Math.max(1, ...counts);
  const step = (right - left) / bins;
  const x = (value) => left + ((Math.min(Math.max(value, low), high) - low) / (high - low)) * (right - left);
  const bars = counts.map((count, index) => {
    // A tenth of the height for one frame among thousands: it must be seen.
    const tall = count ? Math.max(4, (count / most) * (bottom - top)) : 0;
    const middle = low + ((index + 0.5) / bins) * (high - low);
    const side = middle > wished ? "above" : "below";
    return `<rect class="${side}" x="${(left + index * step).toFixed(1)}" y="${(bottom - tall).toFixed(1)}" width="${(step - 1).toFixed(1)}" height="${tall.toFixed(1)}"/>`;
  });
  const isRight = x(threshold) > width / 2;
  return [
    `<svg viewBox="0 0 ${width} ${height}" aria-hidden="true">`,
    `<line class="axis" x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>`,
    ...bars,
    cut(x(threshold), x(threshold), top - 8, bottom, "threshold"),
    cut(x(wished), x(wished), top - 8, bottom, "wished"),
    label(x(threshold) + (isRight ? -5 : 5), top - 10, `now ${number(threshold)}`, isRight ? "end" : "start"),
    label(left, height - 4, number(low), "start"),
    label(right, height - 4, number(high), "end"),
    "</svg>",
  ].join("");
}

/** An axis that holds all values and the threshold; values far beyond it share the end. */
export function bounds(values, threshold) {
  const every = threshold === null ? values : [...values, threshold];
  if (!every.length) return [0, 1];
  let low = Infinity, high = -Infinity;
  for (const value of every) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (threshold !== null && threshold > low) high = Math.min(high, threshold + 4 * (threshold - low));
  const pad = 0.06 * (high - low) || Math.max(Math.abs(low), 1) * 0.06;
  return [low - pad, high + pad];
}

function cut(x1, x2, y1, y2, css) {
  return `<line class="${css}" x1="${x1.toFixed(1)}" x2="${x2.toFixed(1)}" y1="${y1.toFixed(1)}" y2="${y2.toFixed(1)}"/>`;
}

function label(x, y, text, anchor) {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${text}</text>`;
}

// Shapes of a view: points in frame pixels, how they are written, moved and drawn. Nothing here knows the page.

const NUMBER = String.raw`(-?\d+(?:\.\d+)?)`;
const POINT = new RegExp(`^${NUMBER},${NUMBER}$`);
const BOX = new RegExp(`^${NUMBER},${NUMBER},${NUMBER},${NUMBER}$`);

/** Corners of a rectangle from two opposite ones. */
export function box([ax, ay], [bx, by]) {
  const [x0, x1] = [Math.min(ax, bx), Math.max(ax, bx)];
  const [y0, y1] = [Math.min(ay, by), Math.max(ay, by)];
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
}

/** Whether the points are an upright rectangle's: its corners then move together. */
export function isBox(points) {
  if (points.length !== 4) return false;
  const [a, b, c, d] = points;
  return (a[1] === b[1] && b[0] === c[0] && c[1] === d[1] && d[0] === a[0])
    || (a[0] === b[0] && b[1] === c[1] && c[0] === d[0] && d[1] === a[1]);
}

/** As `edgead view` takes it: x0,y0,x1,y1 or x,y x,y x,y. */
export function written(points) {
  if (isBox(points)) {
    const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
    return `${Math.min(...xs)},${Math.min(...ys)},${Math.max(...xs)},${Math.max(...ys)}`;
  }
  return points.map((point) => point.join(",")).join(" ");
}

/** The points that a text says, null when it says none. */
export function read(text) {
  const corners = BOX.exec(text.trim());
  if (corners) {
    const [x0, y0, x1, y1] = corners.slice(1).map(Number);
    return x0 < x1 && y0 < y1 ? box([x0, y0], [x1, y1]) : null;
  }
  const points = text.trim().split(/\s+/).map((part) => POINT.exec(part));
  return points.length >= 3 && points.every(Boolean) ? points.map((one) => [Number(one[1]), Number(one[2])]) : null;
}

/** The points with one of them moved; a rectangle stays one and keeps an inside. */
export function withCorner(points, index, [x, y]) {
  const [oldX, oldY] = points[index];
  if (!isBox(points)) return points.map((point, at) => (at === index ? [x, y] : point));
  const moved = points.map(([px, py]) => [px === oldX ? x : px, py === oldY ? y : py]);
  return isThin(moved) ? points : moved;
}

/** The points moved by dx, dy, as far as they stay in the frame. */
export function shifted(points, dx, dy, { width, height }) {
  const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
  const x = clamp(dx, -Math.min(...xs), width - Math.max(...xs));
  const y = clamp(dy, -Math.min(...ys), height - Math.max(...ys));
  return points.map((point) => [point[0] + x, point[1] + y]);
}

/** Whether all points lie on a line along an axis. */
export function isThin(points) {
  return [0, 1].some((axis) => new Set(points.map((point) => point[axis])).size < 2);
}

export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), Math.max(low, high));
}

/** A shape for the keyboard to begin with: in the middle, half as large as the frame. */
export function middle(form, { width, height }) {
  const [x0, y0, x1, y1] = [width / 4, height / 4, (3 * width) / 4, (3 * height) / 4].map(Math.round);
  if (form === "line") return [[x0, Math.round(height / 2)], [x1, Math.round(height / 2)]];
  return form === "box" ? box([x0, y0], [x1, y1]) : [[x0, y1], [Math.round(width / 2), y0], [x1, y1]];
}

/** The whole drawing as SVG in frame pixels; `pixel` is one pixel of the screen in these. */
export function svg({ shapes, draft, line, hasMask }, { width, height }, pixel) {
  const of = (kind) => shapes.map((shape, index) => ({ ...shape, index })).filter((shape) => shape.kind === kind);
  const text = (points) => points.map((point) => point.join(",")).join(" ");
  const roi = of("roi"), gap = 12 * pixel;
  const parts = [
    "<defs>",
    `<pattern id="hatch" width="${gap}" height="${gap}" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">`,
    `<rect class="hatch-back" width="${gap}" height="${gap}"/><rect class="hatch" width="${gap / 3}" height="${gap}"/></pattern>`,
    `<mask id="outside"><rect fill="#fff" width="${width}" height="${height}"/>`,
    ...roi.map((shape) => `<polygon fill="#000" fill-rule="evenodd" points="${text(shape.points)}"/>`),
    "</mask>",
    hasMask ? `<mask id="painted"><image href="/api/v1/view/mask.png" width="${width}" height="${height}" preserveAspectRatio="none"/></mask>` : "",
    "</defs>",
    roi.length ? `<rect class="dim" width="${width}" height="${height}" mask="url(#outside)"/>` : "",
    hasMask ? `<rect fill="url(#hatch)" width="${width}" height="${height}" mask="url(#painted)"/>` : "",
  ];
  for (const { kind, points, index } of [...of("ignore"), ...roi]) {
    const fill = kind === "ignore" ? 'fill="url(#hatch)" fill-rule="evenodd"' : 'fill="none"';
    parts.push(`<polygon class="casing" points="${text(points)}"/>`);
    parts.push(`<polygon class="shape ${kind}" data-shape="${index}" ${fill} points="${text(points)}"/>`);
  }
  for (const { kind, points, name, index } of shapes.map((shape, at) => ({ ...shape, index: at }))) {
    points.forEach(([x, y], at) => {
      const label = `${name}, corner ${at + 1} of ${points.length}: ${x}, ${y}`;
      parts.push(handle(x, y, pixel, kind, `${index} ${at}`, label));
    });
  }
  if (line) {
    parts.push(`<polyline class="casing" points="${text(line)}"/><polyline class="shape measure" points="${text(line)}"/>`);
    line.forEach(([x, y], at) => parts.push(handle(x, y, pixel, "measure", `line ${at}`, `Measured line, end ${at + 1}: ${x}, ${y}`)));
  }
  if (draft?.points.length) {
    const shown = draft.form === "box" && draft.points.length > 1 ? box(...draft.points) : draft.points;
    const tag = draft.form === "box" ? "polygon" : "polyline";
    parts.push(`<${tag} class="casing" points="${text(shown)}"/><${tag} class="shape draft ${draft.kind}" fill="none" points="${text(shown)}"/>`);
    if (draft.form === "polygon") parts.push(`<circle class="first" cx="${shown[0][0]}" cy="${shown[0][1]}" r="${6 * pixel}"/>`);
  }
  return parts.join("");
}

// A finger needs 24 pixels, the eye ten: a wide invisible ring around a small dot. Source: WCAG 2.2, 2.5.8.
function handle(x, y, pixel, kind, key, label) {
  return `<g class="handle ${kind}" tabindex="0" role="button" data-handle="${key}" aria-label="${label}">`
    + `<circle class="reach" cx="${x}" cy="${y}" r="${12 * pixel}"/><circle class="dot" cx="${x}" cy="${y}" r="${5 * pixel}"/></g>`;
}

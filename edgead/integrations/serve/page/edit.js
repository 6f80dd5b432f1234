// The view's editor: draw over a camera's picture, see it, save it as a bundle of its own. The line goes on as it is.

import { box, clamp, isThin, middle, read, shifted, svg, withCorner, written } from "/static/shapes.js";

const $ = (id) => document.getElementById(id);
const NAMES = { roi: "Look inside", ignore: "Ignored" };
const HINTS = {
  none: "Choose a shape to draw. Corners can be dragged, or chosen with Tab and moved with the arrow keys.",
  box: "Drag from one corner to the opposite one. Escape gives it up.",
  polygon: "Click the corners one after the other. The first corner, a double click or Enter closes it; Backspace takes one back, Escape gives it up.",
  line: "Drag along something whose length is known.",
};
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

let size = { width: 640, height: 480 }, view = null;
let shapes = [], line = null, draft = null, dragged = null, history = [];

function frameSize() {
  return view?.frame_size ? { width: view.frame_size[1], height: view.frame_size[0] } : size;
}

function pixel() {
  return 1 / ($("drawing").getScreenCTM()?.a || 1);
}

function render() {
  const focused = document.activeElement?.dataset?.handle;
  const { width, height } = frameSize();
  let count = { roi: 0, ignore: 0 };
  shapes.forEach((shape) => { shape.name = `${NAMES[shape.kind]} ${(count[shape.kind] += 1)}`; });
  $("drawing").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("drawing").innerHTML = svg({ shapes, draft, line, hasMask: view?.has_mask && $("keep-mask").checked }, frameSize(), pixel());
  if (focused) $("drawing").querySelector(`[data-handle="${focused}"]`)?.focus();
  $("stage").dataset.draws = draft ? draft.form : "none";
  for (const button of document.querySelectorAll("[data-draw]")) {
    button.setAttribute("aria-pressed", String(draft !== null && button.dataset.draw === `${draft.kind} ${draft.form}`));
  }
  $("undo").disabled = !history.length;
  const hint = HINTS[draft ? draft.form : "none"];
  if ($("hint").textContent !== hint) $("hint").textContent = hint;
  $("length-row").hidden = $("length-label").hidden = !line;
  list();
}

// Shapes as text: the exact way, and the one for who sees no picture.
function list() {
  $("whole").textContent = shapes.some((shape) => shape.kind === "roi") ? "" : "No region is drawn: the whole frame is looked at.";
  $("whole").hidden = !$("whole").textContent;
  while ($("shapes").children.length > shapes.length) $("shapes").lastChild.remove();
  shapes.forEach((shape, index) => {
    const item = $("shapes").children[index] ?? newItem(index);
    item.querySelector("label").textContent = shape.name;
    item.querySelector("label").className = `swatch ${shape.kind}`;
    item.querySelector("button").setAttribute("aria-label", `Remove ${shape.name}`);
    const field = item.querySelector("input");
    if (document.activeElement !== field) {
      field.value = written(shape.points);
      field.removeAttribute("aria-invalid");
    }
  });
}

function newItem(index) {
  const item = document.createElement("li");
  const label = document.createElement("label"), field = document.createElement("input"), button = document.createElement("button");
  label.htmlFor = field.id = `points-${index}`;
  field.spellcheck = false;
  field.title = "x0,y0,x1,y1 for a rectangle, x,y x,y x,y for a polygon; frame pixels";
  field.addEventListener("change", () => {
    const points = read(field.value);
    field.setAttribute("aria-invalid", String(points === null));
    if (points) change(() => { shapes[index].points = points; });
  });
  button.type = "button";
  button.textContent = "Remove";
  button.addEventListener("click", () => {
    change(() => { shapes.splice(index, 1); });
    ($("shapes").children[Math.min(index, shapes.length - 1)]?.querySelector("button") ?? $("shapes")).focus();
  });
  item.append(label, field, button);
  $("shapes").append(item);
  return item;
}

/** Do something to the shapes that Undo takes back. */
function change(act) {
  const before = JSON.stringify(shapes);
  act();
  if (JSON.stringify(shapes) !== before) history.push(before);
  touched();
  render();
}

function touched() {
  $("saved").replaceChildren();
}

function undo() {
  if (!history.length) return;
  shapes = JSON.parse(history.pop());
  touched();
  render();
}

function place(event) {
  const { width, height } = frameSize();
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform($("drawing").getScreenCTM().inverse());
  return [clamp(Math.round(at.x), 0, width), clamp(Math.round(at.y), 0, height)];
}

function begin(button, byKeyboard) {
  const [kind, form] = button.dataset.draw.split(" ");
  if (byKeyboard) {
    finish(kind, middle(form, frameSize()));
    $("drawing").querySelector(kind === "measure" ? '[data-handle="line 0"]' : `[data-handle="${shapes.length - 1} 0"]`).focus();
    return;
  }
  const isSame = draft && draft.kind === kind && draft.form === form;
  draft = isSame ? null : { kind, form, points: [] };
  render();
}

function finish(kind, points) {
  draft = null;
  if (kind === "measure") {
    line = points;
    render();
    fromLength();
  } else change(() => { shapes.push({ kind, points }); });
}

function close() {
  const points = draft.points.slice(0, -1).filter((point, at, all) => !at || String(point) !== String(all[at - 1]));
  if (points.length >= 3 && !isThin(points)) finish(draft.kind, points);
}

function near([ax, ay], [bx, by]) {
  return Math.hypot(ax - bx, ay - by) < 10 * pixel();
}

function press(event) {
  if (event.button) return;
  const at = place(event);
  if (draft?.form === "polygon") {
    const points = draft.points;
    if (points.length > 3 && near(points[0], at)) close();
    else draft.points = points.length ? [...points.slice(0, -1), at, at] : [at, at];
    render();
  } else if (draft) {
    draft.points = [at, at];
    dragged = { at };
    render();
  } else {
    const corner = event.target.closest("[data-handle]")?.dataset.handle.split(" ");
    const shape = event.target.dataset.shape;
    if (corner || shape !== undefined) dragged = { at, corner, shape, before: JSON.stringify(shapes), points: shape && shapes[shape].points };
  }
  if (dragged) $("drawing").setPointerCapture(event.pointerId);
}

function move(event) {
  const at = place(event);
  if (draft?.points.length) draft.points[draft.points.length - 1] = at;
  else if (dragged?.corner) moveCorner(dragged.corner, at);
  else if (dragged?.points) shapes[dragged.shape].points = shifted(dragged.points, at[0] - dragged.at[0], at[1] - dragged.at[1], frameSize());
  else return;
  render();
}

function release() {
  if (draft && draft.form !== "polygon" && draft.points.length) {
    const [from, to] = draft.points;
    if (draft.form === "line") { if (!near(from, to)) finish("measure", [from, to]); else draft.points = []; }
    else if (from[0] !== to[0] && from[1] !== to[1]) finish(draft.kind, box(from, to));
    else draft.points = [];
    render();
  } else if (dragged?.before && dragged.before !== JSON.stringify(shapes)) {
    history.push(dragged.before);
    touched();
    render();
  }
  dragged = null;
}

function moveCorner([shape, corner], at) {
  if (shape === "line") {
    line = line.map((point, index) => (index === Number(corner) ? at : point));
    fromLength();
  } else shapes[shape].points = withCorner(shapes[shape].points, Number(corner), at);
}

function keys(event) {
  if (event.target.matches("input, select")) return;
  if (draft && event.key === "Escape") draft = null;
  else if (draft?.form === "polygon" && event.key === "Enter") close();
  else if (draft?.form === "polygon" && event.key === "Backspace" && draft.points.length > 2) draft.points.splice(-2, 1);
  else if ((event.ctrlKey || event.metaKey) && event.key === "z") undo();
  else if (event.target.dataset.handle && !handleKey(event)) return;
  else if (!event.target.dataset.handle) return;
  event.preventDefault();
  render();
}

function handleKey(event) {
  const [shape, corner] = event.target.dataset.handle.split(" ");
  if (event.key === "Delete" && shape !== "line") {
    change(() => {
      if (shapes[shape].points.length > 3) shapes[shape].points = shapes[shape].points.filter((_, at) => at !== Number(corner));
      else shapes.splice(shape, 1);
    });
    return true;
  }
  const step = STEPS[event.key];
  if (!step) return false;
  const { width, height } = frameSize(), far = event.shiftKey ? 10 : 1;
  const [x, y] = shape === "line" ? line[corner] : shapes[shape].points[corner];
  const at = [clamp(x + far * step[0], 0, width), clamp(y + far * step[1], 0, height)];
  if (shape === "line") moveCorner([shape, corner], at);
  else change(() => moveCorner([shape, corner], at));
  return true;
}

// Millimetres a pixel from a line of known length.
function fromLength() {
  const length = Number($("length").value);
  const pixels = line && Math.hypot(line[1][0] - line[0][0], line[1][1] - line[0][1]);
  if (length > 0 && pixels) {
    $("mm").value = Number((length / pixels).toPrecision(4));
    touched();
  }
}

async function save() {
  const mm = Number($("mm").value) || null, area = Number($("area").value) || 0;
  const isMm = $("unit").value === "mm2";
  if (isMm && area && !mm) return say("error", "The smallest region is in mm², and there is no scale.", ["Say how many millimetres a pixel has, or give pixels."]);
  const of = (kind) => shapes.filter((shape) => shape.kind === kind).map((shape) => shape.points);
  const body = {
    roi: of("roi"), ignore: of("ignore"), keep_mask: $("keep-mask").checked, mm_per_px: mm,
    min_area_px: isMm && mm ? Number((area / mm ** 2).toPrecision(9)) : area,
  };
  $("save").disabled = true;
  try {
    const answer = await fetch("/api/v1/view", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const found = await answer.json();
    if (answer.ok) saved(found);
    else say("error", `Not saved: ${found.message}`, [found.hint]);
  } catch {
    say("error", "Not saved: the line does not answer.", []);
  } finally {
    $("save").disabled = false;
  }
}

function saved(found) {
  if (!found.file) return say("same", "Nothing was changed, so nothing was saved.", []);
  const share = found.looked_at === null ? "" : ` ${(100 * found.looked_at).toFixed(0)} % of the frame is looked at.`;
  const next = found.commissioned
    ? ["Its threshold holds: what is looked at is the same. Serve it instead of this one:"]
    : ["It has no threshold yet and is refused until it is commissioned again. Learn it from a folder GOOD of good parts, then serve it:"];
  say("done", `Saved as ${found.file}.${share}`, next, found.commands);
}

function say(kind, title, lines, commands = []) {
  const strong = document.createElement("strong");
  strong.textContent = title;
  const texts = lines.filter(Boolean).map((text) => Object.assign(document.createElement("p"), { textContent: text }));
  const codes = commands.map((text) => Object.assign(document.createElement("code"), { textContent: text }));
  $("saved").dataset.kind = kind;
  $("saved").replaceChildren(strong, ...texts, ...codes);
}

async function renew() {
  $("absent").hidden = false;
  $("absent").textContent = "Waiting for a picture";
  try {
    const answer = await fetch(`/api/v1/cameras/${$("cameras").value}/frame.jpg`);
    if (!answer.ok) throw new Error((await answer.json()).message);
    const [height, width] = JSON.parse(answer.headers.get("X-Meta")).size;
    size = { width, height };
    URL.revokeObjectURL($("picture").src);
    $("picture").src = URL.createObjectURL(await answer.blob());
    $("picture").alt = `Newest picture of ${$("cameras").selectedOptions[0].text}`;
    $("picture").hidden = false;
    $("absent").hidden = true;
  } catch (error) {
    $("absent").textContent = `No picture: ${error.message}`;
  }
  render();
}

async function start() {
  const [found, state] = await Promise.all(["/api/v1/view", "/api/v1/state"].map(async (path) => (await fetch(path)).json()));
  view = found;
  const asked = new URLSearchParams(location.search).get("camera");
  for (const one of state.cameras) $("cameras").add(new Option(one.name, one.id, false, String(one.id) === asked));
  $("bundle").textContent = `View of ${view.bundle}`;
  $("beside").textContent = view.bundle;
  $("mask").hidden = !view.has_mask;
  $("mm").value = view.mm_per_px ?? "";
  $("area").value = view.min_area_px;
  shapes = [...view.roi.map((points) => ({ kind: "roi", points })), ...view.ignore.map((points) => ({ kind: "ignore", points }))];
  await renew();
}

for (const button of document.querySelectorAll("[data-draw]")) button.addEventListener("click", (event) => begin(button, event.detail === 0));
$("drawing").addEventListener("pointerdown", press);
$("drawing").addEventListener("pointermove", move);
$("drawing").addEventListener("pointerup", release);
$("drawing").addEventListener("pointercancel", release);
$("drawing").addEventListener("dblclick", () => { if (draft?.form === "polygon") { close(); render(); } });
document.addEventListener("keydown", keys);
$("undo").addEventListener("click", undo);
$("renew").addEventListener("click", renew);
$("cameras").addEventListener("change", renew);
$("keep-mask").addEventListener("change", () => { touched(); render(); });
$("length").addEventListener("input", fromLength);
for (const id of ["mm", "area", "unit"]) $(id).addEventListener("input", touched);
$("save").addEventListener("click", save);
new ResizeObserver(render).observe($("stage"));
start().catch(() => { $("absent").textContent = "The line does not answer."; });

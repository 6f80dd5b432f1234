// The live page: numbers by WebSocket, pictures by MJPEG; what is not current never looks current.

import { bounds, histogram, number, trace } from "/static/charts.js";
import { Stage, watchPictures } from "/static/pictures.js";

const SIGNS = { GOOD: "✓", DEFECT: "✗", UNKNOWN: "?" };
const SHOWN = 300, KEPT = 2000, ANNOUNCE_MS = 2500, SILENT_MS = 3000, REJECTS_MS = 1500;

const $ = (id) => document.getElementById(id);
const cards = new Map();
let model = null, state = null, heard = 0, wished = null, said = "", saidAt = 0, judging = null;

class Card {
  constructor(camera) {
    this.id = camera.id;
    this.root = $("camera").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.find("h2").textContent = camera.name;
    this.find(".tag").hidden = !camera.is_simulated;
    this.find(".edit").href = `/edit?camera=${camera.id}`;
    this.find(".edit").setAttribute("aria-label", `Edit the view over ${camera.name}`);
    this.find(".edit").hidden = !model?.is_editable;
    this.stage = new Stage(this.find("canvas"), this.find(".caption"));
    this.stage.opacity = $("opacity").value / 100;
    this.scores = [];
    this.rejects = null;
    $("cameras").append(this.root);
    fetch(`/api/v1/cameras/${camera.id}/scores`)
      .then((answer) => answer.json())
      .then((found) => this.remember(found.scores))
      .catch(() => {});
  }

  remember(points) {
    const known = new Map(this.scores.map((point) => [point[0], point]));
    for (const point of points) known.set(point[0], point);
    this.scores = [...known.values()].sort((a, b) => a[0] - b[0]).slice(-KEPT);
  }

  show(camera) {
    this.camera = camera;
    this.remember(camera.points);
    const isFresh = camera.state === "running";
    this.root.dataset.fresh = isFresh;
    const chip = this.find(".chip");
    chip.textContent = camera.state;
    chip.dataset.state = camera.state;
    this.find(".absent").textContent = absence(camera);
    const verdict = this.find(".verdict");
    verdict.dataset.verdict = camera.verdict;
    this.find(".sign").textContent = SIGNS[camera.verdict];
    this.find("strong").textContent = camera.verdict;
    this.find(".why").textContent = why(camera);
    this.find("canvas").setAttribute("aria-label", `Picture of ${camera.name}: ${camera.verdict}, ${why(camera)}`);
    for (const cell of this.root.querySelectorAll("[data-count]")) {
      cell.textContent = camera.counts[cell.dataset.count].toLocaleString("en");
    }
    for (const cell of this.root.querySelectorAll("[data-time]")) {
      const value = camera.latency_ms[cell.dataset.time];
      cell.textContent = value === null ? "–" : `${value.toFixed(value < 10 ? 1 : 0)} ms`;
    }
    this.find("[data-rate]").textContent = `${camera.fps}/s`;
    this.draw();
    this.showRejects(camera.rejects);
  }

  draw() {
    const shown = this.scores.slice(-SHOWN), threshold = this.camera.threshold ?? model?.threshold ?? null;
    const chart = this.find(".trace");
    chart.innerHTML = trace(shown, threshold, Math.max(200, chart.clientWidth));
    const above = shown.filter((point) => point[1] !== null && threshold !== null && point[1] > threshold).length;
    chart.setAttribute("aria-label", `Scores of the last ${shown.length} frames, ${above} above the threshold of ${number(threshold)}`);
  }

  // Pictures that are shown already stay: at a high rate of rejects none would ever load otherwise.
  showRejects(rejects) {
    const now = performance.now();
    const key = rejects.map((one) => one.seq).join();
    if (key === this.rejects || (this.rejects && now - this.rejectsAt < REJECTS_MS)) return;
    this.rejects = key;
    this.rejectsAt = now;
    const list = this.find(".rejects");
    const shown = new Map([...list.children].map((item) => [item.dataset.seq, item]));
    const items = rejects.map((one) => shown.get(String(one.seq)) ?? this.thumbnail(one));
    if (!items.length) {
      const none = document.createElement("li");
      none.className = "none";
      none.textContent = "none yet";
      items.push(none);
    }
    for (const item of shown.values()) if (!items.includes(item)) item.remove();
    items.forEach((item, index) => { if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null); });
  }

  thumbnail(one) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.verdict = one.verdict;
    const picture = new Image();
    picture.src = rejectUrl(this.id, one.seq);
    picture.alt = `Frame ${one.seq}, ${one.verdict}, ${one.reason || `score ${number(one.score)}`}`;
    const text = document.createElement("span");
    text.textContent = one.reason || number(one.score);
    button.append(picture, text);
    button.addEventListener("click", () => openReject(this.camera.name, this.id, one));
    const item = document.createElement("li");
    item.dataset.seq = one.seq;
    item.append(button);
    return item;
  }
}

function rejectUrl(id, seq) {
  return `/api/v1/cameras/${id}/rejects/${seq}.jpg?run=${state.run}`;
}

function absence(camera) {
  const text = { waiting: "Waiting for the first frame", ended: "The files have ended" }[camera.state];
  if (text) return text;
  const since = camera.age_s === null ? "" : ` for ${Math.round(camera.age_s)} s`;
  return `No picture${since}. ${camera.state_text}`;
}

function why(camera) {
  if (camera.state !== "running") return camera.state;
  if (camera.reason) return `${camera.reason} ${camera.message}`.trim();
  if (camera.score === null) return "";
  return `score ${number(camera.score)}, threshold ${number(camera.threshold)}`;
}

function openReject(name, id, one) {
  $("reject-title").textContent = `${name}, frame ${one.seq}: ${one.verdict}`;
  $("reject-picture").src = `${rejectUrl(id, one.seq)}&size=large`;
  $("reject-picture").alt = `Anomaly map over frame ${one.seq} of ${name}`;
  const part = one.part_id === null ? "" : `Part ${one.part_id}. `;
  $("reject-text").textContent = part + (one.reason ? `${one.reason} ${one.message}` : `Score ${number(one.score)}.`);
  $("reject").showModal();
}

function take(message) {
  heard = performance.now();
  if (message.error) {
    showReady("not ready", message.error.message);
    return;
  }
  if (state && state.run !== message.run) location.reload();  // the line was started again
  state = message;
  for (const camera of message.cameras) {
    if (!cards.has(camera.id)) addCard(camera);
    cards.get(camera.id).show(camera);
  }
  const failing = message.checks.filter((check) => !check.ok);
  showReady(message.ready ? "ready" : "not ready", failing.map((check) => check.name).join(", "));
  showChecks(message.checks);
  showWarnings(message.warnings);
  announce(message.cameras);
  followSwap(message.cameras);
  showWhatIf();
}

function addCard(camera) {
  cards.set(camera.id, new Card(camera));
  document.body.classList.toggle("alone", cards.size === 1);
  $("whatif-camera").add(new Option(camera.name, camera.id));
}

function showReady(name, why) {
  const text = why ? `${name}: ${why}` : name;
  const chip = $("ready");
  chip.dataset.state = name;
  if (chip.textContent !== text) chip.textContent = text;
}

function showChecks(checks) {
  const key = JSON.stringify(checks.map((one) => [one.name, one.ok]));
  if ($("checks").dataset.key !== key) {
    $("checks").dataset.key = key;
    $("checks").replaceChildren(...checks.map((check) => {
      const item = document.createElement("li");
      item.dataset.ok = check.ok;
      item.append(document.createElement("b"), document.createElement("span"));
      item.firstChild.textContent = check.name;
      return item;
    }));
  }
  checks.forEach((check, index) => { $("checks").children[index].lastChild.textContent = check.text; });
}

function showWarnings(warnings) {
  const key = JSON.stringify(warnings);
  if ($("warnings").dataset.key === key) return;
  $("warnings").dataset.key = key;
  $("warnings").replaceChildren(...warnings.map((one) => {
    const item = document.createElement("li");
    item.textContent = one.camera ? `${one.camera}: ${one.text}` : one.text;
    return item;
  }));
}

// A screen reader hears changes, and not more often than a person can listen.
function announce(cameras) {
  const text = cameras.map((one) => `${one.name}: ${one.verdict.toLowerCase()}${one.state === "running" ? "" : `, ${one.state}`}`).join("; ");
  if (text === said || performance.now() - saidAt < ANNOUNCE_MS) return;
  said = text;
  saidAt = performance.now();
  $("announced").textContent = text;
}

function showWhatIf() {
  const card = cards.get(Number($("whatif-camera").value));
  const threshold = card?.camera?.threshold ?? model?.threshold;
  if (!card || threshold === undefined) return;
  const values = card.scores.filter((point) => point[1] !== null).map((point) => point[1]);
  const range = bounds(values, threshold);
  const slider = $("whatif");
  const asked = wished ?? threshold;
  if (document.activeElement !== slider || wished === null) {
    slider.value = (1000 * (asked - range[0])) / (range[1] - range[0]);
  }
  const count = (limit, among) => among.filter((value) => value > limit).length;
  const share = (some, all) => (all ? `${some} of ${all} (${((100 * some) / all).toFixed(1)} %)` : "none yet");
  $("histogram").innerHTML = histogram(values, threshold, asked, range, Math.max(200, $("histogram").clientWidth));
  $("whatif-value").textContent = number(asked);
  slider.setAttribute("aria-valuetext", number(asked));
  const good = model?.good_scores ?? [];
  const held = good.length ? ` Of the ${good.length} held-out good images ${count(asked, good)}; now ${count(threshold, good)}.` : "";
  const text = `At ${number(asked)}: ${share(count(asked, values), values.length)} recent frames rejected; now ${share(count(threshold, values), values.length)}.${held}`;
  $("whatif-text").textContent = text;
  $("histogram").setAttribute("aria-label", `Histogram of ${values.length} recent scores. ${text}`);
}

function showModel(found) {
  model = found;
  for (const card of cards.values()) card.find(".edit").hidden = !found.is_editable;
  $("engine").textContent = `${found.method}, ${found.backend} ${found.precision}`;
  const rows = {
    Bundle: found.bundle_hash.slice(0, 16), Method: `${found.method} on ${found.backbone}`, Engine: `${found.backend} ${found.precision}: ${found.why}`,
    Frame: `${found.frame}, judged at ${found.input}`, "Looks at": found.view, "Trained on": `${found.trained_on} good images`, Threshold: number(found.threshold),
    Promise: found.promise,
  };
  $("model").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
  const rest = found.certificates.map((one) => [one.precision, one.backend, (one.passed ? "passed" : "not passed") + (one.arithmetic === "emulated" ? ", emulated" : ""), `${number(one.figures.speedup)}×`, number(one.figures.flips)]);
  $("certificates").replaceChildren(rest.length ? table(["Precision", "Back end", "Certificate", "Speed", "Flips"], rest) : "No certificates: it runs as it was trained.");
}

function loadModel() {
  fetch("/api/v1/model").then((answer) => answer.json()).then(showModel).catch(() => {});
}

// After a hot swap frames are judged by another bundle: its panel must follow.
function followSwap(cameras) {
  const hash = cameras.map((one) => one.bundle_hash).find((one) => one);
  if (model && hash && hash !== judging) {
    judging = hash;
    loadModel();
  }
}

function table(head, rows) {
  const made = document.createElement("table");
  const line = (section, tag, cells) => {
    const row = section.insertRow();
    for (const text of cells) {
      const cell = document.createElement(tag);
      if (tag === "th") cell.scope = "col";
      cell.textContent = text;
      row.append(cell);
    }
  };
  line(made.createTHead(), "th", head);
  const body = made.createTBody();
  for (const row of rows) line(body, "td", row);
  return made;
}

function connect(wait = 500) {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/live`);
  socket.addEventListener("open", () => { wait = 500; });
  socket.addEventListener("message", (event) => take(JSON.parse(event.data)));
  socket.addEventListener("close", () => setTimeout(() => connect(Math.min(wait * 2, 8000)), wait));
}

// Numbers that nobody renews are not current: say so, and take every verdict back.
function lookForSilence() {
  const isSilent = !heard || performance.now() - heard > SILENT_MS;
  $("offline").hidden = !isSilent || !heard;
  if (!isSilent || !state) return;
  showReady("not ready", "no connection");
  for (const camera of state.cameras) {
    cards.get(camera.id).show({ ...camera, state: "lost", verdict: "UNKNOWN", state_text: "The line does not answer.", points: [] });
  }
}

$("opacity").addEventListener("input", () => {
  const text = `${$("opacity").value} %`;
  $("opacity-text").textContent = text;
  $("opacity").setAttribute("aria-valuetext", text);
  for (const card of cards.values()) {
    card.stage.opacity = $("opacity").value / 100;
    card.stage.draw();
  }
});
$("whatif").addEventListener("input", () => {
  const card = cards.get(Number($("whatif-camera").value));
  if (!card) return;
  const values = card.scores.filter((point) => point[1] !== null).map((point) => point[1]);
  const [low, high] = bounds(values, card.camera.threshold ?? model.threshold);
  wished = low + ($("whatif").value / 1000) * (high - low);
  showWhatIf();
});
$("whatif-camera").addEventListener("change", () => { wished = null; showWhatIf(); });
$("whatif-reset").addEventListener("click", () => { wished = null; showWhatIf(); });

loadModel();
watchPictures((id, layer, meta, bitmap) => cards.get(id)?.stage.take(layer, meta, bitmap));
connect();
setInterval(lookForSilence, 1000);

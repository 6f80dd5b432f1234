// Pictures: one MJPEG stream for all cameras, taken apart here, the map laid over in the browser.

// Inferno's stops; the map's own level is its alpha, so that what is as usual stays visible.
const STOPS = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
const RETRY_MS = 2000;

/** Draws one camera: its picture, the map above it, the outlines of the regions. */
export class Stage {
  constructor(canvas, caption) {
    this.canvas = canvas;
    this.caption = caption;
    this.opacity = 0.6;
    this.picture = null;
    this.heat = null;
    this.meta = null;
    this.pending = null;
  }

  /** A part of the stream; the heat that belongs to a picture comes right after it. */
  take(layer, meta, bitmap) {
    if (layer === "picture") {
      this.pending = { picture: bitmap, meta };
      if (!meta.regions.length && this.meta === null) this.show(null);
      else this.timer = setTimeout(() => this.show(null), 250);
      return;
    }
    if (this.pending && this.pending.meta.frame_id === meta.frame_id) {
      clearTimeout(this.timer);
      this.show(coloured(bitmap));
    }
  }

  show(heat) {
    if (!this.pending) return;
    clearTimeout(this.timer);
    this.picture = this.pending.picture;
    this.meta = this.pending.meta;
    this.heat = heat;
    this.pending = null;
    this.draw();
  }

  draw() {
    if (!this.picture) return;
    const { canvas, picture, meta } = this;
    if (canvas.width !== picture.width || canvas.height !== picture.height) {
      canvas.width = picture.width;
      canvas.height = picture.height;
    }
    const context = canvas.getContext("2d");
    const scale = picture.width / meta.size[1];
    canvas.dataset.shown = meta.verdict;
    // The picture may be a little behind the numbers: it says itself what it shows.
    this.caption.hidden = false;
    this.caption.dataset.verdict = meta.verdict;
    this.caption.textContent = `frame ${meta.seq}: ${meta.verdict}`;
    context.globalAlpha = 1;
    context.drawImage(picture, 0, 0);
    if (!this.opacity) return;
    if (this.heat) {
      const [x0, y0, x1, y1] = meta.box.map((value) => value * scale);
      context.globalAlpha = this.opacity;
      context.drawImage(this.heat, x0, y0, x1 - x0, y1 - y0);
      context.globalAlpha = 1;
    }
    // What is above the pixel threshold on an accepted part is in the map; an outline would say "defect".
    if (meta.verdict !== "GOOD") for (const region of meta.regions) outline(context, region, scale);
  }
}

/** Reads the stream for as long as the page is visible, and again after an error. */
export function watchPictures(onPart) {
  let running = null;
  async function read() {
    while (running) {
      try {
        const answer = await fetch("/api/v1/pictures.mjpg", { signal: running.signal });
        if (answer.ok) await parts(answer.body.getReader(), onPart);
      } catch (error) {
        if (error.name === "AbortError") return;
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
  function follow() {
    if (document.hidden) {
      running?.abort();
      running = null;
    } else if (!running) {
      running = new AbortController();
      read();
    }
  }
  document.addEventListener("visibilitychange", follow);
  follow();
}

async function parts(reader, onPart) {
  let held = new Uint8Array(0);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held = joined(held, value);
    for (;;) {
      const end = headEnd(held);
      if (end < 0) break;
      const head = headers(held.subarray(0, end));
      const size = Number(head["content-length"]);
      if (held.length < end + 4 + size) break;
      const jpeg = held.slice(end + 4, end + 4 + size);
      held = held.slice(end + 4 + size + 2);
      const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
      onPart(Number(head["x-camera"]), head["x-layer"], JSON.parse(head["x-meta"]), bitmap);
    }
  }
}

function joined(first, second) {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

function headEnd(bytes) {
  for (let at = 0; at + 3 < bytes.length; at += 1) {
    if (bytes[at] === 13 && bytes[at + 1] === 10 && bytes[at + 2] === 13 && bytes[at + 3] === 10) return at;
  }
  return -1;
}

function headers(bytes) {
  const found = {};
  for (const line of new TextDecoder().decode(bytes).split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) found[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  return found;
}

function coloured(bitmap) {
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < image.data.length; at += 4) {
    const level = image.data[at] / 255;
    const place = level * (STOPS.length - 1);
    const index = Math.min(STOPS.length - 2, Math.floor(place));
    for (let channel = 0; channel < 3; channel += 1) {
      const from = STOPS[index][channel], to = STOPS[index + 1][channel];
      image.data[at + channel] = from + (to - from) * (place - index);
    }
    image.data[at + 3] = 255 * Math.min(1, Math.max(0, (level - 0.12) * 1.6));
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function outline(context, region, scale) {
  if (region.length < 2) return;
  context.beginPath();
  region.forEach(([x, y], index) => context[index ? "lineTo" : "moveTo"]((x + 0.5) * scale, (y + 0.5) * scale));
  context.closePath();
  for (const [colour, width] of [["rgb(0 0 0 / .7)", 4], ["#ffffff", 1.6]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke();
  }
}

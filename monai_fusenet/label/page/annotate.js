// The page: a list of images, one of them with its mask, and what the server is doing.
//
// A mask is an array of bytes in the order of the image's axes. What is shown is the server's answer to all clicks,
// with what brush and eraser have changed on top; every action is kept, so that each can be undone.

const $ = (id) => document.getElementById(id);
const POLL = 1000; // milliseconds
const GONE = "The server does not answer. Is it still running?";
const STROKE_POINTS = 12; // of a scribble: more say nothing new
const KEYBOARD_STEP = 0.02; // of the image's side
const MASK_COLOUR = [30, 150, 255]; // seen on skin, stains and grey
const OUTLINE_COLOUR = "#ffe600";
const OUTLINE_WIDTH = 1.5; // pixels of the screen

// ---------------------------------------------------------------- requests

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error(GONE);
  }
  if (!answer.ok) {
    let detail = answer.statusText;
    try {
      detail = (await answer.json()).detail ?? detail;
    } catch { /* no JSON */ }
    throw new Error(typeof detail === "string" ? detail : JSON.stringify(detail));
  }
  return answer;
}

const query = (path, values) => `${path}?${new URLSearchParams(values)}`;
const askJson = async (path, options) => (await ask(path, options)).json();
const askBytes = async (path, options) => (await ask(path, options)).arrayBuffer();
const post = (path, body) => ask(path, { method: "POST", ...body });

function complain(error) {
  if (error?.message === GONE) $("status").textContent = "";
  $("error").textContent = error ? `${error.message ?? error}` : "";
  $("error").hidden = !error;
}

async function attempt(action) {
  try {
    complain(null);
    return await action();
  } catch (error) {
    complain(error);
    return undefined;
  }
}

// ---------------------------------------------------------------- the image that is open

class Work {
  /** What is done to one image: its description, the mask that was there, and all actions since. */
  constructor(id, info) {
    this.id = id;
    this.info = info;
    this.actions = [];
    this.undone = [];
    this.strides = info.shape.map((_, axis) => info.shape.slice(axis + 1).reduce((a, b) => a * b, 1));
    this.length = info.shape.reduce((a, b) => a * b, 1);
    this.proposal = new Uint8Array(this.length);
    this.answer = this.proposal;
    this.edits = new Uint8Array(this.length); // 1: painted, 2: erased
    this.isReady = false; // the image is seen before its mask is there
    this.slices = new Map();
    this.asked = 0;
    this.pending = Promise.resolve(); // the last question to the server
  }

  /** Takes the mask that the server has, and the actions that were left without a decision. */
  async start(proposal, actions) {
    this.proposal = proposal;
    this.actions = actions;
    this.isReady = true;
    await this.update();
  }

  /** The actions since the mask was cleared, and whether the mask that was there still counts. */
  current() {
    const cleared = this.actions.findLastIndex((action) => action.kind === "clear");
    const actions = this.actions.slice(cleared + 1);
    // A first click on the object where the mask is already corrects nothing: it says that another one is wanted.
    const first = actions.find((action) => action.kind === "click");
    const isNoCorrection = first?.positive && this.proposal[this.index(first.points[0])] > 0;
    return { actions, fromMask: cleared < 0 && !isNoCorrection };
  }

  replay() {
    this.edits.fill(0);
    for (const action of this.current().actions) {
      if (action.kind === "paint") this.paint(action);
    }
  }

  paint(action) {
    for (const index of action.indices) this.edits[index] = action.value;
  }

  value(index) {
    return this.edits[index] ? this.edits[index] === 1 : this.answer[index] > 0;
  }

  mask() {
    const mask = new Uint8Array(this.length);
    for (let index = 0; index < mask.length; index++) mask[index] = this.value(index) ? 1 : 0;
    return mask;
  }

  index(point) {
    return point.reduce((sum, place, axis) => sum + place * this.strides[axis], 0);
  }

  clicks(positive) {
    return this.current().actions
      .filter((action) => action.kind === "click" && action.positive === positive)
      .flatMap((action) => action.points);
  }

  async act(action) {
    this.actions.push(action);
    this.undone = [];
    try {
      await this.update();
    } catch (error) {
      this.actions = this.actions.filter((one) => one !== action); // what the server refuses was never done
      this.replay();
      throw error;
    }
  }

  async undo() {
    if (!this.actions.length) return;
    this.undone.push(this.actions.pop());
    await this.update();
  }

  async redo() {
    if (!this.undone.length) return;
    this.actions.push(this.undone.pop());
    await this.update();
  }

  /** Takes the mask of all clicks from the server. */
  update() {
    this.pending = this.askAnew();
    return this.pending;
  }

  /** Asks the server for the mask of all clicks; an answer that is late is dropped. */
  async askAnew() {
    this.replay();
    const { fromMask } = this.current();
    const foreground = this.clicks(true);
    const background = this.clicks(false);
    const number = ++this.asked;
    if (!foreground.length && (!background.length || !fromMask)) {
      this.answer = fromMask ? this.proposal : new Uint8Array(this.length);
      return;
    }
    const body = JSON.stringify({ image: this.id, foreground, background, from_mask: fromMask });
    const options = { body, headers: { "Content-Type": "application/json" } };
    const answer = new Uint8Array(await (await post("click", options)).arrayBuffer());
    if (number === this.asked) this.answer = answer;
  }

  async slice(view, index) {
    const key = `${view} ${index}`;
    if (!this.slices.has(key)) {
      if (this.slices.size > 200) this.slices.clear();
      this.slices.set(key, await askBytes(query("slice", { image: this.id, view, index })));
    }
    return this.slices.get(key);
  }
}

// ---------------------------------------------------------------- drawing

/** The border between the pixels of a mask and all others, in pixels, as lines along rows and columns. */
function outlineOf(inside, width, height) {
  const outline = new Path2D();
  const follow = (lines, steps, isBorder, move) => {
    for (let line = 0; line <= lines; line++) {
      for (let step = 0, begin = -1; step <= steps; step++) {
        const is = step < steps && isBorder(line, step);
        if (is && begin < 0) begin = step;
        if (!is && begin >= 0) {
          move(line, begin, step);
          begin = -1;
        }
      }
    }
  };
  const at = (row, column) => (row >= 0 && row < height && column >= 0 && column < width ? inside[row * width + column] : 0);
  follow(height, width, (row, column) => at(row - 1, column) !== at(row, column), (row, from, to) => {
    outline.moveTo(from, row);
    outline.lineTo(to, row);
  });
  follow(width, height, (column, row) => at(row, column - 1) !== at(row, column), (column, from, to) => {
    outline.moveTo(column, from);
    outline.lineTo(column, to);
  });
  return outline;
}

class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.picture = document.createElement("canvas");
    this.overlay = document.createElement("canvas");
    this.outline = new Path2D();
    this.work = null;
    this.view = 0;
    this.index = 0;
    this.cursor = null;
    new ResizeObserver(() => this.fit()).observe(canvas);
  }

  get plane() {
    return this.work.info.views[this.view];
  }

  get height() {
    return this.work.info.shape[this.plane.row];
  }

  get width() {
    return this.work.info.shape[this.plane.column];
  }

  get count() {
    return this.plane.normal < 0 ? 1 : this.work.info.shape[this.plane.normal];
  }

  async open(work) {
    this.work = work;
    this.view = 0;
    this.cursor = null;
    this.window = [...work.info.window];
    this.middle = work.info.shape.map((side) => Math.floor(side / 2));
    this.index = this.middle[this.plane.normal] ?? 0;
    this.pixels = null;
    this.fit();
    await this.load();
  }

  close() {
    this.work = null;
    this.draw();
  }

  async turn(view) {
    this.view = view % this.work.info.views.length;
    this.cursor = null;
    this.index = this.middle[this.plane.normal] ?? 0; // where this plane was left, or the last click lies
    this.pixels = null;
    this.fit();
    await this.load();
  }

  async go(index) {
    this.index = Math.max(0, Math.min(this.count - 1, index));
    this.middle[this.plane.normal] = this.index;
    await this.load();
  }

  async load() {
    const { work, view, index } = this;
    const bytes = await work.slice(view, index);
    if (work !== this.work || view !== this.view || index !== this.index) return; // it is late
    this.pixels = work.info.colour ? new Uint8Array(bytes) : new Uint16Array(bytes);
    this.paintPicture();
    this.paintOverlay();
  }

  paintPicture() {
    const { width, height } = this;
    Object.assign(this.picture, { width, height });
    const shown = new ImageData(width, height);
    const { low, high, colour } = this.work.info;
    const span = (high - low) / 65535;
    const [dark, bright] = this.window;
    const scale = 255 / Math.max(bright - dark, 1e-9);
    for (let pixel = 0; pixel < width * height; pixel++) {
      for (let channel = 0; channel < 3; channel++) {
        const value = colour ? this.pixels[3 * pixel + channel] : low + this.pixels[pixel] * span;
        shown.data[4 * pixel + channel] = (value - dark) * scale;
      }
      shown.data[4 * pixel + 3] = 255;
    }
    this.picture.getContext("2d").putImageData(shown, 0, 0);
  }

  /** The place in the image's array of a pixel of the plane. */
  point(row, column) {
    const { plane, work } = this;
    const point = new Array(work.info.shape.length);
    if (plane.normal >= 0) point[plane.normal] = this.index;
    point[plane.row] = plane.flip_row ? this.height - 1 - row : row;
    point[plane.column] = plane.flip_column ? this.width - 1 - column : column;
    return point;
  }

  /** Which pixels of the plane belong to the mask: 1, else 0. */
  inside() {
    const { width, height, work } = this;
    const first = work.index(this.point(0, 0));
    const down = height > 1 ? work.index(this.point(1, 0)) - first : 0;
    const right = width > 1 ? work.index(this.point(0, 1)) - first : 0;
    const inside = new Uint8Array(width * height);
    for (let row = 0, pixel = 0; row < height; row++) {
      for (let column = 0; column < width; column++, pixel++) {
        if (work.value(first + row * down + column * right)) inside[pixel] = 1;
      }
    }
    return inside;
  }

  paintOverlay() {
    const { width, height } = this;
    Object.assign(this.overlay, { width, height });
    const inside = this.inside();
    const shown = new ImageData(width, height);
    const colour = [...MASK_COLOUR, 255];
    for (let pixel = 0; pixel < inside.length; pixel++) if (inside[pixel]) shown.data.set(colour, 4 * pixel);
    this.overlay.getContext("2d").putImageData(shown, 0, 0);
    this.outline = outlineOf(inside, width, height);
    this.draw();
  }

  /** Shows the whole image. */
  fit() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (!this.work) return;
    const { aspect } = this.plane;
    this.scale = Math.min(this.canvas.width / this.width, this.canvas.height / (this.height * aspect));
    this.left = (this.canvas.width - this.width * this.scale) / 2;
    this.top = (this.canvas.height - this.height * aspect * this.scale) / 2;
    this.draw();
  }

  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const scale = Math.max(0.02, Math.min(60, this.scale * factor));
    this.left = x - (x - this.left) * (scale / this.scale);
    this.top = y - (y - this.top) * (scale / this.scale);
    this.scale = scale;
    this.draw();
  }

  move(x, y) {
    this.left += x;
    this.top += y;
    this.draw();
  }

  draw() {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.work || !this.pixels) return;
    const height = this.scale * this.plane.aspect;
    context.setTransform(this.scale, 0, 0, height, this.left, this.top);
    context.imageSmoothingEnabled = this.scale < 3;
    context.drawImage(this.picture, 0, 0);
    context.imageSmoothingEnabled = false;
    if (!hidden) this.drawMask(height);
    context.setTransform(1, 0, 0, 1, 0, 0);
    this.drawEdges();
    for (const positive of [true, false]) this.drawClicks(positive);
    if (drag?.kind === "click") for (const point of drag.points) this.drawPoint(point, drag.positive);
    if (this.hover && tool !== "point") this.drawBrush(this.hover);
    if (this.cursor && tool !== "point") this.drawBrush(this.cursor);
    if (this.cursor) this.drawMark(this.cursor.row, this.cursor.column, "#4da3ff", 9, true);
  }

  /** The mask, and its outline, which is as wide on the screen at every zoom. */
  drawMask(height) {
    const { context } = this;
    const opacity = Number($("opacity").value) / 100;
    context.globalAlpha = opacity;
    context.drawImage(this.overlay, 0, 0);
    context.setTransform(1, 0, 0, 1, 0, 0);
    const placed = new Path2D();
    placed.addPath(this.outline, new DOMMatrix([this.scale, 0, 0, height, this.left, this.top]));
    context.globalAlpha = Math.min(1, 2 * opacity);
    context.lineWidth = OUTLINE_WIDTH * (window.devicePixelRatio || 1);
    context.strokeStyle = OUTLINE_COLOUR;
    context.stroke(placed);
    context.globalAlpha = 1;
  }

  drawClicks(positive) {
    for (const point of this.work.clicks(positive)) this.drawPoint(point, positive);
  }

  drawPoint(point, positive) {
    const { plane } = this;
    if (plane.normal >= 0 && point[plane.normal] !== this.index) return;
    const row = plane.flip_row ? this.height - 1 - point[plane.row] : point[plane.row];
    const column = plane.flip_column ? this.width - 1 - point[plane.column] : point[plane.column];
    this.drawMark(row, column, positive ? "#38e07b" : "#ff4d4d", 5, false);
  }

  /** How far the brush reaches. */
  drawBrush({ row, column }) {
    const { context } = this;
    const radius = (Number($("size").value) + 0.5) * this.scale;
    context.lineWidth = 1;
    context.strokeStyle = "#fff";
    context.beginPath();
    context.arc(this.left + (column + 0.5) * this.scale, this.top + (row + 0.5) * this.scale * this.plane.aspect, radius, 0, 2 * Math.PI);
    context.stroke();
  }

  /** Which side of the patient lies where. */
  drawEdges() {
    const { context, canvas } = this;
    const edge = 14 * (window.devicePixelRatio || 1);
    const places = [[edge, canvas.height / 2], [canvas.width - edge, canvas.height / 2], [canvas.width / 2, edge], [canvas.width / 2, canvas.height - edge]];
    context.font = `bold ${edge}px sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = 3;
    context.strokeStyle = "#000";
    context.fillStyle = "#fff";
    [...this.plane.edges].forEach((letter, side) => {
      context.strokeText(letter, ...places[side]);
      context.fillText(letter, ...places[side]);
    });
  }

  drawMark(row, column, colour, radius, isCross) {
    const { context } = this;
    const x = this.left + (column + 0.5) * this.scale;
    const y = this.top + (row + 0.5) * this.scale * this.plane.aspect;
    context.lineWidth = 2;
    context.strokeStyle = isCross ? colour : "#000";
    context.fillStyle = colour;
    context.beginPath();
    if (isCross) {
      context.moveTo(x - radius, y);
      context.lineTo(x + radius, y);
      context.moveTo(x, y - radius);
      context.lineTo(x, y + radius);
    } else {
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    }
    context.stroke();
  }

  /** The pixel of the plane under the mouse, and where the mouse is on the canvas. */
  place(event) {
    const ratio = this.canvas.width / this.canvas.clientWidth;
    const x = event.offsetX * ratio;
    const y = event.offsetY * ratio;
    const column = Math.floor((x - this.left) / this.scale);
    const row = Math.floor((y - this.top) / (this.scale * this.plane.aspect));
    return { x, y, row, column, inside: row >= 0 && column >= 0 && row < this.height && column < this.width };
  }

  /** The places in the mask of a disc around a pixel of the plane. */
  disc(row, column, radius) {
    const found = [];
    const reach = Math.ceil(radius / Math.min(1, this.plane.aspect));
    for (let y = Math.max(0, row - reach); y <= Math.min(this.height - 1, row + reach); y++) {
      for (let x = Math.max(0, column - reach); x <= Math.min(this.width - 1, column + reach); x++) {
        const away = Math.hypot((y - row) * this.plane.aspect, x - column);
        if (away < radius) found.push(this.work.index(this.point(y, x)));
      }
    }
    return found;
  }
}

// ---------------------------------------------------------------- the page

const viewer = new Viewer($("canvas"));
const drafts = new Map(); // actions of images that were left without a decision
const passed = new Set(); // images that were shown, and are not offered again while there are others
const rows = new Map(); // of the list, by image
let listed = [];
let opening = "";
let hidden = false;
let tool = "point";
let enough = 5;
let shownCounts = "";
let wasRunning = false;
let waiting = 0; // answers that are on their way

async function busy(action) {
  waiting++;
  tell();
  try {
    return await attempt(action);
  } finally {
    waiting--;
    tell();
  }
}

let server = { fitting: "", job: { running: false }, counts: { accepted: 0 } };

function tell() {
  const { job, fitting, counts } = server;
  const steps = job.total ? ` ${job.done} of ${job.total}` : "";
  let text = "ready";
  if (job.running) text = `${job.what}${steps} (${Math.round(job.seconds)} s)`;
  else if (fitting) text = `fitting ${fitting}: a few seconds`;
  else if (waiting) text = "the server is working";
  else if (job.error) text = `${job.what} ended: ${job.error}`;
  else if (job.note) text = `ready; ${job.note}`;
  else if (server.expected_dice) text = `ready; expected Dice of proposals ${server.expected_dice.toFixed(2)}, if the accepted images are like the others`;
  $("status").textContent = text;
  $("progress").hidden = !job.running;
  if (job.running && job.total) Object.assign($("progress"), { max: job.total, value: job.done });
  else $("progress").removeAttribute("value");
  const left = (counts.new ?? 0) + (counts.proposed ?? 0);
  $("counter").textContent = `${counts.accepted} of ${counts.accepted + left} accepted`;
  $("fit").disabled = job.running || !counts.new;
  $("propose").disabled = job.running || counts.accepted < enough || !left;
  $("propose").textContent = counts.accepted < enough
    ? `Propose all others (from ${enough} accepted)`
    : "Propose all others";
  $("stop").hidden = !job.running;
}

async function poll() {
  try {
    server = await askJson("status");
    if ($("error").textContent === GONE) complain(null);
    const counts = JSON.stringify(server.counts);
    const ended = wasRunning && !server.job.running;
    if (counts !== shownCounts || ended) await list();
    if (ended) passed.clear(); // there are other masks to see
    if (ended && server.job.error && server.job.error !== "stopped") complain(`${server.job.what}: ${server.job.error}`);
    if (ended && viewer.work && !viewer.work.actions.length) await open(viewer.work.id);
    wasRunning = server.job.running;
    shownCounts = counts;
    tell();
  } catch (error) {
    complain(error);
  }
  setTimeout(poll, POLL);
}

function byUncertainty(images) {
  const rank = (one) => [
    one.state === "accepted",
    one.note === "cannot be read",
    one.state === "new" && !!one.note, // rejected
    one.uncertainty === null,
    -(one.uncertainty ?? 0),
  ];
  return [...images].sort((a, b) => {
    const [first, second] = [rank(a), rank(b)];
    const differs = first.findIndex((value, place) => value !== second[place]);
    return differs < 0 ? 0 : first[differs] - second[differs];
  });
}

async function list() {
  const found = await askJson("images");
  enough = found.enough;
  $("folder").textContent = found.folder.split(/[\\/]/).filter(Boolean).pop();
  $("folder").title = `${found.folder}; accepted masks lie in labels/final`;
  listed = $("order").value === "name" ? found.images : byUncertainty(found.images);
  showList();
  if (!listed.length) $("caption").textContent = `There are no images in ${found.folder}`;
}

function rowOf(id) {
  const row = document.createElement("li");
  const button = document.createElement("button");
  button.dataset.image = id;
  const picture = document.createElement("img");
  Object.assign(picture, { loading: "lazy", alt: "", src: query("thumbnail", { image: id }) });
  const name = document.createElement("span");
  Object.assign(name, { className: "name", textContent: id, title: id });
  button.append(picture, name, document.createElement("span"));
  button.addEventListener("click", () => open(id));
  row.append(button);
  return row;
}

function showList() {
  for (const one of listed) {
    if (!rows.has(one.id)) rows.set(one.id, rowOf(one.id));
    const state = one.state === "new" && one.note ? one.note : one.state;
    const isSure = one.uncertainty === null || one.state === "accepted";
    const textContent = state + (isSure ? "" : `, uncertainty ${Number((100 * one.uncertainty).toPrecision(2))} %`);
    Object.assign(rows.get(one.id).querySelector("span:last-child"), { className: `state ${one.state}`, textContent });
  }
  const shown = listed.map((one) => rows.get(one.id));
  const now = $("images").children;
  if (shown.length !== now.length || shown.some((row, place) => row !== now[place])) $("images").replaceChildren(...shown);
  mark();
}

function mark() {
  for (const button of $("images").querySelectorAll("button")) {
    const isOpen = button.dataset.image === opening;
    button.setAttribute("aria-current", isOpen);
    if (isOpen) button.scrollIntoView({ block: "nearest" });
  }
}

function keepDraft() {
  if (!viewer.work?.isReady) return;
  if (viewer.work.actions.length) drafts.set(viewer.work.id, viewer.work.actions);
  else drafts.delete(viewer.work.id);
}

async function open(id) {
  keepDraft();
  if (opening && opening !== id) passed.add(opening);
  opening = id;
  $("caption").textContent = `opening ${id}`;
  await busy(async () => {
    const proposal = askBytes(query("mask", { image: id }));
    proposal.catch(() => {}); // it is told below, after what is wrong with the image itself
    const work = new Work(id, await askJson(query("image", { image: id })));
    if (opening !== id) return; // another one was chosen in the meantime
    await viewer.open(work);
    showTools();
    mark();
    await work.start(new Uint8Array(await proposal), drafts.get(id) ?? []);
    if (opening === id) viewer.paintOverlay();
  });
  if (opening !== id || (viewer.work?.id === id && viewer.work.isReady)) return;
  if (viewer.work?.id !== id) viewer.close();
  $("caption").textContent = viewer.work ? `${id}: no mask` : `${id} cannot be opened`;
  $("slices").hidden = !viewer.work;
  mark();
}

function showTools() {
  const { info, id } = viewer.work;
  $("caption").textContent = `${id} (${info.shape.join(" x ")})`;
  $("slices").hidden = info.shape.length < 3;
  $("views").replaceChildren(...info.views.map((view, number) => {
    const button = document.createElement("button");
    button.textContent = view.name;
    button.setAttribute("aria-pressed", number === viewer.view);
    button.addEventListener("click", () => turn(number));
    return button;
  }));
  $("slice").max = viewer.count - 1;
  showSlice();
  showWindow();
}

function showSlice() {
  $("slice").value = viewer.index;
  $("slice-number").textContent = `${viewer.index + 1} / ${viewer.count}`;
}

function showWindow() {
  const { low, high } = viewer.work.info;
  const share = (value) => Math.round(((value - low) / (high - low || 1)) * 1000);
  [$("low").value, $("high").value] = viewer.window.map(share);
  $("window").textContent = viewer.window.map((value) => Number(value.toPrecision(4))).join(" to ");
}

async function turn(view) {
  await busy(() => viewer.turn(view));
  showTools();
}

async function go(index) {
  await attempt(() => viewer.go(index));
  showSlice();
}

/** What can be worked on: the image that is seen, unless another one is being opened. */
function active() {
  return viewer.work?.isReady && viewer.work.id === opening ? viewer.work : null;
}

async function act(action) {
  const work = active();
  if (!work) return;
  if (action.kind === "click") viewer.middle = [...action.points[0]]; // the other planes follow
  await busy(async () => {
    const answered = work.act(action);
    viewer.draw(); // the click is seen at once
    await answered;
  });
  if (work === viewer.work) viewer.paintOverlay();
}

async function change(step) {
  const work = active();
  if (!work) return;
  await busy(() => work[step]());
  if (work === viewer.work) viewer.paintOverlay();
}

async function zipped(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function decide(path) {
  const work = active();
  if (!work) return;
  await busy(async () => {
    const isAccepted = path === "accept";
    await work.pending; // a click that is not answered yet counts, too
    const mask = work.mask();
    const was = listed.find((one) => one.id === work.id)?.state;
    if (isAccepted && !mask.includes(1) && !window.confirm("The mask is empty. Accept that there is no object?")) return;
    if (!isAccepted && was === "accepted" && !window.confirm(`Remove the accepted mask of ${work.id}?`)) return;
    const body = isAccepted ? { body: await zipped(mask) } : {};
    await post(query(path, { image: work.id }), body);
    drafts.delete(work.id);
    passed.delete(work.id);
    work.actions = [];
    await list();
    if (opening !== work.id) return; // a person was faster
    if (isAccepted) await next();
    else await open(work.id);
  });
}

async function next() {
  const before = opening;
  await list();
  if (opening !== before) return; // a person was faster
  const left = byUncertainty(listed).filter((one) => one.state !== "accepted" && one.id !== opening);
  if (left.every((one) => passed.has(one.id))) passed.clear(); // they come again
  const image = left.find((one) => !passed.has(one.id))?.id ?? opening;
  if (image) await open(image);
}

function neighbour(step) {
  const place = listed.findIndex((one) => one.id === opening);
  const other = listed[place + step];
  if (other) open(other.id);
}

function choose(name) {
  tool = name;
  for (const button of $("tools").children) button.setAttribute("aria-checked", button.dataset.tool === name);
}

// ---------------------------------------------------------------- the mouse

let drag = null;

function thinned(points) {
  const step = Math.max(1, (points.length - 1) / (STROKE_POINTS - 1));
  const kept = [];
  for (let place = 0; place < points.length; place += step) kept.push(points[Math.round(place)]);
  return kept;
}

function strokeTo(place) {
  const { row, column } = place;
  const last = drag.last ?? place;
  const steps = Math.max(1, Math.abs(row - last.row), Math.abs(column - last.column));
  for (let step = 1; step <= steps; step++) {
    const at = (end, begin) => Math.round(begin + ((end - begin) * step) / steps);
    const [y, x] = [at(row, last.row), at(column, last.column)];
    if (y < 0 || x < 0 || y >= viewer.height || x >= viewer.width) continue;
    if (drag.kind === "paint") drag.indices.push(...viewer.disc(y, x, Number($("size").value)));
    else drag.points.push(viewer.point(y, x));
  }
  drag.last = place;
  if (drag.kind === "click") viewer.draw();
  if (drag.kind === "paint") {
    viewer.work.paint(drag);
    viewer.paintOverlay();
  }
}

$("canvas").addEventListener("pointerdown", (event) => {
  if (!active()) return;
  $("canvas").setPointerCapture(event.pointerId);
  $("canvas").focus();
  const place = viewer.place(event);
  if (event.button === 1 || event.shiftKey) {
    drag = { kind: "move", last: place };
    event.preventDefault();
  } else if (place.inside) {
    const isLeft = event.button === 0;
    const erases = tool === "eraser" || !isLeft;
    drag = tool === "point"
      ? { kind: "click", positive: isLeft, points: [] }
      : { kind: "paint", value: erases ? 2 : 1, indices: [] };
    strokeTo(place);
  }
});

$("canvas").addEventListener("pointerleave", () => {
  viewer.hover = null;
  viewer.draw();
});

$("canvas").addEventListener("pointermove", (event) => {
  if (!viewer.work) return;
  const place = viewer.place(event);
  viewer.hover = place;
  if (!drag) {
    if (tool !== "point") viewer.draw();
    return;
  }
  if (drag.kind === "move") {
    viewer.move(place.x - drag.last.x, place.y - drag.last.y);
    drag.last = place;
  } else {
    strokeTo(place);
  }
});

$("canvas").addEventListener("pointerup", async () => {
  const done = drag;
  drag = null;
  if (done?.kind === "click") await act({ ...done, points: thinned(done.points), last: undefined });
  if (done?.kind === "paint") await act({ ...done, indices: [...new Set(done.indices)], last: undefined });
});

$("canvas").addEventListener("contextmenu", (event) => event.preventDefault());
$("canvas").addEventListener("wheel", (event) => {
  if (!viewer.work) return;
  event.preventDefault();
  const { x, y } = viewer.place(event);
  if (viewer.count > 1 && !event.ctrlKey) go(viewer.index + Math.sign(event.deltaY));
  else viewer.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, x, y);
}, { passive: false });

// ---------------------------------------------------------------- the keyboard

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function moveCursor(event) {
  const [down, right] = ARROWS[event.key];
  const { height, width } = viewer;
  const cursor = viewer.cursor ?? { row: Math.floor(height / 2), column: Math.floor(width / 2) };
  const step = (side) => (event.shiftKey ? 1 : Math.max(1, Math.round(side * KEYBOARD_STEP)));
  viewer.cursor = {
    row: Math.max(0, Math.min(height - 1, cursor.row + down * step(height))),
    column: Math.max(0, Math.min(width - 1, cursor.column + right * step(width))),
  };
  viewer.draw();
}

function clickCursor(positive) {
  if (!viewer.cursor) return;
  const { row, column } = viewer.cursor;
  if (tool === "point") act({ kind: "click", positive, points: [viewer.point(row, column)] });
  else {
    const value = tool === "eraser" || !positive ? 2 : 1;
    act({ kind: "paint", value, indices: viewer.disc(row, column, Number($("size").value)) });
  }
}

const KEYS = {
  a: () => decide("accept"),
  r: () => decide("reject"),
  n: () => busy(next),
  j: () => neighbour(1),
  k: () => neighbour(-1),
  1: () => choose("point"),
  2: () => choose("brush"),
  3: () => choose("eraser"),
  "[": () => { $("size").value = Number($("size").value) - 2; },
  "]": () => { $("size").value = Number($("size").value) + 2; },
  u: () => change("undo"),
  U: () => change("redo"),
  c: () => act({ kind: "clear" }),
  m: () => { hidden = !hidden; viewer.draw(); },
  v: () => turn(viewer.view + 1),
  PageUp: () => go(viewer.index - 1),
  PageDown: () => go(viewer.index + 1),
  "+": () => viewer.zoom(1.25),
  "-": () => viewer.zoom(1 / 1.25),
  0: () => viewer.fit(),
};

document.addEventListener("keydown", (event) => {
  if ($("help").open || event.altKey || event.metaKey) return;
  if (event.repeat && "arn".includes(event.key)) return; // a key that is held decides once
  const isTyping = ["SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (isTyping || (event.ctrlKey && event.key.toLowerCase() !== "z")) return;
  const onCanvas = event.target === $("canvas");
  if (event.ctrlKey) change(event.shiftKey ? "redo" : "undo");
  else if (onCanvas && viewer.work && event.key in ARROWS) moveCursor(event);
  else if (onCanvas && viewer.work && event.key === "Enter") clickCursor(!event.shiftKey);
  else if (KEYS[event.key] && (viewer.work || "jkn".includes(event.key))) KEYS[event.key]();
  else return;
  event.preventDefault();
});

// ---------------------------------------------------------------- buttons

for (const button of $("tools").children) button.addEventListener("click", () => choose(button.dataset.tool));
const grey = (value) => viewer.work.info.low + (value / 1000) * (viewer.work.info.high - viewer.work.info.low);
for (const [place, name] of ["low", "high"].entries()) {
  $(name).addEventListener("input", () => {
    if (!viewer.work) return;
    viewer.window[place] = grey(Number($(name).value));
    showWindow();
    viewer.paintPicture();
    viewer.draw();
  });
}
$("grey").addEventListener("click", () => {
  if (!viewer.work) return;
  viewer.window = [...viewer.work.info.window];
  showWindow();
  viewer.paintPicture();
  viewer.draw();
});
$("opacity").addEventListener("input", () => viewer.work && viewer.draw());
$("slice").addEventListener("input", () => go(Number($("slice").value)));
$("whole").addEventListener("click", () => viewer.fit());
$("undo").addEventListener("click", () => change("undo"));
$("redo").addEventListener("click", () => change("redo"));
$("clear").addEventListener("click", () => act({ kind: "clear" }));
$("accept").addEventListener("click", () => decide("accept"));
$("reject").addEventListener("click", () => decide("reject"));
$("next").addEventListener("click", () => busy(next));
$("order").addEventListener("change", () => attempt(list));
$("fit").addEventListener("click", () => attempt(() => post("fit")));
$("propose").addEventListener("click", () => attempt(() => post("propose")));
$("stop").addEventListener("click", () => attempt(() => post("stop")));
$("help-button").addEventListener("click", () => $("help").showModal());
$("with-proposals").addEventListener("change", (event) => {
  $("export").href = event.target.checked ? "export?proposals=true" : "export";
});
window.addEventListener("beforeunload", (event) => {
  keepDraft();
  if (drafts.size) event.preventDefault(); // clicks and strokes that are not accepted would be lost
});

await attempt(list);
poll();
if (listed.length) open((listed.find((one) => one.state !== "accepted") ?? listed[0]).id);

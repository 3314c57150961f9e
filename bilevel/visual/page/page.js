"use strict";

// What the page shows follows from `data`, which bilevel/visual/pages.py wrote, and from `state`,
// which pointers, keys and the four choices change. Words are those of the Python functions.

const data = JSON.parse(document.getElementById("data").textContent);
const [height, width] = data.size;
const state = { ...data.start, head: "mean", rank: "all", held: false };
const choices = ["stage", "block", "head", "rank"];
const views = [...document.querySelectorAll(".view")];
const svgName = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const block = () => data.stages[state.stage - 1][state.block];
const range = (count, first = 0) => Array.from({ length: count }, (_, i) => first + i);
const clamp = (value, most) => Math.max(0, Math.min(most, value));

// ---- where things are -------------------------------------------------------------------------

/** The token [row, column] that a pixel belongs to. */
function tokenAt(x, y) {
  const [rows, columns] = block().tokens;
  const place = (pixel, most) => Math.min(Math.floor(pixel / block().stride), most - 1);
  return [place(y, rows), place(x, columns)];
}

/** The region of a token, and the token's row and column in it. */
function regionOf([row, column]) {
  const inside = ([[top, bottom], [left, right]]) =>
    top <= row && row < bottom && left <= column && column < right;
  const region = block().boxes.findIndex(inside);
  const [[top], [left]] = block().boxes[region];
  return { region, row: row - top, column: column - left };
}

/** Tokens [[top, bottom], [left, right]] in pixels; the last ones have what is left over. */
function inPixels([rows, columns]) {
  const [most, mostColumns] = block().tokens;
  const pixel = (token, tokens, pixels) => (token === tokens ? pixels : token * block().stride);
  const [top, bottom] = rows.map((row) => Math.min(pixel(row, most, height), height));
  const [left, right] = columns.map((column) => Math.min(pixel(column, mostColumns, width), width));
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/** The ranks that are shown, from 0. */
function ranks() {
  const count = block().routes[0].length;
  return state.rank === "all" ? range(count) : [state.rank - 1];
}

// ---- weights ------------------------------------------------------------------------------------

const unpacked = new Map();

/** The weights of a block as bytes: for each region, row and column in it, head, rank and token of
 * the routed region, the square root of the weight, of 255 for the largest of that query. */
async function weightsOf(of) {
  if (!unpacked.has(of)) {
    const packed = Uint8Array.from(atob(of.weights), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    unpacked.set(of, new Uint8Array(await new Response(stream).arrayBuffer()));
  }
  return unpacked.get(of);
}

/** Where the weights of a query begin. */
function firstWeight(of, { region, row, column }) {
  const [regionRows, regionColumns] = of.region_shape;
  const [down, across] = [Math.ceil(regionRows / of.every), Math.ceil(regionColumns / of.every)];
  const query =
    (region * down + Math.floor(row / of.every)) * across + Math.floor(column / of.every);
  const head = state.head === "mean" ? 0 : state.head + 1;
  return (query * of.slots + head) * of.routes[0].length * regionRows * regionColumns;
}

// ---- drawing ------------------------------------------------------------------------------------

const stops = [
  [0, 0, 4],
  [40, 17, 89],
  [114, 31, 129],
  [183, 55, 121],
  [241, 96, 93],
  [254, 175, 119],
  [252, 253, 191],
];

/** A colour for a strength from 0 to 1, from dark to bright. */
function colour(strength) {
  const place = strength * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const mixed = stops[low].map((c, i) => c + (stops[low + 1][i] - c) * (place - low));
  return `rgb(${mixed.map(Math.round).join(" ")} / ${0.3 + 0.6 * strength})`;
}

function shape(name, attributes, parent) {
  const made = document.createElementNS(svgName, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

function drawRoutes(query) {
  const svg = byId("routes").querySelector("svg");
  svg.replaceChildren();
  const routed = block().routes[query.region];
  const count = routed.length;
  const rects = block().boxes.map((box, region) =>
    shape("rect", { class: "region", "data-region": region, ...inPixels(box) }, svg),
  );
  for (const rank of ranks()) {
    const rect = rects[routed[rank]];
    rect.classList.add("routed");
    rect.dataset.rank = rank + 1;
    rect.style.setProperty("--shade", 0.6 - (0.45 * rank) / Math.max(1, count - 1));
  }
  rects[query.region].classList.add("query");
  svg.append(rects[query.region]); // in front
  if (count > 1) for (const rank of ranks()) drawRank(svg, block().boxes[routed[rank]], rank);
}

function drawRank(svg, box, rank) {
  const at = inPixels(box);
  if (!at.width || !at.height) return; // nothing but padding
  const size = Math.min(at.width, at.height) * 0.35;
  const middle = { x: at.x + at.width / 2, y: at.y + at.height / 2 };
  const how = { class: "rank", "font-size": size, "stroke-width": size / 6 };
  shape("text", { ...middle, ...how }, svg).textContent = rank + 1;
}

function drawToken([row, column]) {
  const at = inPixels([
    [row, row + 1],
    [column, column + 1],
  ]);
  for (const view of views) {
    const svg = view.querySelector("svg");
    if (view.id === "attention") svg.replaceChildren();
    shape("rect", { class: "token", ...at }, svg);
    shape("rect", { class: "token inner", ...at }, svg);
  }
}

async function drawAttention(query) {
  const of = block();
  byId("attention").setAttribute("aria-busy", "true");
  const weights = await weightsOf(of);
  if (of !== block()) return; // another was chosen meanwhile; its own call draws it
  const context = byId("attention").querySelector("canvas").getContext("2d");
  context.clearRect(0, 0, width, height);
  const [regionRows, regionColumns] = of.region_shape;
  const first = firstWeight(of, query);
  const strengths = new Map();
  for (const rank of ranks()) {
    const [[top, bottom], [left, right]] = of.boxes[of.routes[query.region][rank]];
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const token = (row - top) * regionColumns + column - left;
        const at = first + rank * regionRows * regionColumns + token;
        strengths.set(row * of.tokens[1] + column, weights[at] / 255);
      }
    }
  }
  for (const row of range(of.tokens[0])) {
    for (const column of range(of.tokens[1])) {
      const strength = strengths.get(row * of.tokens[1] + column) ?? 0;
      const box = inPixels([
        [row, row + 1],
        [column, column + 1],
      ]);
      context.fillStyle = colour(strength);
      context.fillRect(box.x, box.y, box.width, box.height);
    }
  }
  byId("attention").setAttribute("aria-busy", "false");
}

function say(token, query) {
  const of = block();
  const what = of.full
    ? "Attention is full: the token attends to every token."
    : `It attends to regions ${of.routes[query.region].join(", ")}, best first.`;
  const part = of.every > 1 ? ` Shown for one token in ${of.every} × ${of.every}.` : "";
  const held = state.held ? " Held." : "";
  byId("status").textContent =
    `Token in row ${token[0]}, column ${token[1]}, of region ${query.region}. ${what}${part}${held}`;
}

function draw() {
  const token = tokenAt(state.x, state.y);
  const query = regionOf(token);
  drawRoutes(query);
  drawToken(token);
  say(token, query);
  return drawAttention(query);
}

// ---- choices ------------------------------------------------------------------------------------

/** What may be chosen now, for each choice. */
function options() {
  const of = block();
  return {
    stage: range(data.stages.length, 1),
    block: range(data.stages[state.stage - 1].length),
    head: ["mean", ...range(of.slots - 1)],
    rank: ["all", ...range(of.routes[0].length, 1)],
  };
}

function showChoices() {
  for (const [name, values] of Object.entries(options())) {
    const made = values.map((value) => new Option(value, value, false, value === state[name]));
    byId(name).replaceChildren(...made);
  }
}

function choose(name, written) {
  state[name] = Number.isNaN(Number(written)) ? written : Number(written);
  if (name === "stage") state.block = data.stages[state.stage - 1].length - 1;
  const allowed = options();
  for (const each of ["head", "rank"]) {
    if (!allowed[each].includes(state[each])) state[each] = allowed[each][0];
  }
  showChoices();
  draw();
}

// ---- pointers and keys --------------------------------------------------------------------------

function point(event) {
  const box = event.currentTarget.getBoundingClientRect();
  state.x = clamp(Math.floor(((event.clientX - box.left) / box.width) * width), width - 1);
  state.y = clamp(Math.floor(((event.clientY - box.top) / box.height) * height), height - 1);
  draw();
}

const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function press(event) {
  if (event.key === "Escape") state.held = false;
  else if (event.key === "Enter" || event.key === " ") state.held = !state.held;
  else if (event.key in steps) step(steps[event.key], event.shiftKey);
  else return;
  event.preventDefault();
  draw();
}

/** To the next token, or to the first token of the next region that is there. */
function step([down, across], toRegion) {
  const { tokens, stride, boxes } = block();
  let [row, column] = tokenAt(state.x, state.y);
  if (toRegion) {
    const [[top, bottom], [left, right]] = boxes[regionOf([row, column]).region];
    if (down) row = down > 0 ? bottom : top - 1;
    if (across) column = across > 0 ? right : left - 1;
    row = clamp(row, tokens[0] - 1);
    column = clamp(column, tokens[1] - 1);
    const [[newTop], [newLeft]] = boxes[regionOf([row, column]).region];
    if (down) row = newTop;
    if (across) column = newLeft;
  } else {
    row += down;
    column += across;
  }
  const middle = (token, most) => clamp(token, most - 1) * stride + Math.floor(stride / 2);
  state.held = true;
  state.y = Math.min(middle(row, tokens[0]), height - 1);
  state.x = Math.min(middle(column, tokens[1]), width - 1);
}

function begin() {
  for (const view of views) {
    view.querySelector("img").src = data.picture;
    view.querySelector("svg").setAttribute("viewBox", `0 0 ${width} ${height}`);
    view.addEventListener("pointermove", (event) => {
      if (!state.held || event.pointerType === "touch") point(event);
    });
    view.addEventListener("click", (event) => {
      state.held = !state.held || event.pointerType === "touch";
      point(event);
    });
    view.addEventListener("keydown", press);
  }
  Object.assign(byId("attention").querySelector("canvas"), { width, height });
  for (const name of choices) {
    byId(name).addEventListener("change", (event) => choose(name, event.target.value));
  }
  showChoices();
  draw();
}

begin();

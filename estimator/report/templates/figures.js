"use strict";
// The figures, drawn as SVG and tables. Names come from the user's program: they are only ever set as text.
const DATA = JSON.parse(document.getElementById("data").textContent);
const UNITS = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [1024, "KiB"], [1, "B"]];
const CATEGORIES = {
  parameters: "parameters", buffers: "buffers", optimizer_state: "optimizer state", gradients: "gradients", inputs: "inputs",
  activations: "activations", temporaries: "temporaries", library_workspaces: "library workspaces",
  allocator_rounding: "allocator rounding", allocator_fragmentation: "allocator fragmentation", cuda_context: "CUDA context",
};

// ------------------------------------------------------------ words and numbers

const place = id => document.getElementById(id);
const whole = number => number.toLocaleString("en-US");
const tone = category => `var(--${category.replaceAll("_", "-")}, var(--quiet))`;
function size(bytes) {
  const count = Math.abs(bytes), [unit, name] = UNITS.find(([unit]) => count >= unit) || [1, "B"];
  return `${bytes < 0 ? "-" : ""}${unit === 1 ? count : (count / unit).toFixed(2)} ${name}`;
}
function label(category, device) {
  return category === "cuda_context" && device.kind === "cpu" ? "process baseline" : CATEGORIES[category] || category;
}
function shortened(text, most) { return text.length > most ? "…" + text.slice(1 - most) : text; }
function make(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}
function svg(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// ------------------------------------------------------------ what figures share

/** The plane of a figure: scales from zero to `mostX` and `mostY` (bytes), grid, and `add` to draw on it. */
function plane(id, { height, mostX, mostY, ticksX, left = 62, top = 12, bottom = 40, right = 12, nameX }) {
  const width = Math.max(280, place(id).clientWidth), root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const x = value => left + (width - left - right) * value / (mostX || 1), y = value => height - bottom - (height - top - bottom) * value / (mostY || 1);
  const add = (tag, attributes, text) => root.appendChild(svg(tag, attributes, text));
  const [unit, name] = UNITS.find(([unit]) => mostY >= unit) || [1, "B"];
  for (const tick of ticks(mostY / unit, 5)) {
    add("line", { class: tick ? "grid" : "axis", x1: left, x2: width - right, y1: y(tick * unit), y2: y(tick * unit) });
    add("text", { class: "tick", x: left - 8, y: y(tick * unit) + 4, "text-anchor": "end" }, `${tick} ${name}`);
  }
  if (ticksX) for (const tick of ticks(mostX, Math.max(3, Math.min(8, width / 90)))) add("text", { class: "tick", x: x(tick), y: height - bottom + 18, "text-anchor": "middle" }, whole(tick));
  if (nameX) add("text", { class: "tick", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, nameX);
  place(id).replaceChildren(root);
  return { root, add, x, y, left, right: width - right, top, bottom: height - bottom, width };
}
/** Round numbers from 0 up to `most`, about `count` of them. */
function ticks(most, count) {
  if (!(most > 0)) return [0];
  const power = 10 ** Math.floor(Math.log10(most / count)), step = [1, 2, 5, 10].map(n => n * power).find(n => most / n <= count);
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, i) => Number((i * step).toPrecision(6)));
}
/** A small note beside the pointer: a title and lines of [colour or "", words, figure]. */
function tip(event, title, lines) {
  const note = place("tip"), table = make("table");
  for (const [colour, words, figure] of lines) {
    const row = table.insertRow(), swatch = row.insertCell();
    if (colour) swatch.appendChild(make("i")).style.background = colour;
    row.append(make("td", words), make("td", figure || "", "number"));
  }
  note.replaceChildren(make("b", title), table);
  note.hidden = false;
  const { innerWidth, scrollX, scrollY } = window, wide = note.offsetWidth;
  note.style.left = `${scrollX + Math.max(8, Math.min(event.clientX + 16, innerWidth - wide - 24))}px`;
  note.style.top = `${scrollY + event.clientY + 18}px`;
}
function hide() { place("tip").hidden = true; }
function legend(id, entries) {
  const list = make("p", undefined, "legend");
  for (const [colour, words] of entries) {
    const entry = list.appendChild(make("span")), swatch = entry.appendChild(make("i"));
    swatch.style.background = colour;
    entry.append(words);
  }
  place(id).append(list);
}
function nothing(id, why) { place(id).replaceChildren(make("p", why, "quiet")); }

// ------------------------------------------------------------ the figures

function drawCurve(cell) {
  const device = DATA.devices[cell.device], points = cell.curve, limit = cell.capacity_bytes, last = points[points.length - 1];
  const p = plane("curve", { height: 320, mostX: last[0] * 1.04, mostY: Math.max(limit * 1.12, ...points.map(q => q[3])) * 1.02, ticksX: true, nameX: "batch size" });
  p.add("rect", { class: "over", x: p.left, y: p.top, width: p.right - p.left, height: p.y(limit) - p.top });
  const at = key => q => `${p.x(q[0]).toFixed(1)},${p.y(q[key]).toFixed(1)}`, fitting = points.filter(q => q[4]), failing = points.filter(q => !q[4]);
  p.add("polygon", { class: "band", points: [...points.map(at(3)), ...[...points].reverse().map(at(2))].join(" ") });
  p.add("polyline", { class: "curve failing", points: [...fitting.slice(-1), ...failing].map(at(1)).join(" ") });
  p.add("polyline", { class: "curve", points: fitting.map(at(1)).join(" ") });
  p.add("line", { class: "limit", x1: p.left, x2: p.right, y1: p.y(limit), y2: p.y(limit) });
  p.add("text", { class: "limit-name", x: p.left + 6, y: p.y(limit) - 6 }, `${device.title}: ${size(limit)}`);
  if (cell.fits && !cell.unlimited) {
    const x = p.x(cell.max_batch_size);
    p.add("line", { class: "mark", x1: x, x2: x, y1: p.y(limit), y2: p.bottom });
    p.add("text", { class: "tick", x: x - 6, y: p.bottom - 8, "text-anchor": "end" }, `largest: ${whole(cell.max_batch_size)}`);
  }
  for (const q of points) {
    p.add("circle", { class: q[4] ? "dot" : "dot failing", cx: p.x(q[0]), cy: p.y(q[1]), r: 3.6 });
    const hit = p.add("circle", { class: "hit", cx: p.x(q[0]), cy: p.y(q[1]), r: 13 });
    hit.addEventListener("pointermove", event => tip(event, `batch ${whole(q[0])}${q[4] ? "" : ": does not fit"}`, [["", "device memory", size(q[1])], ["", "low end", size(q[2])], ["", "high end", size(q[3])]]));
    hit.addEventListener("pointerleave", hide);
  }
}

function drawTimeline(cell) {
  const device = DATA.devices[cell.device], line = cell.timeline, count = line.events.length;
  const names = Object.keys(CATEGORIES).filter(name => name in line.changes);
  const values = names.map(name => { let kib = 0; return line.changes[name].map(change => (kib += change) * 1024); });
  const totals = Array.from({ length: count }, (_, i) => values.reduce((sum, of) => sum + of[i], 0));
  const peak = totals.indexOf(Math.max(...totals));
  const p = plane("timeline", { height: 330, mostX: count, mostY: totals[peak] * 1.1, top: 26, bottom: 26, nameX: "allocations and frees of the step, in order" });
  let floor = new Array(count).fill(0);
  names.forEach((name, index) => {
    const top = floor.map((below, i) => below + values[index][i]), steps = of => of.map((v, i) => `${p.x(i).toFixed(1)},${p.y(v).toFixed(1)} ${p.x(i + 1).toFixed(1)},${p.y(v).toFixed(1)}`);
    const back = floor.map((v, i) => `${p.x(i + 1).toFixed(1)},${p.y(v).toFixed(1)} ${p.x(i).toFixed(1)},${p.y(v).toFixed(1)}`).reverse();
    p.add("polygon", { class: "area", style: `fill: ${tone(name)}`, points: [...steps(top), ...back].join(" ") });
    floor = top;
  });
  line.phases.forEach(([name, start], index) => {
    const end = index + 1 < line.phases.length ? line.phases[index + 1][1] : count;
    if (index) p.add("line", { class: "mark", x1: p.x(start), x2: p.x(start), y1: p.top - 14, y2: p.bottom });
    if (p.x(end) - p.x(start) > 7 * name.length) p.add("text", { class: "tick", x: p.x((start + end) / 2), y: p.top - 8, "text-anchor": "middle" }, name);
  });
  const late = peak > count * .7;
  p.add("circle", { class: "peak", cx: p.x(peak + .5), cy: p.y(totals[peak]), r: 3.6 });
  p.add("text", { class: "peak-name", x: p.x(peak + .5) + (late ? -9 : 9), y: p.y(totals[peak]) + 4, "text-anchor": late ? "end" : "start" }, `peak ${size(totals[peak])}`);
  const cursor = p.add("line", { class: "cursor", y1: p.top, y2: p.bottom, visibility: "hidden" });
  const over = p.add("rect", { class: "hit", x: p.left, y: p.top, width: p.right - p.left, height: p.bottom - p.top });
  over.addEventListener("pointermove", event => {
    const shown = (event.clientX - p.root.getBoundingClientRect().left - p.left) / (p.right - p.left);
    const i = Math.max(0, Math.min(count - 1, Math.floor(shown * count))), phase = line.phases.filter(entry => entry[1] <= i).pop();
    cursor.setAttribute("x1", p.x(i + .5)); cursor.setAttribute("x2", p.x(i + .5)); cursor.setAttribute("visibility", "visible");
    const lines = names.map((name, k) => [tone(name), label(name, device), values[k][i]]).filter(entry => entry[2]).reverse();
    tip(event, `${phase ? phase[0] + ": " : ""}${size(totals[i])}`, lines.map(([colour, words, bytes]) => [colour, words, size(bytes)]));
  });
  over.addEventListener("pointerleave", () => { hide(); cursor.setAttribute("visibility", "hidden"); });
  legend("timeline", names.map(name => [tone(name), label(name, device)]));
  place("timeline-note").textContent = `requested bytes at batch ${whole(line.batch_size)}${line.step ? ", " + line.step : ""}; each point is the highest of its stretch`;
}

function drawModules(cell) {
  const sum = row => row[1] + row[2] + row[3], most = Math.max(0, ...cell.modules.map(sum));
  const rows = cell.modules.filter(row => sum(row) > most / 500).slice(0, 16), step = 25;
  if (!rows.length) return nothing("modules", "No module keeps anything alive at the peak.");
  const letters = Math.min(48, Math.max(...rows.map(row => row[0].length)), Math.floor(place("modules").clientWidth * .4 / 7));
  const p = plane("modules", { height: rows.length * step + 34, mostX: most, mostY: 0, left: 7 * letters + 22, right: 84, top: 4, bottom: 30 });
  const parts = [[1, "parameters"], [2, "activations"], [3, "temporaries"]];
  p.root.replaceChildren();
  const [unit, name] = UNITS.find(([unit]) => most >= unit) || [1, "B"];
  for (const tick of ticks(most / unit, 5)) {
    p.add("line", { class: tick ? "grid" : "axis", x1: p.x(tick * unit), x2: p.x(tick * unit), y1: 2, y2: rows.length * step + 6 });
    p.add("text", { class: "tick", x: p.x(tick * unit), y: rows.length * step + 24, "text-anchor": "middle" }, `${tick} ${name}`);
  }
  rows.forEach((row, index) => {
    const y = index * step + 6;
    let from = 0;
    for (const [key, category] of parts) {
      if (row[key]) p.add("rect", { class: "bar", style: `fill: ${tone(category)}`, x: p.x(from), y, width: Math.max(.8, p.x(from + row[key]) - p.x(from)), height: step - 9 });
      from += row[key];
    }
    p.add("text", { class: "name", x: p.left - 10, y: y + 12, "text-anchor": "end" }, shortened(row[0], letters));
    p.add("text", { class: "tick", x: p.x(from) + 7, y: y + 12 }, size(from));
    const hit = p.add("rect", { class: "hit", x: 0, y: y - 4, width: p.width, height: step });
    hit.addEventListener("pointermove", event => tip(event, row[0], parts.map(([key, category]) => [tone(category), category, size(row[key])])));
    hit.addEventListener("pointerleave", hide);
  });
  legend("modules", parts.map(([, category]) => [tone(category), category]));
}

/** A table: a row a job with its settings, a column a device, darker where a larger batch fits. */
function drawHeatmap(settings, choose) {
  const rows = new Map(), devices = DATA.order;
  for (const cell of DATA.cells) {
    const key = `${cell.job}\n${cell.settings}`;
    if (settings !== "" && cell.settings !== settings) continue;
    if (!rows.has(key)) rows.set(key, new Map());
    rows.get(key).set(cell.device, cell);
  }
  const scaled = cell => cell && cell.fits && !cell.unlimited ? Math.log10(cell.max_batch_size) : null;
  const known = [...rows.values()].flatMap(row => [...row.values()].map(scaled)).filter(value => value !== null);
  const most = Math.max(...known), least = Math.min(...known), has_settings = [...rows.keys()].some(key => !key.endsWith("\n"));
  const word = cell => cell.status === "error" ? "–" : cell.status === "pending" ? "…" : cell.unlimited ? "any" : whole(cell.max_batch_size);
  const table = make("table", undefined, "heat"), head = table.createTHead().insertRow(), body = table.createTBody();
  const heads = ["Job", ...(has_settings ? ["Settings"] : []), ...devices];
  head.append(...heads.map((name, index) => { const made = make("th", name); made.scope = "col"; made.className = index < heads.length - devices.length ? "" : "device"; return made; }));
  let before = null;
  for (const row of rows.values()) {
    const first = row.values().next().value, line = body.insertRow(), job = make("th", first.job, "job"), same = first.job === before;
    job.scope = "row";
    if (same) job.classList.add("same");
    else line.className = "first";
    line.append(job, ...(has_settings ? [make("td", first.settings || "as the job says", "settings")] : []));
    before = first.job;
    for (const device of devices) {
      const cell = row.get(device), box = line.insertCell();
      if (!cell) continue;
      const button = box.appendChild(make("button", word(cell))), value = scaled(cell);
      button.type = "button";
      button.dataset.index = cell.index;
      button.className = cell.status === "does not fit" ? "none" : value === null ? "other" : "";
      if (value !== null) {
        const heat = most > least ? (value - least) / (most - least) : .5;
        button.style.setProperty("--heat", `${(100 * heat).toFixed(1)}%`);
        button.classList.toggle("strong", heat > .45);
      }
      button.title = `${cell.job}${cell.settings ? ", " + cell.settings : ""} on ${DATA.devices[device].title}: ${
        cell.max_batch_size === null ? cell.status : cell.unlimited ? "memory does not limit it" : cell.fits ? "batch " + whole(cell.max_batch_size) : "not even one sample fits"}`;
      button.disabled = !cell.curve;
      button.addEventListener("click", () => choose(cell.index));
    }
  }
  place("heatmap").replaceChildren(table);
}

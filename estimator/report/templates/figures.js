"use strict";
// The plots of one cell, and the heatmap of all. Names come from the user's program: they are escaped for Plotly, which
// reads some HTML in its texts, and are set as textContent everywhere else.
const DATA = JSON.parse(document.getElementById("data").textContent);
const GIB = 2 ** 30;
const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const CATEGORIES = {
  parameters: ["#4c6f9c", "parameters"], buffers: ["#98a6b3", "buffers"], optimizer_state: ["#8a78b0", "optimizer state"],
  gradients: ["#b884a6", "gradients"], inputs: ["#5fa8a0", "inputs"], activations: ["#dda555", "activations"],
  temporaries: ["#cf7a5f", "temporaries"], library_workspaces: ["#87975f", "library workspaces"],
  allocator_rounding: ["#b5b3ac", "allocator rounding"], allocator_fragmentation: ["#99968e", "allocator fragmentation"],
  cuda_context: ["#75797f", "CUDA context"],
};
const CONFIG = { displayModeBar: false, responsive: true };

function escaped(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}
function size(bytes) {
  const sign = bytes < 0 ? "-" : "", count = Math.abs(bytes);
  for (const [unit, name] of [[2 ** 40, "TiB"], [GIB, "GiB"], [2 ** 20, "MiB"], [1024, "KiB"]])
    if (count >= unit) return sign + (count / unit).toFixed(2) + " " + name;
  return sign + count + " B";
}
function whole(number) { return number.toLocaleString("en-US"); }
function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
function label(category, device) {
  return category === "cuda_context" && device.kind === "cpu" ? "process baseline" : (CATEGORIES[category] || [0, category])[1];
}
function layout(more) {
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true, fixedrange: true };
  const { xaxis = {}, yaxis = {}, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
    margin: { l: 58, r: 16, t: 14, b: 44 }, hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink") }, align: "left" },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}
function nothing(id, why) {
  Plotly.purge(id);
  document.getElementById(id).replaceChildren(Object.assign(document.createElement("p"), { className: "quiet", textContent: why }));
}
function draw(id, traces, more) {
  const place = document.getElementById(id);
  if (!place.classList.contains("js-plotly-plot")) place.replaceChildren();
  return Plotly.react(place, traces, layout(more), CONFIG);
}

function drawCurve(cell) {
  const device = DATA.devices[cell.device], points = cell.curve;
  const xs = points.map(p => p[0]), limit = cell.capacity_bytes / GIB, hover = points.map(p =>
    `batch ${whole(p[0])}<br>${size(p[1])} (${size(p[2])} to ${size(p[3])})<br>${p[4] ? "fits" : "does not fit"}`);
  const at = (key, fits) => points.map(p => fits === undefined || p[4] === fits ? p[key] / GIB : null);
  const line = colour("--accent"), bad = colour("--bad");
  const band = { mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false, type: "scatter", x: xs };
  const curve = (fits, tone, dash) => ({
    type: "scatter", mode: "lines+markers", x: xs, y: at(1, fits), line: { color: tone, width: 2, dash }, marker: { color: tone, size: 7 },
    text: hover, hovertemplate: "%{text}<extra></extra>", showlegend: false,
  });
  const annotations = [{
    xref: "paper", x: 0, y: limit, xanchor: "left", yanchor: "bottom", showarrow: false, font: { color: bad },
    text: `${escaped(device.title)}: ${size(cell.capacity_bytes)}`,
  }];
  const shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: limit, y1: limit, line: { color: bad, width: 1.5, dash: "dash" } }];
  if (cell.fits && !cell.unlimited) {
    shapes.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: cell.max_batch_size, x1: cell.max_batch_size, line: { color: colour("--quiet"), width: 1, dash: "dot" } });
    annotations.push({ x: cell.max_batch_size, yref: "paper", y: .02, xanchor: "right", yanchor: "bottom", showarrow: false, text: `largest ${whole(cell.max_batch_size)} `, font: { color: colour("--quiet") } });
  }
  return draw("curve", [
    { ...band, y: at(2, true) },
    { ...band, y: at(3, true), fill: "tonexty", fillcolor: line + "2e" },
    curve(true, line, "solid"), curve(false, bad, "dot"),
  ], { height: 330, xaxis: { title: { text: "batch size" }, rangemode: "tozero" }, yaxis: { title: { text: "GiB" }, rangemode: "tozero" }, shapes, annotations });
}

function drawTimeline(cell) {
  const device = DATA.devices[cell.device], line = cell.timeline, names = Object.keys(CATEGORIES).filter(name => name in line.changes);
  const count = line.events.length, xs = Array.from({ length: count }, (_, i) => i);
  const traces = names.map(name => {
    let kib = 0;
    const values = line.changes[name].map(change => (kib += change));
    return {
      type: "scatter", mode: "lines", stackgroup: "step", name: label(name, device), x: xs, y: values.map(v => v / 2 ** 20),
      line: { width: 0, shape: "hv" }, fillcolor: CATEGORIES[name][0], text: values.map(v => size(v * 1024)), hovertemplate: "%{text}",
    };
  });
  const shapes = [], annotations = [];
  line.phases.forEach(([name, start], index) => {
    const end = index + 1 < line.phases.length ? line.phases[index + 1][1] : count - 1;
    if (index) shapes.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: start, x1: start, line: { color: colour("--quiet"), width: 1, dash: "dot" } });
    if (end - start >= count / 24) annotations.push({ x: (start + end) / 2, yref: "paper", y: 1, yanchor: "bottom", showarrow: false, text: escaped(name), font: { color: colour("--quiet"), size: 11 } });
  });
  document.getElementById("timeline-note").textContent = `requested bytes at batch ${whole(line.batch_size)}${line.step ? ", " + line.step : ""}; each point the highest of its stretch`;
  return draw("timeline", traces, {
    height: 330, hovermode: "x unified", margin: { l: 58, r: 16, t: 24, b: 64 }, shapes, annotations,
    xaxis: { showticklabels: false, showgrid: false, title: { text: "allocations and frees, in order", standoff: 6 }, unifiedhovertitle: { text: "" } },
    yaxis: { title: { text: "GiB" }, rangemode: "tozero" }, legend: { orientation: "h", y: -.16, yanchor: "top", traceorder: "normal" },
  });
}

function drawModules(cell) {
  const sum = row => row[1] + row[2] + row[3], most = Math.max(0, ...cell.modules.map(sum));
  const rows = cell.modules.filter(row => sum(row) > most / 500).slice(0, 16).reverse();
  if (!rows.length) return nothing("modules", "No module keeps anything alive at the peak.");
  const names = rows.map(row => escaped(row[0].length > 56 ? "…" + row[0].slice(-55) : row[0]));
  const traces = [[1, "parameters"], [2, "activations"], [3, "temporaries"]].map(([key, name]) => ({
    type: "bar", orientation: "h", name, y: rows.map((_, i) => i), x: rows.map(row => row[key] / GIB), marker: { color: CATEGORIES[name][0] },
    text: rows.map(row => size(row[key])), textposition: "none", hovertemplate: "%{text}",
  }));
  return draw("modules", traces, {
    barmode: "stack", bargap: .3, height: 90 + 24 * rows.length, hovermode: "y unified", margin: { l: 58, r: 16, t: 6, b: 60 },
    xaxis: { title: { text: "GiB" } }, yaxis: { tickvals: rows.map((_, i) => i), ticktext: names, ticklabelstandoff: 6 },
    legend: { orientation: "h", y: 1, yanchor: "bottom", traceorder: "normal" },
  });
}

function drawHeatmap(settings, choose) {
  const keys = new Map(), devices = DATA.order;
  for (const cell of DATA.cells) {
    if (settings !== "" && cell.settings !== settings) continue;
    const name = settings !== "" || !cell.settings ? cell.job : `${cell.job} · ${cell.settings}`;
    if (!keys.has(name)) keys.set(name, new Map());
    keys.get(name).set(cell.device, cell);
  }
  const names = [...keys.keys()].reverse();
  const table = of => names.map(name => devices.map(device => of(keys.get(name).get(device))));
  const short = n => n >= 1e6 ? (n / 1e6).toPrecision(3) + "M" : n >= 1e5 ? Math.round(n / 1e3) + "k" : whole(n);
  const text = table(c => !c ? "" : c.status === "error" ? "–" : c.status === "pending" ? "…" : c.unlimited ? "any" : short(c.max_batch_size));
  const hover = table(c => !c ? "" : `${escaped(c.job)}${c.settings ? "<br>" + escaped(c.settings) : ""}<br>${escaped(DATA.devices[c.device].title)}<br><b>${
    c.max_batch_size === null ? escaped(c.status) : c.unlimited ? "memory does not limit it" : whole(c.max_batch_size)}</b>`);
  const high = DARK.matches ? "#5f97cf" : "#2a5b8c", low = DARK.matches ? "#20303f" : "#e8eff5", none = DARK.matches ? "#4a2623" : "#f6dcd8";
  const logs = table(c => c && c.fits && !c.unlimited ? Math.log10(c.max_batch_size) : null);
  const failed = table(c => c && c.status === "does not fit" ? 1 : null), free = table(c => c && c.unlimited ? 1 : null);
  const known = logs.flat().filter(v => v !== null), most = Math.max(1, ...known), least = Math.min(most - .5, ...known);
  // Light words where the ground is dark: strong cells of the light scheme, weak and failed ones of the dark.
  const is_light = v => DARK.matches ? v === null || (v - least) / (most - least) < .6 : v !== null && (v - least) / (most - least) > .6;
  const ys = names.map((_, i) => i), xs = devices.map((_, i) => i);
  const base = { type: "heatmap", x: xs, y: ys, xgap: 2, ygap: 2, showscale: false };
  draw("heatmap", [
    { ...base, z: failed, zmin: 0, zmax: 1, colorscale: [[0, none], [1, none]], hoverinfo: "skip" },
    { ...base, z: free, zmin: 0, zmax: 1, colorscale: [[0, colour("--line")], [1, colour("--line")]], hoverinfo: "skip" },
    { ...base, z: logs, zmin: least, zmax: most, colorscale: [[0, low], [1, high]], hoverinfo: "skip" },
    ...[false, true].map(light => ({
      ...base, z: table(() => 0), colorscale: [[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]], customdata: hover, texttemplate: "%{text}",
      text: text.map((row, y) => row.map((word, x) => light === is_light(logs[y][x]) ? word : "")),
      textfont: { color: light ? "#ffffff" : "#1f2328" }, hovertemplate: "%{customdata}<extra></extra>",
    })),
  ], {
    height: 64 + 27 * names.length, margin: { l: 20, r: 16, t: 44, b: 8 },
    xaxis: { side: "top", tickvals: xs, ticktext: devices.map(d => escaped(DATA.devices[d].name)), showgrid: false, zeroline: false, ticks: "" },
    yaxis: { tickvals: ys, ticktext: names.map(n => escaped(n.length > 64 ? n.slice(0, 63) + "…" : n)), showgrid: false, zeroline: false, ticks: "", ticklabelstandoff: 6 },
  });
  const place = document.getElementById("heatmap");
  place.removeAllListeners("plotly_click");
  place.on("plotly_click", event => {
    const { x, y } = event.points[0], cell = keys.get(names[y]).get(devices[x]);
    if (cell) choose(cell.index);
  });
}

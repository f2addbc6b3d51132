"use strict";
// The figures, as plotly.js draws them. Names come from the user's program: plotly reads markup in texts, so each name
// goes through `plain` first, and never into a template.
const DATA = JSON.parse(document.getElementById("data").textContent);
const UNITS = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [1024, "KiB"], [1, "B"]];
const CATEGORIES = {
  parameters: "parameters", buffers: "buffers", optimizer_state: "optimizer state", gradients: "gradients", inputs: "inputs",
  activations: "activations", temporaries: "temporaries", library_workspaces: "library workspaces",
  allocator_rounding: "allocator rounding", allocator_fragmentation: "allocator fragmentation", cuda_context: "CUDA context",
  nccl: "NCCL communicator",
};

// ------------------------------------------------------------ words, numbers, colours

const place = id => document.getElementById(id);
const whole = number => number.toLocaleString("en-US");
const css = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const tone = category => css(category.replaceAll("_", "-")) || css("quiet");
const plain = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
function size(bytes) {
  const count = Math.abs(bytes), [unit, name] = UNITS.find(([unit]) => count >= unit) || [1, "B"];
  return `${bytes < 0 ? "-" : ""}${unit === 1 ? count : (count / unit).toFixed(2)} ${name}`;
}
/** What an axis up to so many bytes is counted in: [bytes, name]. */
const unitOf = most => UNITS.find(([unit]) => most >= unit) || [1, "B"];
function label(category, device) {
  return category === "cuda_context" && device.kind === "cpu" ? "process baseline" : CATEGORIES[category] || category;
}
/** The last letters of a name that is too long, which in a path of modules tell it from its neighbours. */
function shortened(text, most) { return text.length > most ? "…" + text.slice(1 - most) : text; }
function make(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}
function nothing(id, why) {
  Plotly.purge(place(id));
  place(id).replaceChildren(make("p", why, "quiet"));
}

// ------------------------------------------------------------ what figures share

/** Draw, or draw anew: where the page's width or colours change, or another cell is chosen. */
function draw(id, traces, layout, name) {
  const ink = css("ink"), quiet = css("quiet"), line = css("line"), font = getComputedStyle(document.body).fontFamily;
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: quiet, tickfont: { color: quiet }, title: { font: { color: quiet, size: 12 } }, automargin: true };
  const whole = {
    font: { family: font, size: 12, color: ink }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 10, r: 14, t: 30, b: 62, pad: 4 }, autosize: true, separators: ".,", hoverlabel: {
      bgcolor: css("panel"), bordercolor: quiet, font: { family: font, size: 12, color: ink }, align: "left", namelength: -1,
    },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 0, yanchor: "bottom", yref: "container", traceorder: "normal", font: { color: quiet } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: css("accent") }, ...layout,
    xaxis: { ...axis, ...layout.xaxis, title: { ...axis.title, ...layout.xaxis?.title } },
    yaxis: { ...axis, ...layout.yaxis, title: { ...axis.title, ...layout.yaxis?.title } },
  };
  const box = place(id), filename = name || id, save = format => ({
    name: format, title: `Save as ${format.toUpperCase()}`, icon: Plotly.Icons[format === "svg" ? "disk" : "camera"],
    click: of => Plotly.downloadImage(of, { format, filename, width: of.offsetWidth, height: of.offsetHeight, scale: format === "svg" ? 1 : 2 }),
  });
  const config = {
    responsive: true, displaylogo: false, displayModeBar: "hover", doubleClickDelay: 400, modeBarButtons: [[save("svg"), save("png")], ["zoom2d", "pan2d", "resetScale2d"]],
  };
  if (!box.classList.contains("js-plotly-plot")) box.replaceChildren();
  box.style.height = `${layout.height}px`;
  return Plotly.react(box, traces, whole, config);
}
/** A colour that lets through what lies behind it. */
function faint(colour, share) {
  const [r, g, b] = [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${share})`;
}

// ------------------------------------------------------------ the figures

function drawCurve(cell) {
  const device = DATA.devices[cell.device], limit = cell.capacity_bytes, points = cell.curve;
  const [unit, name] = unitOf(Math.max(limit, ...points.map(point => point[3])));
  const fitting = points.filter(point => point[4]), failing = [...fitting.slice(-1), ...points.filter(point => !point[4])];
  const line = (of, key) => ({ x: of.map(point => point[0]), y: of.map(point => point[key] / unit) });
  const said = of => of.map(point => `batch ${whole(point[0])}${point[4] ? "" : ": does not fit"}<br>device memory ${size(point[1])}<br>from ${size(point[2])} to ${size(point[3])}`);
  const accent = css("accent"), bad = css("bad"), most = 1.04 * Math.max(limit * 1.1, ...points.map(point => point[3])) / unit;
  const traces = [
    { ...line(points, 3), mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false },
    { ...line(points, 2), mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: faint(accent, .2), hoverinfo: "skip", name: "interval" },
    { ...line(fitting, 1), mode: "lines+markers", line: { color: accent, width: 2.4 }, marker: { size: 7 }, hovertext: said(fitting), hoverinfo: "text", name: "fits" },
    { ...line(failing, 1), mode: "lines+markers", line: { color: bad, width: 2, dash: "dot" }, marker: { size: failing.map(point => point[4] ? 0 : 7) }, hovertext: said(failing), hoverinfo: "text", name: "would need" },
    { x: [0, 1.06 * points[points.length - 1][0]], y: [limit / unit, limit / unit], mode: "lines", line: { color: bad, width: 1.6, dash: "dash" }, hoverinfo: "skip", name: "limit", showlegend: false },
  ].filter(trace => trace.x.length);
  const annotations = [{ x: 0, xref: "paper", xanchor: "left", y: limit / unit, yanchor: "bottom", showarrow: false, text: `${plain(device.title)}: ${size(limit)}`, font: { color: bad } }];
  const shapes = [{ type: "rect", xref: "paper", x0: 0, x1: 1, y0: limit / unit, y1: most, fillcolor: faint(bad, .07), line: { width: 0 }, layer: "below" }];
  if (cell.fits && !cell.unlimited) {
    shapes.push({ type: "line", x0: cell.max_batch_size, x1: cell.max_batch_size, y0: 0, y1: limit / unit, line: { color: css("quiet"), width: 1, dash: "dot" }, layer: "below" });
    annotations.push({ x: cell.max_batch_size, xanchor: "right", y: 0, yanchor: "bottom", showarrow: false, text: `largest: ${whole(cell.max_batch_size)} `, font: { color: css("quiet") } });
  }
  return draw("curve", traces, {
    height: 350, hovermode: "closest", shapes, annotations,
    xaxis: { title: { text: "batch size" }, range: [0, 1.06 * points[points.length - 1][0]], tickformat: ",d", zeroline: false },
    yaxis: { range: [0, most], ticksuffix: ` ${name}`, zeroline: true },
  }, `${cell.job}-${cell.device}-batch`);
}

function drawTimeline(cell) {
  const device = DATA.devices[cell.device], line = cell.timeline, count = line.events.length;
  const names = Object.keys(CATEGORIES).filter(name => name in line.changes);
  const values = names.map(name => { let kib = 0; return line.changes[name].map(change => (kib += change) * 1024); });
  const totals = line.events.map((_, at) => values.reduce((sum, of) => sum + of[at], 0)), peak = totals.indexOf(Math.max(...totals));
  const [unit, name] = unitOf(totals[peak]), x = [...line.events.keys()];
  const phaseAt = at => line.phases.filter(([, start]) => start <= at).pop()?.[0] || "";
  const traces = names.map((category, index) => ({
    x, y: values[index].map(bytes => bytes / unit), name: label(category, device), stackgroup: "step", mode: "lines",
    line: { width: 0, shape: "hv" }, fillcolor: tone(category), customdata: values[index].map(size), hovertemplate: "%{customdata}",
  }));
  traces.push({
    x, y: totals.map(bytes => bytes / unit), name: "all", mode: "lines", line: { color: css("ink"), width: 1, shape: "hv" }, showlegend: false,
    customdata: totals.map((bytes, at) => `${size(bytes)}, ${phaseAt(at)}`), hovertemplate: "%{customdata}",
  });
  const shapes = [], annotations = [];
  line.phases.forEach(([phase, start], index) => {
    const end = index + 1 < line.phases.length ? line.phases[index + 1][1] : count;
    if (index) shapes.push({ type: "line", x0: start, x1: start, yref: "paper", y0: 0, y1: 1.06, line: { color: css("quiet"), width: 1, dash: "dot" } });
    if ((end - start) / count > .012 * phase.length) annotations.push({ x: (start + end) / 2, yref: "paper", y: 1, yanchor: "bottom", showarrow: false, text: plain(phase), font: { color: css("quiet") } });
  });
  annotations.push({ x: peak + .5, y: totals[peak] / unit, text: `peak ${size(totals[peak])}`, showarrow: true, arrowhead: 0, arrowcolor: css("ink"), ax: peak > count * .7 ? -50 : 50, ay: -14, xanchor: peak > count * .7 ? "right" : "left" });
  place("timeline-note").textContent = `requested bytes at batch ${whole(line.batch_size)}${line.step ? ", " + line.step : ""}; each point is the highest of its stretch`;
  return draw("timeline", traces, {
    height: 390, margin: { l: 10, r: 14, t: 44, b: 62, pad: 4 }, hovermode: "x unified", shapes, annotations,
    xaxis: { title: { text: "allocations and frees of the step, in order" }, range: [0, count - 1], showticklabels: false, showgrid: false, zeroline: false, unifiedhovertitle: { text: " " } },
    yaxis: { range: [0, 1.12 * totals[peak] / unit], ticksuffix: ` ${name}`, zeroline: false },
  }, `${cell.job}-${cell.device}-step`);
}

function drawModules(cell) {
  const sum = row => row[1] + row[2] + row[3], most = Math.max(0, ...cell.modules.map(sum));
  const rows = cell.modules.filter(row => sum(row) > most / 500).slice(0, 16);
  if (!rows.length) return nothing("modules", "No module keeps anything alive at the peak.");
  const [unit, name] = unitOf(most), at = [...rows.keys()], letters = Math.max(14, Math.min(48, Math.floor(place("modules").clientWidth * .4 / 7)));
  const parts = [[1, "parameters"], [2, "activations"], [3, "temporaries"]];
  const traces = parts.map(([key, category]) => ({
    type: "bar", orientation: "h", y: at, x: rows.map(row => row[key] / unit), name: category, marker: { color: tone(category) },
    hovertext: rows.map(row => `<b>${plain(row[0])}</b><br>${parts.map(([part, words]) => `${words} ${size(row[part])}`).join("<br>")}`), hoverinfo: "text",
  }));
  const annotations = rows.map((row, y) => ({ x: sum(row) / unit, y, xanchor: "left", showarrow: false, text: ` ${size(sum(row))}`, font: { color: css("quiet") } }));
  return draw("modules", traces, {
    height: rows.length * 25 + 100, barmode: "stack", bargap: .3, hovermode: "closest", annotations,
    margin: { l: 10, r: 14, t: 28, b: 58, pad: 4 }, xaxis: { range: [0, 1.14 * most / unit], ticksuffix: ` ${name}` },
    yaxis: { tickvals: at, ticktext: rows.map(row => plain(shortened(row[0], letters))), range: [rows.length - .4, -.6], showgrid: false, zeroline: false, tickfont: { color: css("ink") } },
  }, `${cell.job}-${cell.device}-modules`);
}

/** A row a job with its settings, a column a device, darker where a larger batch fits. */
function drawHeatmap(settings, chosen) {
  const rows = new Map(), devices = DATA.order;
  for (const cell of DATA.cells) {
    if (settings !== "" && cell.settings !== settings) continue;
    const key = JSON.stringify([cell.job, cell.settings]);
    if (!rows.has(key)) rows.set(key, new Map());
    rows.get(key).set(cell.device, cell);
  }
  const lines = [...rows.values()], grid = of => lines.map(row => devices.map(device => row.has(device) ? of(row.get(device)) : null));
  const heat = cell => cell.fits && !cell.unlimited ? Math.log10(cell.max_batch_size) : null;
  const word = cell => cell.status === "error" ? "–" : cell.status === "pending" ? "…" : cell.unlimited ? "any" : whole(cell.max_batch_size);
  const said = cell => `<b>${plain(cell.job)}</b>${cell.settings ? ", " + plain(cell.settings) : ""}<br>${plain(DATA.devices[cell.device].title)}<br>${
    cell.status === "error" ? "not predicted" : cell.max_batch_size === null ? cell.status : cell.unlimited ? "memory does not limit the batch" : cell.fits ? `largest batch ${whole(cell.max_batch_size)}` : "not even one sample fits"}`;
  const first = lines.map(row => row.values().next().value), letters = Math.max(12, Math.min(46, Math.floor(place("heatmap").clientWidth * .34 / 7)));
  const name = cell => plain(shortened([cell.job, cell.settings].filter(Boolean).join(" · "), letters));
  const known = grid(heat).flat().filter(value => value !== null), least = Math.min(...known), most = Math.max(...known);
  const shared = { type: "heatmap", x: [...devices.keys()], y: [...lines.keys()], xgap: 2, ygap: 2, showscale: false, hoverinfo: "text", hoverongaps: false, customdata: grid(cell => cell.index), hovertext: grid(said) };
  const low = css("heat-low"), high = css("heat-high"), traces = [
    { ...shared, z: grid(heat), zmin: least, zmax: most > least ? most : least + 1, colorscale: [[0, low], [1, high]], text: grid(cell => heat(cell) === null ? "" : word(cell)), texttemplate: "%{text}" },
    { ...shared, z: grid(cell => heat(cell) !== null ? null : cell.status === "does not fit" ? 0 : 1), zmin: 0, zmax: 1, colorscale: [[0, css("none")], [1, css("hover")]], text: grid(cell => heat(cell) === null ? word(cell) : ""), texttemplate: "%{text}", textfont: { color: css("quiet") } },
  ];
  const x = chosen ? devices.indexOf(chosen.device) : -1, y = chosen ? first.findIndex(cell => cell.job === chosen.job && cell.settings === chosen.settings) : -1;
  const shapes = x < 0 || y < 0 ? [] : [{ type: "rect", x0: x - .5, x1: x + .5, y0: y - .5, y1: y + .5, line: { color: css("ink"), width: 2 } }];
  place("heatmap").style.minWidth = `${7 * letters + 62 * devices.length}px`;
  return draw("heatmap", traces, {
    height: lines.length * 27 + 74, shapes, dragmode: false, margin: { l: 10, r: 6, t: 62, b: 2, pad: 4 },
    xaxis: { side: "top", tickvals: [...devices.keys()], ticktext: devices.map(plain), showgrid: false, zeroline: false, fixedrange: true, range: [-.5, devices.length - .5] },
    yaxis: { tickvals: [...lines.keys()], ticktext: first.map(name), range: [lines.length - .5, -.5], showgrid: false, zeroline: false, fixedrange: true, tickfont: { color: css("ink") } },
  }, "largest-batch");
}

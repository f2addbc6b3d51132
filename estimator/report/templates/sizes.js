"use strict";
// Samples that vary in size: the largest batch and a sample's memory at each size that was traced, and how many samples
// of a data set there are of which length.
(() => {
  const TONES = ["parameters", "activations", "gradients", "inputs", "temporaries", "optimizer-state", "library-workspaces", "buffers"];
  const WIDE = 8; // from this ratio of the largest to the smallest on, an axis is logarithmic
  const solved = DATA.cells.filter(cell => cell.max_batch_size && !cell.unlimited);
  const of = device => solved.filter(cell => cell.device === device), colour = index => css(TONES[index % TONES.length]);
  const wide = values => values.length && Math.min(...values) > 0 && Math.max(...values) >= WIDE * Math.min(...values);

  /** An axis over sizes: the traced ones are named where there is room for them. */
  function sizes() {
    const known = [...new Set(DATA.cells.map(cell => cell.size))].sort((a, b) => a - b), log = wide(known);
    const first = known[0], last = known[known.length - 1];
    const range = log ? [Math.log10(first / 1.15), Math.log10(last * 1.15)] : [first - .06 * (last - first || first), last + .06 * (last - first || last)];
    const named = known.filter((size, at) => !at || (log ? size / known[at - 1] > 1.12 : (size - known[at - 1]) / (last - first) > .04));
    return { title: { text: DATA.over }, type: log ? "log" : "linear", range, tickvals: named, ticktext: named.map(whole), zeroline: false };
  }
  /** An axis over what was found; a logarithmic one has ticks at 1, 2 and 5 of each power of ten. */
  function values(of, title, suffix = "") {
    const log = wide(of);
    if (!log) return { title: { text: title }, rangemode: "tozero", ticksuffix: suffix, separatethousands: true, zeroline: false };
    const least = Math.floor(Math.log10(Math.min(...of))), steps = Math.ceil(Math.log10(Math.max(...of))) - least + 1;
    const ticks = [...Array(steps).keys()].flatMap(at => [1, 2, 5].map(lead => lead * 10 ** (at + least)));
    return { title: { text: title }, type: "log", tickvals: ticks, ticktext: ticks.map(tick => tick.toLocaleString("en-US", { maximumSignificantDigits: 3 }) + suffix), zeroline: false };
  }

  function drawLargest() {
    const traces = [], seen = [];
    DATA.order.forEach((device, index) => {
      const cells = of(device), x = cells.map(cell => cell.size), tint = colour(index);
      const low = cells.map(cell => cell.max_batch_size_low ?? cell.max_batch_size), high = cells.map(cell => cell.max_batch_size);
      const said = cells.map(cell => `<b>${plain(device)}</b><br>${plain(DATA.over)} ${whole(cell.size)}<br>largest batch ${whole(cell.max_batch_size)}<br>device memory ${size(cell.device_bytes)}`);
      seen.push(...low, ...high);
      traces.push(
        { x, y: low, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false },
        { x, y: high, mode: "lines+markers", fill: "tonexty", fillcolor: faint(tint, .18), line: { color: tint, width: 2.2 }, marker: { size: 7 }, hovertext: said, hoverinfo: "text", name: plain(device) },
      );
    });
    if (DATA.max_tokens) {
      const known = solved.map(cell => cell.size), first = Math.min(...known), last = Math.max(...known), steps = [...Array(60).keys()].map(at => first * (last / first) ** (at / 59));
      traces.push({ x: steps, y: steps.map(length => DATA.max_tokens / length), mode: "lines", line: { color: css("quiet"), width: 1.4, dash: "dot" }, hoverinfo: "skip", name: `max_tokens: ${whole(DATA.max_tokens)} padded` });
    }
    if (DATA.batch_size) {
      seen.push(DATA.batch_size);
      traces.push({ x: [Math.min(...solved.map(cell => cell.size)), Math.max(...solved.map(cell => cell.size))], y: [DATA.batch_size, DATA.batch_size], mode: "lines", line: { color: css("bad"), width: 1.4, dash: "dash" }, hoverinfo: "skip", name: `batch of ${whole(DATA.batch_size)}` });
    }
    return draw("largest", traces, { height: 390, hovermode: "closest", showlegend: true, xaxis: sizes(), yaxis: values(seen, "largest batch") }, "largest-batch");
  }

  function drawSample() {
    const known = solved.filter(cell => cell.sample_bytes);
    if (!known.length) return nothing("sample", "Nothing grows with the number of samples.");
    const [unit, name] = unitOf(Math.max(...known.map(cell => cell.sample_bytes)));
    const traces = DATA.order.map((device, index) => {
      const cells = of(device).filter(cell => cell.sample_bytes);
      return {
        x: cells.map(cell => cell.size), y: cells.map(cell => cell.sample_bytes / unit), mode: "lines+markers", line: { color: colour(index), width: 2.2 }, marker: { size: 7 },
        hovertext: cells.map(cell => `<b>${plain(device)}</b><br>${plain(DATA.over)} ${whole(cell.size)}<br>${size(cell.sample_bytes)} a sample`), hoverinfo: "text", name: plain(device),
      };
    });
    return draw("sample", traces, { height: 350, hovermode: "closest", showlegend: true, xaxis: sizes(), yaxis: values(known.map(cell => cell.sample_bytes / unit), "", ` ${name}`) }, "memory-of-a-sample");
  }

  function drawHistogram() {
    const bins = DATA.histogram, tint = css("accent"), quiet = css("quiet"), most = Math.max(...bins.map(bin => bin[2]));
    const bars = {
      type: "bar", x: bins.map(([low, high]) => (low + high) / 2), width: bins.map(([low, high]) => high - low + 1), y: bins.map(bin => bin[2]),
      marker: { color: faint(tint, .6), line: { color: css("paper"), width: 1 } }, hovertext: bins.map(([low, high, count]) => `${whole(count)} of ${whole(low)}${high > low ? " to " + whole(high) : ""}`), hoverinfo: "text", showlegend: false,
    };
    // What is marked at one length stands under one mark.
    const marks = new Map();
    for (const [length, words] of DATA.marks) marks.set(length, [...(marks.get(length) || []), words]);
    const lines = [...marks].map(([x]) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: quiet, width: 1.2, dash: "dot" } }));
    const names = [...marks].map(([x, words]) => ({ x, xanchor: "right", yref: "paper", y: 1, yanchor: "top", textangle: -90, showarrow: false, text: plain(`${words.join(", ")}: ${whole(x)}`), font: { color: quiet } }));
    return draw("histogram", [bars], { height: 340, hovermode: "closest", bargap: 0, shapes: lines, annotations: names, xaxis: { title: { text: "length" }, tickformat: ",d", zeroline: false }, yaxis: { title: { text: "samples" }, range: [0, 1.08 * most], tickformat: ",d", zeroline: false } }, "lengths");
  }

  const figures = { histogram: drawHistogram, largest: drawLargest, heatmap: () => drawHeatmap("", null), sample: drawSample };
  function all() {
    return Promise.all(Object.entries(figures).filter(([id]) => place(id)).map(([, figure]) => figure()));
  }
  all().then(() => {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
    document.documentElement.setAttribute("data-drawn", "yes");
  });
})();

"use strict";
// What is chosen, and the table: sorted by the buttons in its heads, filtered by the form above it.
(() => {
  const cells = DATA.cells;
  const drawn = cells.filter(cell => cell.curve), unique = values => [...new Set(values)];
  const MOST_ROWS = 60; // of the heatmap, until all are asked for
  let current = drawn.find(cell => cell.fits) || drawn[0] || null;

  function fill(select, values, chosen, text) {
    select.replaceChildren(...values.map(value => {
      const option = make("option", text ? text(value) : value);
      option.value = value;
      option.selected = value === chosen;
      return option;
    }));
  }

  function verdict(cell) {
    const device = DATA.devices[cell.device], out = [];
    if (cell.unlimited) out.push("Memory does not limit the batch on ", make("b", device.title), ".");
    else if (cell.fits) {
      out.push("Batch ", make("b", whole(cell.max_batch_size)), " is the largest that fits on ", make("b", device.title), ": it needs ");
      out.push(`${size(cell.device_bytes)} (${size(cell.device_low_bytes)} to ${size(cell.device_high_bytes)}) of ${size(cell.capacity_bytes)}.`);
      if (cell.max_batch_size_low > cell.max_batch_size) out.push(` If every guess is lucky, ${whole(cell.max_batch_size_low)} runs.`);
    } else out.push("Not even one sample fits on ", make("b", device.title), `: it would need ${size(cell.device_bytes)} of ${size(cell.capacity_bytes)}.`);
    place("verdict").replaceChildren(...out);
  }

  function lines(cell) {
    const device = DATA.devices[cell.device], rows = cell.lines.filter(line => line[1] !== 0).map(([name, bytes, known]) => {
      const row = document.createElement("tr"), share = make("td", "", "share"), bar = document.createElement("span");
      bar.style.width = `${Math.max(1, 100 * bytes / cell.device_bytes).toFixed(1)}%`;
      bar.style.background = tone(name);
      share.append(bar);
      row.append(make("td", label(name, device)), make("td", size(bytes), "number"), share, make("td", known, "quiet"));
      return row;
    });
    const total = make("tr", "", "total");
    total.append(make("td", device.kind === "cpu" ? "resident memory" : "device memory"), make("td", size(cell.device_bytes), "number"), make("td", ""), make("td", ""));
    place("lines").replaceChildren(...rows, total);
  }

  function facts(cell) {
    const list = document.createElement("dl"), add = (name, value) => value && list.append(make("dt", name), make("dd", value));
    add("What stops a larger batch", cell.limited_by);
    add("Peak", [cell.peak_phase, cell.peak_module && `module ${cell.peak_module}`, cell.peak_op].filter(Boolean).join(", "));
    add("Allocated, reserved", `${size(cell.peak_allocated_bytes)}, ${size(cell.peak_reserved_bytes)}`);
    if (cell.max_batch_size_without_retries !== cell.max_batch_size && cell.fits) add("Without the allocator giving memory back", `batch ${whole(cell.max_batch_size_without_retries)}`);
    add("Lines confirmed", cell.confirmed_at ? `by a trace at batch ${whole(cell.confirmed_at)}` : "at the calibration batch sizes only");
    add("Warnings", cell.warn.map(index => DATA.warnings[index]).join(", "));
    place("facts").replaceChildren(list);
  }

  function show(cell) {
    current = cell;
    if (place("choose-job")) {
      const mine = drawn.filter(other => other.job === cell.job), same = mine.filter(other => other.settings === cell.settings);
      fill(place("choose-job"), unique(drawn.map(other => other.job)), cell.job);
      fill(place("choose-settings"), unique(mine.map(other => other.settings)), cell.settings, text => text || "as the job says");
      fill(place("choose-device"), unique(same.map(other => other.device)), cell.device, name => DATA.devices[name].title);
    }
    verdict(cell); lines(cell); facts(cell);
    return figures();
  }
  function figures() {
    return Promise.all([place("heatmap") && drawHeatmap(place("heatmap-settings").value, current), ...(current ? [drawCurve, drawTimeline, drawModules].map(figure => figure(current)) : [])]);
  }
  function choose(index) {
    const cell = cells[Number(index)];
    if (!cell.curve) return;
    show(cell);
    place("details").scrollIntoView();
  }
  function pick() {
    const job = place("choose-job").value, settings = place("choose-settings").value, device = place("choose-device").value;
    const like = drawn.filter(cell => cell.job === job);
    const close = like.filter(cell => cell.settings === settings);
    show((close.length ? close : like).find(cell => cell.device === device) || close[0] || like[0]);
  }

  function heatmap() {
    const all = unique(cells.map(cell => cell.settings)), select = place("heatmap-settings");
    const rows = unique(cells.map(cell => JSON.stringify([cell.job, cell.settings]))).length;
    fill(select, ["", ...all.filter(Boolean)], rows > MOST_ROWS && all.length > 1 ? all[0] : "", text => text || "all");
    place("heatmap-choice").hidden = all.length < 2;
    select.addEventListener("change", figures);
    return drawHeatmap(select.value, current).then(box => box.on("plotly_click", event => choose(event.points[0].customdata)));
  }

  function table() {
    const body = place("table").tBodies[0], rows = [...body.rows], heads = [...place("table").tHead.rows[0].cells];
    const words = rows.map(row => row.textContent.toLowerCase()), count = place("count");
    const value = (row, column) => {
      const cell = row.cells[column], key = cell.dataset.sort;
      return key === undefined ? cell.textContent.trim().toLowerCase() : key === "" ? null : Number(key);
    };
    function sort(column) {
      const head = heads[column], up = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "descending" : "ascending");
      const order = (a, b) => {
        const x = value(a, column), y = value(b, column);
        if (x === null || y === null) return (x === null) - (y === null); // what is not there stays last
        return (typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true })) * (up ? -1 : 1);
      };
      body.append(...[...rows].sort((a, b) => order(a, b) || a.dataset.index - b.dataset.index));
    }
    function filter() {
      const wanted = place("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = [...place("filters").querySelectorAll("select")].filter(select => select.value);
      let shown = 0;
      rows.forEach((row, index) => {
        row.hidden = !(wanted.every(word => words[index].includes(word))
          && chosen.every(select => row.cells[select.dataset.column].textContent.trim() === select.value));
        shown += !row.hidden;
      });
      count.textContent = shown === rows.length ? `${whole(shown)} cells` : `${whole(shown)} of ${whole(rows.length)} cells`;
    }
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
    place("filters").addEventListener("input", filter);
    place("filters").addEventListener("submit", event => event.preventDefault());
    body.addEventListener("click", event => {
      const button = event.target.closest("button.show");
      if (button) choose(button.closest("tr").dataset.index);
    });
    filter();
  }

  for (const id of ["choose-job", "choose-settings", "choose-device"]) if (place(id)) place(id).addEventListener("change", pick);
  if (place("table")) table();
  Promise.resolve(place("heatmap") && heatmap()).then(() => current && show(current)).then(() => {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => current && show(current));
    document.documentElement.setAttribute("data-drawn", "yes");
  });
})();

// Curves of several jobs on one plot, drawn with uPlot from /dashboard/compare/curves; PNG of the same.
"use strict";

(() => {
  const box = document.getElementById("compare");
  if (!box || !window.uPlot) return;
  const [place, metric, axis, none] = ["plot", "metric", "axis", "no-curve"].map((id) => document.getElementById(id));
  const keys = [...box.querySelectorAll(".keys li")];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const DASHES = [[], [12, 5], [3, 4], [14, 4, 3, 4], [], [7, 3], [2, 6], [18, 4, 2, 4, 2, 4]];
  const UNITS = {
    rounds: [[1, "rounds"]],
    seconds: [[86400, "days"], [3600, "hours"], [60, "minutes"], [1, "seconds"]],
    bytes: [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "bytes"]],
  };
  const NAMES = { rounds: "Round", seconds: "Time", bytes: "Updates summed" };
  const show = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());
  let found = null;
  let plot = null;
  let unit = "";

  function unitOf(most) {
    return UNITS[axis.value].find(([size]) => most >= 2 * size) || UNITS[axis.value].at(-1);
  }

  function options(title) {
    const font = "16px system-ui, sans-serif";
    const line = { stroke: colour("--soft"), font, labelFont: font, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const whole = axis.value === "rounds";
    const numbers = (_, at) => at.map((value) => (whole && !Number.isInteger(value) ? "" : Number(value.toPrecision(6)).toLocaleString("en")));
    return {
      width: place.clientWidth || 320, height: 380, legend: { show: false },
      cursor: { points: { size: 8 }, drag: { x: false, y: false } },
      hooks: { setCursor: [() => tell(plot?.cursor.idx ?? null)] },
      scales: { x: { time: false } },
      axes: [
        { ...line, label: title, labelSize: 28, size: 40, space: 80, values: numbers },
        { ...line, label: metric.value, labelSize: 28, size: 64, values: (_, at) => at.map((value) => Number(value.toPrecision(4)).toString()) },
      ],
      series: [{}, ...keys.map((_, index) => ({
        stroke: colour(`--c${index + 1}`), width: 2.5, dash: DASHES[index], spanGaps: true, points: { show: (_u, at) => found.curves[at - 1].values.length < 40, size: 6 },
      }))],
    };
  }

  // Beside each job's name stands its newest value, or the one under the pointer.
  function tell(index) {
    keys.forEach((item, at) => {
      const values = plot ? plot.data[at + 1] : [];
      const where = index === null ? values.findLastIndex((value) => value !== null && value !== undefined) : index;
      item.querySelector("[data-value]").textContent = where < 0 ? "–" : show(values[where]);
    });
  }

  function draw() {
    plot?.destroy();
    plot = null;
    const used = found.curves.map((curve) => curve[axis.value] || []);
    const most = Math.max(0, ...used.flat());
    const [size, name] = unitOf(most);
    unit = name;
    const tables = found.curves.map((curve, at) => [used[at].map((value) => value / size), used[at].length ? curve.values : []]);
    const empty = tables.every(([x]) => x.length === 0);
    none.hidden = !empty;
    none.textContent = empty ? `No job here has ${metric.value} over ${axis.selectedOptions[0].textContent}.` : "";
    if (empty) { tell(null); return; }
    const title = axis.value === "rounds" ? NAMES.rounds : `${NAMES[axis.value]} (${unit})`;
    plot = new uPlot(options(title), uPlot.join(tables), place);
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${metric.value} over ${title.toLowerCase()}, one curve for each job; the newest values stand below`);
    tell(null);
  }

  async function load() {
    const answer = await fetch(box.dataset.curves + encodeURIComponent(metric.value), { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const text = await answer.text();
    if (load.last === text) return;  // nothing new: the plot stays, and what the pointer shows
    load.last = text;
    found = JSON.parse(text);
    draw();
  }

  // The plot's canvas with the names of the jobs below it, on the page's ground.
  function image() {
    const source = plot.root.querySelector("canvas");
    const scale = source.width / plot.width;
    const made = document.createElement("canvas");
    made.width = source.width;
    made.height = source.height + scale * (24 * keys.length + 24);
    const pen = made.getContext("2d");
    pen.fillStyle = colour("--card");
    pen.fillRect(0, 0, made.width, made.height);
    pen.drawImage(source, 0, 0);
    pen.scale(scale, scale);
    pen.font = "16px system-ui, sans-serif";
    pen.textBaseline = "middle";
    keys.forEach((item, at) => {
      const y = plot.height + 20 + 24 * at;
      pen.strokeStyle = colour(`--c${at + 1}`);
      pen.lineWidth = 3;
      pen.setLineDash(DASHES[at]);
      pen.beginPath();
      pen.moveTo(16, y);
      pen.lineTo(56, y);
      pen.stroke();
      pen.fillStyle = colour("--ink");
      pen.fillText(`${item.dataset.name}  ${item.querySelector("[data-value]").textContent}`, 68, y, plot.width - 84);
    });
    return made;
  }

  document.getElementById("png").addEventListener("click", () => {
    if (plot) plotExport.save(image(), `jobs-${metric.value}`);
  });

  let waiting;
  metric.addEventListener("change", load);
  axis.addEventListener("change", () => found && draw());
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => plot?.setSize({ width: place.clientWidth, height: 380 }), 100); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => found && draw());
  document.body.addEventListener("live", load);
  load();
})();

// Metric curves of a job, drawn with uPlot from /dashboard/jobs/<id>/metrics. Colours come from the style sheet.
"use strict";

(() => {
  const box = document.querySelector("[data-metrics]");
  if (!box || !window.uPlot) return;
  const HEIGHT = 220;
  const plots = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const show = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

  function options(name, index, width) {
    const font = "14px system-ui, sans-serif";
    const axis = { stroke: colour("--soft"), font, labelFont: font, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    return {
      width, height: HEIGHT, cursor: { points: { size: 9 }, drag: { x: false, y: false } }, legend: { show: false },
      hooks: { setCursor: [(plot) => point(name, plot.cursor.idx)] },
      scales: { x: { time: false, range: (_, low, high) => [low - 0.25, high + 0.25] } },
      axes: [
        { ...axis, label: "Round", labelSize: 22, size: 32, incrs: [1, 2, 5, 10, 20, 50, 100], values: (_, at) => at.map((value) => (Number.isInteger(value) ? `${value}` : "")) },
        { ...axis, size: 64, values: (_, at) => at.map((value) => Number(value.toPrecision(4)).toString()) },
      ],
      series: [
        {},
        { label: name, stroke: colour(`--c${(index % 5) + 1}`), width: 2.5, spanGaps: true, points: { show: true, size: 7 } },
      ],
    };
  }

  // Above each curve stands its newest value, or the one under the pointer.
  function point(name, index) {
    const item = plots.get(name);
    if (!item) return;
    const at = index ?? item.values.findLastIndex((value) => value !== null);
    item.value.textContent = at < 0 ? "–" : `round ${item.rounds[at]}: ${show(item.values[at])}`;
  }

  function frame(name) {
    const part = document.createElement("div");
    part.className = "chart";
    const title = document.createElement("div");
    title.className = "title";
    const label = document.createElement("span");
    label.textContent = name;
    const value = document.createElement("span");
    const png = document.createElement("button");
    png.className = "link";
    png.type = "button";
    png.textContent = "PNG";
    png.setAttribute("aria-label", `${name} as PNG`);
    png.addEventListener("click", () => plotExport.save(image(name), name));
    title.append(label, value, png);
    const canvas = document.createElement("div");
    canvas.setAttribute("role", "img");
    part.append(title, canvas);
    box.append(part);
    return { part, value, canvas };
  }

  // The plot's canvas on the page's ground, below the metric's name.
  function image(name) {
    const { plot, value } = plots.get(name);
    const source = plot.root.querySelector("canvas");
    const scale = source.width / plot.width;
    const made = document.createElement("canvas");
    made.width = source.width;
    made.height = source.height + 32 * scale;
    const pen = made.getContext("2d");
    pen.fillStyle = colour("--card");
    pen.fillRect(0, 0, made.width, made.height);
    pen.drawImage(source, 0, 32 * scale);
    pen.scale(scale, scale);
    pen.fillStyle = colour("--ink");
    pen.font = "600 16px system-ui, sans-serif";
    pen.fillText(`${name}, ${value.textContent}`, 8, 22, plot.width - 16);
    return made;
  }

  async function draw() {
    const answer = await fetch(box.dataset.metrics, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const { rounds, series } = await answer.json();
    document.getElementById("no-metrics")?.toggleAttribute("hidden", rounds.length > 0);
    const names = Object.keys(series);
    for (const name of names) if (!plots.has(name)) plots.set(name, frame(name));  // all frames first: they share the width
    names.forEach((name, index) => {
      const item = Object.assign(plots.get(name), { rounds, values: series[name] });
      const data = [rounds, item.values];
      if (item.plot) item.plot.setData(data);
      else item.plot = new uPlot(options(name, index, item.part.clientWidth || 320), data, item.canvas);
      const known = item.values.filter((value) => value !== null);
      item.canvas.setAttribute("aria-label", `${name} by round: from ${show(known[0])} to ${show(known.at(-1))}`);
      point(name, null);
    });
  }

  function again() {
    for (const { plot } of plots.values()) plot?.destroy();
    plots.clear();
    box.replaceChildren();
    draw();
  }

  let waiting;
  function fit() {
    for (const { part, plot } of plots.values()) {
      if (plot && plot.width !== part.clientWidth) plot.setSize({ width: part.clientWidth, height: HEIGHT });
    }
  }

  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(fit, 100); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  document.body.addEventListener("live", draw);
  setInterval(draw, 15000);
  draw();
})();

// Plots as PNG files: a canvas as it is, an SVG with the colours and sizes that it has on the page.
"use strict";

const plotExport = (() => {
  const DRAWN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "text-anchor", "vector-effect"];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function save(canvas, name) {
    canvas.toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `${name.replace(/[^\p{L}\p{N}._-]+/gu, "-")}.png`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  // A copy that needs no style sheet: an image of it is drawn without the page's. The axes stand in the plot's padding.
  function alone(svg) {
    const { width, height } = svg.getBoundingClientRect();
    const [top, right, bottom, left] = ["top", "right", "bottom", "left"].map((side) => parseFloat(getComputedStyle(svg)[`padding-${side}`]));
    const copy = svg.cloneNode(true);
    const originals = [svg, ...svg.querySelectorAll("*")];
    [copy, ...copy.querySelectorAll("*")].forEach((each, at) => {
      const style = getComputedStyle(originals[at]);
      for (const name of DRAWN) each.setAttribute(name, style.getPropertyValue(name));
    });
    const place = { x: left, y: top, width: width - left - right, height: height - top - bottom, overflow: "visible" };
    for (const [name, value] of Object.entries(place)) copy.setAttribute(name, value);
    const sheet = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    sheet.setAttribute("width", width);
    sheet.setAttribute("height", height);
    sheet.append(copy);
    return sheet;
  }

  async function ofSvg(svg, title) {
    const { width, height } = svg.getBoundingClientRect();
    const copy = alone(svg);
    const address = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }));
    const image = new Image();
    image.src = address;
    await image.decode();
    URL.revokeObjectURL(address);
    const canvas = document.createElement("canvas");
    const scale = 2;
    const head = 32;
    canvas.width = scale * (width + 32);
    canvas.height = scale * (height + head + 16);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.fillStyle = colour("--card");
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = colour("--ink");
    pen.font = "600 16px system-ui, sans-serif";
    pen.fillText(title, 16, 24, width);
    pen.drawImage(image, 16, head, width, height);
    return canvas;
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-png]");
    const box = button?.closest(".answer, .square");
    const svg = box?.querySelector("svg.plot");
    if (svg) save(await ofSvg(svg, button.dataset.png), button.dataset.png);
  });

  // Where there is a plot and scripts run, it can be saved as a picture; parts of the page are exchanged while it is open.
  function offer() {
    for (const button of document.querySelectorAll("[data-png]")) button.hidden = !button.closest(".answer, .square")?.querySelector("svg.plot");
  }
  document.addEventListener("htmx:afterSettle", offer);
  document.addEventListener("DOMContentLoaded", offer);
  return { save };
})();

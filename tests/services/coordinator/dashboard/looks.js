// What a reader would see at once: labels of plots on one another or off the page, and texts below WCAG 2.2's contrast (AA).
// Marks on the bars of a timeline stand on shapes, whose colours are not those of a background.
() => {
  const collisions = () => {
  const found = [];
  for (const plot of document.querySelectorAll("svg.plot, svg.axis")) {
    const texts = [...plot.querySelectorAll("text")].filter((each) => each.textContent.trim()).map((each) => [each.textContent, each.getBoundingClientRect()]);
    texts.forEach(([text, box], at) => {
      if (box.left < -1 || box.right > document.documentElement.clientWidth + 1) found.push(`${text} leaves the page`);
      for (const [other, its] of texts.slice(at + 1)) {
        const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
        const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
        if (across > 1 && down > 4) found.push(`${text} on ${other}`);
      }
    });
  }
  return found;
};
  const faint = () => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const solid = (...colours) => {
    pen.clearRect(0, 0, 1, 1);
    for (const each of colours) { pen.fillStyle = each; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (colour) => colour.map((each) => each / 255).map((each) => (each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
    .reduce((sum, each, at) => sum + each * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    const grounds = [];
    for (let each = element; each; each = each.parentElement) grounds.unshift(getComputedStyle(each).backgroundColor);
    return grounds;
  };
  const found = [];
  for (const element of document.querySelectorAll("main *, header *")) {
    const own = [...element.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
    if (!own || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || element.closest("title, [disabled], .gantt svg:not(.axis)")) continue;
    const style = getComputedStyle(element);
    const grounds = behind(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [one, other] = [light(solid(...grounds, colour)), light(solid(...grounds))].sort((a, b) => b - a);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && parseInt(style.fontWeight) >= 700);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
};
  return [...collisions(), ...faint()];
}

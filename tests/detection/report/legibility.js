// The visible texts of a page that are hard to read: [kind, figure, text]. Contrast as WCAG 2 computes it (4.5 is its
// AA level for text), and the size of the letters in pixels, in a chart after its scaling. Texts beside the window, as in
// a menu that is closed, do not count.
(() => {
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = color;
    pixel.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = pixel.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = (color) => color.slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (one) => {
    const layers = [];
    for (let own = one; own; own = own.parentElement) layers.unshift(rgba(getComputedStyle(own).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const found = [];
  for (const one of document.body.querySelectorAll("*")) {
    const text = [...one.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("").trim();
    const place = one.getBoundingClientRect(), style = getComputedStyle(one);
    if (!text || !place.width || place.right <= 0 || place.left >= innerWidth || style.visibility === "hidden") continue;
    if (one.closest("script, style, title, [hidden]")) continue;
    let opacity = 1;
    for (let own = one; own; own = own.parentElement) opacity *= Number(getComputedStyle(own).opacity);
    if (opacity === 0) continue;
    const svg = one.ownerSVGElement;
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    const size = parseFloat(style.fontSize) * scale;
    if (size < 11) found.push(["size", size, text]);
    const behind = background(svg ? svg.parentElement : one), own = rgba(svg ? style.fill : style.color);
    const ink = over([...own.slice(0, 3), own[3] * opacity], behind);
    const [light, dark] = [luminance(ink), luminance(behind)].sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < 4.5) found.push(["contrast", contrast, text]);
  }
  return found;
})()

"use strict";
// An image that is dropped, chosen or pasted → a request to /detect → boxes over the image, and their list.
// The score slider shows and hides what has been received; it makes no request.
const part = (id) => document.getElementById(id);
const { needsToken, bodyBytes } = document.body.dataset;
let file = null, request = null, detections = [], answer = null;
part("access").hidden = needsToken !== "yes";

async function detect(chosen) {
  if (!chosen) return;
  request?.abort(); // of an earlier image
  file = chosen;
  clear();
  if (file.size > Number(bodyBytes))
    return fail(`${file.name} has ${file.size} bytes, more than the ${bodyBytes} accepted.`);
  const token = part("token").value.trim();
  if (!part("access").hidden && !token) {
    part("token").focus();
    return fail("This server needs its token.");
  }
  const own = (request = new AbortController());
  say(`${file.name}: waiting for the server …`);
  try {
    const headers = token ? { Authorization: "Bearer " + latin1(token) } : {};
    const response = await fetch("detect", { method: "POST", body: file, headers, signal: own.signal });
    const content = await response.json();
    if (own !== request) return;
    if (response.status === 401) part("access").hidden = false;
    if (!response.ok) return fail(`${file.name}: ${content.detail.replace(/^the image: /, "")}.`);
    await show(content, own);
  } catch (error) {
    if (own.signal.aborted) return;
    fail(`${file.name}: there was no answer from the server (${error.message}).`);
  }
}

// A header's bytes are those of the text in UTF-8, which is what the server compares.
const latin1 = (text) => String.fromCharCode(...new TextEncoder().encode(text));

function clear() {
  answer = null;
  detections = [];
  part("result").hidden = true;
  part("boxes").replaceChildren();
  part("rows").replaceChildren();
}

function say(text, isError = false) {
  part("status").textContent = text;
  part("status").classList.toggle("error", isError);
}

function fail(text) { say(text, true); }

async function show(content, own) {
  const image = part("image"), stage = part("stage");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  const isShown = await image.decode().then(() => true, () => false);
  if (own !== request) return;
  // A browser may not know the kind of image, or may not turn it as its EXIF data says.
  const fits = isShown && image.naturalWidth === content.width && image.naturalHeight === content.height;
  image.hidden = !fits;
  const shape = content.width / content.height;
  stage.style.aspectRatio = shape;
  stage.style.setProperty("--width", `min(max(${content.width}px, 640px), ${85 * shape}vh)`); // small ones are enlarged
  part("note").hidden = fits;
  answer = content;
  detections = content.scores.map((score, i) => {
    const [x0, y0, x1, y1] = content.boxes[i], { width, height } = content;
    const color = `oklch(0.48 0.17 ${(content.labels[i] * 137.5) % 360})`;
    const box = document.createElement("div"), caption = document.createElement("span");
    caption.textContent = `${content.names[i]} ${score.toFixed(2)}`;
    box.className = "box";
    box.classList.toggle("top", y0 < 0.05 * height);
    box.classList.toggle("right", x0 > 0.7 * width);
    box.style.setProperty("--color", color);
    box.style.zIndex = content.scores.length - i; // the highest score, which is the first, on top
    for (const [side, share] of [["left", x0 / width], ["top", y0 / height],
                                 ["width", (x1 - x0) / width], ["height", (y1 - y0) / height]])
      box.style[side] = `${100 * share}%`;
    box.append(caption);
    const row = document.createElement("tr"), dot = document.createElement("i"), name = document.createElement("td");
    dot.className = "dot";
    dot.style.setProperty("--color", color);
    name.append(dot, content.names[i]);
    row.append(name);
    for (const text of [score.toFixed(3), content.boxes[i].map((side) => Math.round(side)).join(" ")]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      row.append(cell);
    }
    for (const [kind, marked] of [["mouseenter", true], ["mouseleave", false]])
      for (const one of [box, row])
        one.addEventListener(kind, () => { for (const both of [box, row]) both.classList.toggle("marked", marked); });
    return { score, box, row };
  });
  part("boxes").append(...detections.map((one) => one.box));
  part("rows").append(...detections.map((one) => one.row));
  part("result").hidden = false;
  filter();
}

function filter() {
  const least = Number(part("score").value);
  part("least").textContent = least.toFixed(2);
  if (!answer) return;
  let count = 0;
  for (const { score, box, row } of detections) {
    box.hidden = row.hidden = score < least;
    count += score >= least;
  }
  say(`${count} of ${detections.length} detections in ${file.name}, ${answer.width} × ${answer.height} pixels, ` +
      `${answer.seconds.toFixed(2)} s`);
}

part("score").addEventListener("input", filter);
part("file").addEventListener("change", () => {
  detect(part("file").files[0]);
  part("file").value = ""; // so that the same file can be chosen again
});
part("access").addEventListener("submit", (event) => {
  event.preventDefault();
  detect(file);
});
for (const kind of ["dragenter", "dragover"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    part("drop").classList.add("over");
  });
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) part("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  part("drop").classList.remove("over");
  if (event.dataTransfer.files.length) detect(event.dataTransfer.files[0]);
  else fail("What was dropped is no file: drop an image file.");
});
document.addEventListener("paste", (event) => detect(event.clipboardData.files[0]));

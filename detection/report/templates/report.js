"use strict";
// Sorting: a click on a column's heading; numbers first descending, words first ascending, "—" always last.
for (const heading of document.querySelectorAll("table.sortable th")) {
  const button = heading.querySelector("button");
  if (!button) continue;
  button.addEventListener("click", () => {
    const row = heading.parentElement, body = heading.closest("table").tBodies[0];
    const column = [...row.children].indexOf(heading);
    const word = heading.classList.contains("word");
    const before = heading.getAttribute("aria-sort");
    const ascending = before ? before === "descending" : word;
    for (const other of row.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const value = (line) => line.children[column].textContent.trim();
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (word) return ascending ? a.localeCompare(b) : b.localeCompare(a);
      const [x, y] = [parseFloat(a), parseFloat(b)];
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
      return ascending ? x - y : y - x;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
// Filtering: classes by a part of their name, images by the kind of mistake.
for (const input of document.querySelectorAll("input[data-filters]")) {
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of document.getElementById(input.dataset.filters).tBodies[0].rows)
      row.hidden = !row.children[0].textContent.toLowerCase().includes(wanted);
  });
}
for (const button of document.querySelectorAll("button[data-kind]")) {
  button.addEventListener("click", () => {
    const kind = button.dataset.kind;
    for (const other of document.querySelectorAll("button[data-kind]"))
      other.setAttribute("aria-pressed", other === button);
    for (const figure of document.querySelectorAll("figure[data-kinds]"))
      figure.hidden = kind !== "" && !figure.dataset.kinds.split(" ").includes(kind);
  });
}
// Zoom: a click on an image, or Enter, shows it alone, fitted; a click there shows its own pixels at the place of the click; Escape
// or a click beside it closes.
const dialog = document.createElement("dialog"), large = document.createElement("img");
dialog.ariaLabel = "image";
dialog.append(large);
document.body.append(dialog);
for (const image of document.querySelectorAll("figure img")) {
  const open = () => {
    large.src = image.src;
    large.alt = image.alt;
    large.className = "fit";
    dialog.showModal();
  };
  image.tabIndex = 0;
  image.addEventListener("click", open);
  image.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
}
large.addEventListener("click", (event) => {
  const x = event.offsetX / large.clientWidth, y = event.offsetY / large.clientHeight;
  large.style.width = large.classList.toggle("fit") ? "" : Math.max(large.naturalWidth, 2 * large.clientWidth) + "px";
  dialog.scrollTo(x * large.clientWidth - dialog.clientWidth / 2, y * large.clientHeight - dialog.clientHeight / 2);
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => { large.style.width = ""; });

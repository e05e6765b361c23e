"use strict";
// Code within sentences and tables: a long word breaks between the parts of a path or name, an option does not break.
const WORD = 20; // letters that are kept together
for (const code of document.querySelectorAll(".md-typeset :not(pre) > code")) {
  const words = code.textContent.split(/(\s+)/);
  code.replaceChildren(...words.flatMap((word) => {
    if (/^--?[a-z]/i.test(word)) {
      const option = document.createElement("span");
      option.style.whiteSpace = "nowrap";
      option.textContent = word;
      return [option];
    }
    if (word.length < WORD) return [word];
    const parts = word.split(/(?<=[/_=]|::)(?=[\w<{])|(?<=\w\.)(?=[a-z]{5})/i);
    return parts.flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));
  }));
}
// Each cell gets its column's heading, a first one if it is a number: in a narrow window, the style shows the cells of a
// row below each other.
for (const table of document.querySelectorAll(".md-typeset table:not([class])")) {
  const headings = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  for (const row of table.tBodies[0].rows)
    [...row.cells].forEach((cell, i) => {
      if (headings[i] && (i || /^[\d.,]+$/.test(cell.textContent))) cell.dataset.heading = headings[i];
    });
}
